"""python -m matgpt generate: text from a model that `save` kept, printed as it is written."""

import os
import sys

import torch

from ..files.checkpoint import load
from ..generation.writing import stream
from .parser import DOLL, Parser, parse_doll, printing, set_threads


def make_parser():
    parser = Parser("generate", __doc__.partition(": ")[2])
    add = parser.add_argument
    add("folder", help="where the model and its tokenizer were saved")
    add("--size", help=f"the doll that writes, {DOLL} (default: the full one)")
    add("--prompt", default="\n", help="the text to continue")
    add("--tokens", type=int, default=200, help="how many to write")
    add("--temperature", type=float, default=0.8, help="0 always takes the likeliest token")
    add("--top-k", type=int, help="draw from this many likeliest tokens only")
    add("--top-p", type=float, help="draw from the likeliest tokens that hold this probability only")
    add("--seed", type=int, help="repeat a text")
    add("--draft-size", help="a smaller doll that proposes tokens, for --size to check")
    add("--draft-tokens", type=int, default=4, help="proposals at a time")
    add("--threads", type=int, default=1, help="of PyTorch; a token at a time has no work for more")
    return parser


def run(args):
    if not 0 <= (args.seed or 0) < 2**64:
        raise ValueError(f"--seed {args.seed}: allowed are 0 to 2**64 - 1")
    set_threads(args.threads)
    model, tokenizer = load(args.folder)
    if tokenizer is None:
        raise ValueError(
            f"{args.folder} holds no tokenizer: save(model, folder, tokenizer=tokenizer) keeps it"
        )
    generator = torch.Generator()
    generator.seed() if args.seed is None else generator.manual_seed(args.seed)
    sampling = dict(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, generator=generator)
    size, draft_size = (text and parse_doll(text) for text in (args.size, args.draft_size))
    draft = dict(draft_size=draft_size, draft_tokens=args.draft_tokens)
    pieces = stream(model, tokenizer, args.prompt, args.tokens, size=size, **sampling, **draft)
    printing(errors="replace")  # a terminal may not know every character
    print(args.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    with parser.one_line(RuntimeError, interrupted="\ninterrupted"):
        try:
            run(args)
        except BrokenPipeError:  # `| head` has seen enough; nothing more is flushed to it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
