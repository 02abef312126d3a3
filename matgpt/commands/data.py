"""python -m matgpt data: turn text files, of any size, into token files."""

import argparse

from ..text.token_files import prepare


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m matgpt data",
        description="Turn UTF-8 text files, of any size, into memory-mapped token files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("files", nargs="+", help="text files, taken as one text in this order")
    parser.add_argument(
        "--tokenizer", choices=("bpe", "char"), default="bpe", help="byte pairs or characters"
    )
    parser.add_argument("--vocab", type=int, default=4096, help="tokens to learn, at least 256; bpe only")
    parser.add_argument("--out", required=True, help="folder to make; it must not exist yet")
    options = parser.parse_args(arguments)
    if options.vocab < 256:
        parser.error(f"argument --vocab: {options.vocab} must be at least 256, one token for each byte")
    try:
        meta = prepare(options.files, options.out, options.tokenizer, options.vocab)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(
        f"{options.out}: {meta['n_tokens']:,} tokens of a vocabulary of {meta['vocab_size']:,}, the first "
        f"{meta['n_train']:,} for training"
    )
