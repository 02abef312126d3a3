"""python -m matgpt generate FOLDER: text from a model that `save` kept, printed as it is written."""

import argparse
import sys

import torch

from ..config import parse_doll
from ..files.checkpoint import load
from ..generation.writing import stream


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m matgpt generate", description=__doc__.partition(": ")[2])
    add = parser.add_argument
    add("folder", help="where the model and its tokenizer were saved")
    add("--size", help="the doll that writes, a width or width,heads,layers[,inner] (default: the full one)")
    add("--prompt", default="\n", help="the text to continue (default: a line break)")
    add("--tokens", type=int, default=200, help="how many to write (default: 200)")
    add("--temperature", type=float, default=0.8, help="0 always takes the likeliest token (default: 0.8)")
    add("--top-k", type=int, help="draw from this many likeliest tokens only")
    add("--top-p", type=float, help="draw from the likeliest tokens that hold this probability only")
    add("--seed", type=int, help="repeat a text")
    add("--draft-size", help="a smaller doll that proposes tokens, for --size to check")
    add("--draft-tokens", type=int, default=4, help="proposals at a time (default: 4)")
    add(
        "--threads",
        type=int,
        default=1,
        help="PyTorch threads; a token at a time has no work for more (default: 1)",
    )
    args = parser.parse_args(argv)
    try:
        torch.set_num_threads(args.threads)
        model, tokenizer = load(args.folder)
        if tokenizer is None:
            raise ValueError(
                f"{args.folder} holds no tokenizer: save(model, folder, tokenizer=tokenizer) keeps it"
            )
        generator = torch.Generator()
        generator.seed() if args.seed is None else generator.manual_seed(args.seed)
        pieces = stream(
            model,
            tokenizer,
            args.prompt,
            args.tokens,
            size=args.size and parse_doll(args.size),
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            generator=generator,
            draft_size=args.draft_size and parse_doll(args.draft_size),
            draft_tokens=args.draft_tokens,
        )
    except (ValueError, RuntimeError, OSError) as error:
        parser.error(str(error))
    sys.stdout.reconfigure(errors="replace")  # a terminal may not know every character
    try:
        print(args.prompt, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
    except KeyboardInterrupt:
        sys.exit("\ninterrupted")
