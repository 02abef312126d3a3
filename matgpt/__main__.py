"""python -m matgpt COMMAND: what can be done from a terminal."""

import importlib
import sys

COMMANDS = {
    "train": "train a nested model, on one process or under torchrun",
    "nest": "nest a GPT-2 that is trained already",
    "generate": "write text with any doll of a model that was kept",
    "data": "turn text files, of any size, into token files",
    "benchmark": "repeat the figures of the README and the log",
}


def main(argv=None):
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        importlib.import_module(f".commands.{name}", __package__).main(rest)
    elif name in ("-h", "--help"):
        print("python -m matgpt COMMAND ...   (COMMAND --help says more)\n")
        print("\n".join(f"  {name:12}{text}" for name, text in COMMANDS.items()))
    else:
        sys.exit(f"python -m matgpt: there is no command {name!r}: known are {', '.join(COMMANDS)}")


if __name__ == "__main__":
    main()
