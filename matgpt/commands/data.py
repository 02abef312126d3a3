"""python -m matgpt data: turn texts, of any size, into token files."""

from ..text.corpus import CORPORA
from ..text.token_files import prepare
from .parser import Parser


def main(arguments=None):
    parser = Parser(
        "data",
        "Turn texts, of any size, into memory-mapped token files. Validation is one document in a hundred, "
        "by a hash of its content, and the last tenth of a text that is named itself.",
    )
    add = parser.add_argument
    add(
        "paths",
        nargs="+",
        help="UTF-8 texts; folders, whose files are documents; .jsonl and .parquet files, whose rows are; "
        f"packed (.gz, .zst) or not; or a corpus: {', '.join(CORPORA[1:])}",
    )
    add("--pattern", default="*", help='of the files in folders, such as "*.py"')
    add("--column", default="text", help="of .jsonl and .parquet files")
    add("--tokenizer", choices=("bpe", "char"), default="bpe", help="byte pairs or characters")
    add("--vocab", type=int, default=4096, help="tokens to learn, at least 256; bpe only")
    add("--out", required=True, help="folder to make; it must not exist yet")
    args = parser.parse_args(arguments)
    with parser.one_line(NotImplementedError):
        meta = prepare(args.paths, args.out, args.tokenizer, args.vocab, args.pattern, args.column)
    print(
        f"{args.out}: a vocabulary of {meta['vocab_size']:,}, {meta['n_train']:,} tokens for training and "
        f"{meta['n_val']:,} for validation"
    )
