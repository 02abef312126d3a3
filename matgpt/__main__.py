"""python -m matgpt COMMAND: what can be done from a terminal."""

import sys

from . import __version__
from .commands.parser import make_parser


def main(argv=None):
    parser = make_parser(__version__)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's output has no such method
        sys.stdout.reconfigure(line_buffering=True, errors="replace")  # a terminal may lack some characters
    with args.parser.one_line():
        # imported only now: PyTorch takes longer to load than --help should take to answer
        from .commands import train, use

        command = getattr(train if args.command in ("train", "nest") else use, f"run_{args.command}")
        command(args)


if __name__ == "__main__":
    main()
