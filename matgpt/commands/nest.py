"""python -m matgpt nest: nest a GPT-2 that is trained already, from a folder of transformers or of matgpt."""

import sys
from pathlib import Path

from ..config import parse_doll
from ..files.checkpoint import check_vocabulary, held, load
from ..files.gpt2 import import_gpt2, is_gpt2
from ..files.gpt2_tokenizer import read_tokenizer
from ..text.corpus import load_text, split
from ..text.token_files import load_tokens
from ..training.nesting import nest
from ..training.run import DivergedError
from .parser import Parser, add_run, make_device, printing, set_threads
from .train import Log, keep


def make_parser():
    parser = Parser("nest", "Nest a GPT-2 that is trained already; keep the model, history and a plot.")
    add = parser.add_argument
    add("folder", help="a GPT-2 of transformers (with its tokenizer.json), or a model that matgpt kept")
    add("--nesting", nargs="+", required=True, metavar="DOLL", help="widths, or width,heads,layers[,inner]")
    add("--corpus", required=True, help="a text that is known, a file, or a folder of the data command")
    add_run(parser, batch_size=6, lr=0.256)
    return parser


def read_all(args):
    """(model, train_ids, val_ids, tokenizer): ids by the model's own tokenizer, or those of a data folder."""
    model, tokenizer = (import_gpt2(args.folder), None) if is_gpt2(args.folder) else load(args.folder)
    if Path(args.corpus).is_dir():
        train_ids, val_ids, tokenizer = load_tokens(args.corpus)
        check_vocabulary(model.config, tokenizer, args.corpus)
        return model, train_ids, val_ids, tokenizer
    tokenizer = tokenizer or read_tokenizer(args.folder)
    check_vocabulary(model.config, tokenizer, args.folder)
    return model, *split(tokenizer.encode(load_text(args.corpus))), tokenizer


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    printing(line_buffering=True)
    args.steps = 2000 if args.steps is None and args.flops is None else args.steps
    try:
        if not args.force and (other := held(Path(args.out))):
            raise ValueError(f"--out {args.out} already holds {other}: name another folder, or --force")
        set_threads(args.threads)
        model, train_ids, val_ids, tokenizer = read_all(args)
        nesting, model = [parse_doll(doll) for doll in args.nesting], model.to(make_device(args.device))
        same = ("steps", "flops", "batch_size", "lr", "seed", "eval_interval")
        options = {name: getattr(args, name) for name in same} | {"on_evaluation": Log(args)}
        model = nest(model, nesting, train_ids, val_ids, progress=sys.stderr.isatty(), **options)
        keep(Path(args.out), model, tokenizer, model.history)
    except (ValueError, OSError, DivergedError) as error:
        parser.error(str(error))
    print(f"kept in {args.out}")
