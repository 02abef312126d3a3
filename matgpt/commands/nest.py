"""python -m matgpt nest: nest a GPT-2 that is trained already, from a folder of transformers or of matgpt."""

from pathlib import Path

from ..files.checkpoint import check_vocabulary, load
from ..files.gpt2 import import_gpt2, is_gpt2
from ..files.gpt2_tokenizer import read_tokenizer
from ..text.corpus import load_text, split
from ..text.token_files import load_tokens
from ..training.nesting import nest
from .parser import CORPUS, DOLL, Parser, add_run, parse_doll, printing
from .train import begin, keep


def make_parser():
    parser = Parser("nest", "Nest a GPT-2 that is trained already; keep the model, history and a plot.")
    add = parser.add_argument
    add("folder", help="a GPT-2 of transformers (with its tokenizer.json), or a model that matgpt kept")
    add("--nesting", nargs="+", required=True, metavar="DOLL", help=f"each {DOLL}")
    add("--corpus", required=True, help=CORPUS)
    add_run(parser, batch_size=6, lr=0.256)
    return parser


def read_all(args):
    """(model, train_ids, val_ids, tokenizer): ids by the model's own tokenizer, or those of a data folder."""
    model, tokenizer = (import_gpt2(args.folder), None) if is_gpt2(args.folder) else load(args.folder)
    folder = Path(args.corpus).is_dir()
    if not tokenizer and (not folder or Path(args.folder, "tokenizer.json").exists()):
        tokenizer = read_tokenizer(args.folder)
    if not folder:
        check_vocabulary(model.config, tokenizer, args.folder)
        return model, *split(tokenizer.encode(load_text(args.corpus))), tokenizer
    train_ids, val_ids, theirs = load_tokens(args.corpus)
    check_vocabulary(model.config, theirs, args.corpus)
    if tokenizer and tokenizer != theirs:
        raise ValueError(
            f"the tokens of {args.corpus} are not those of {args.folder}: encode by its tokenizer"
        )
    return model, train_ids, val_ids, theirs


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    printing(line_buffering=True)
    with parser.one_line():
        device, options = begin(args)
        model, train_ids, val_ids, tokenizer = read_all(args)
        nesting = [parse_doll(doll) for doll in args.nesting]
        model = nest(model.to(device), nesting, train_ids, val_ids, **options)
        keep(args, model, tokenizer, model.history, val_ids)
