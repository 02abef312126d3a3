"""The commands that do not train, and what all commands share."""

import inspect
import json
import os
from importlib import import_module
from pathlib import Path

import torch

from ..files.atomic import as_path
from ..files.checkpoint import check_vocabulary, load, save
from ..files.gpt2 import export_gpt2, import_gpt2, is_gpt2
from ..generation.writing import stream
from ..measure.shapes import frontier
from ..text.batches import loss_unit
from ..text.corpus import load_text, split
from ..text.token_files import load_tokens, prepare
from ..text.tokenizer import load_tokenizer
from ..training.loop import Settings
from .parser import BENCHMARKS, Parser


def run_generate(args):
    if not 0 <= (args.seed or 0) < 2**64:
        raise ValueError(f"--seed {args.seed}: allowed are 0 to 2**64 - 1")
    set_threads(args.threads)
    model, tokenizer = load(args.folder)
    if tokenizer is None:
        raise ValueError(f"{args.folder} holds no tokenizer, so its model cannot read or write text")
    generator = torch.Generator()
    generator.seed() if args.seed is None else generator.manual_seed(args.seed)
    options = given(model.generate, args) | dict(generator=generator)
    pieces = stream(model, tokenizer, args.prompt, args.tokens, **options)
    print(args.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def run_slice(args):
    model, tokenizer = load(args.folder)
    doll = model.slice(args.size)
    if args.gpt2:
        export_gpt2(doll, args.out, tokenizer=tokenizer, overwrite=args.force)
    else:
        save(doll, args.out, tokenizer, overwrite=args.force)
    print(f"the doll {doll.config.full} with {doll.num_params():,} parameters: saved in {args.out}")


def run_eval(args):
    args.corpus = args.corpus or read_record(args.folder).get("corpus")
    if args.corpus is None:
        raise ValueError(f"no history.json in {args.folder} says what it was trained on: give --corpus")
    set_threads(args.threads)
    model, _, val_ids, tokenizer = read_all(args)
    points = frontier(model.to(make_device(args.device)), val_ids, max_blocks=args.eval_blocks)
    print(f"validation part of {args.corpus}; losses in {loss_unit(tokenizer, val_ids)}")
    print(f"{'doll':>20}  {'parameters':>12}  {'FLOPs a token':>14}  {'loss':>7}")
    for p in points:
        print(f"{p.size!s:>20}  {p.params:>12,}  {p.flops:>14,}  {p.loss:>7.4f}")


def run_data(args):
    meta = prepare(args.paths, args.out, args.tokenizer, args.vocab, args.pattern, args.column)
    print(
        f"{args.out}: a vocabulary of {meta['vocab_size']:,}, {meta['n_train']:,} tokens for training and "
        f"{meta['n_val']:,} for validation"
    )


def run_benchmark(args):
    module = import_module(f"matgpt.benchmarks.{args.name}")
    parser = Parser(prog=f"python -m matgpt benchmark {args.name}", description=BENCHMARKS[args.name])
    parser.add_argument("--threads", type=int, default=1, help="one never stalls on a busy machine")
    module.add_arguments(parser)
    options = parser.parse_args(args.options)
    with parser.one_line():
        set_threads(options.threads)
        module.run(options)


def given(function, args):
    """Choose the options that were given and that `function` takes by name."""
    names = {*inspect.signature(function).parameters}
    if "options" in names:  # what it passes on to Settings
        names |= {*inspect.signature(Settings).parameters}
    return {name: value for name, value in vars(args).items() if name in names and value is not None}


def set_threads(n):
    """Set PyTorch's threads, unless n is None. ValueError outside 1 to 1024: 100,000 crash it."""
    if n is not None:
        if not 1 <= n <= 1024:
            raise ValueError(f"--threads {n}: allowed are 1 to 1024")
        torch.set_num_threads(n)


def make_device(name):
    """The device of that name, or the best one; under torchrun each process has a GPU of its own."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda":
            index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
            torch.cuda.set_device(device := torch.device("cuda", index))
        probe = torch.zeros(1, device=device)
        probe.cpu()  # "meta" has no numbers to give
        return probe.device
    except (RuntimeError, AssertionError):
        raise ValueError(f"--device {name}: PyTorch has no such device on this machine") from None


def read_all(args):
    """Load args.folder and encode args.corpus with its tokenizer: (model, train_ids, val_ids, tokenizer)."""
    model, tokenizer = (import_gpt2(args.folder), None) if is_gpt2(args.folder) else load(args.folder)
    token_files = Path(args.corpus).is_dir()
    if not tokenizer and (not token_files or Path(args.folder, "tokenizer.json").exists()):
        tokenizer = load_tokenizer(args.folder)
    if not token_files:
        check_vocabulary(model.config, tokenizer, args.folder)
        return model, *split(tokenizer.encode(load_text(args.corpus))), tokenizer
    train_ids, val_ids, theirs = load_tokens(args.corpus)
    check_vocabulary(model.config, theirs, args.corpus)
    if tokenizer and tokenizer != theirs:
        raise ValueError(f"the tokens of {args.corpus} are not those of {args.folder}: use its tokenizer")
    return model, train_ids, val_ids, theirs


def read_record(folder):
    """Read what a run noted in history.json; {} if there is none."""
    try:
        record = json.loads((as_path(folder) / "history.json").read_bytes())
        return record if isinstance(record["files"], dict) else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
