"""The options of every command, read before PyTorch is loaded.

An option that is not given is not passed on, so its default is that of the function that takes it.
"""

import argparse
import re

from ..sizes import Size, positive

MODEL = "--nesting --variant --n-embd --n-head --n-layer --block-size --dropout --tokenizer --vocab"
TRAIN = "--compile --optimizer --loss-weights --resume"
STEPS = "--steps --flops --batch-size --lr --share --dtype --seed --eval-interval --eval-blocks"
RUN = f"--out --force {STEPS} --device --threads"
WRITING = "--prompt --tokens --size --temperature --top-k --top-p --seed --draft-size --draft-tokens"
COMMANDS = {  # name: what it does, what it needs, what it takes
    "train": ("train a nested model", "", f"--corpus {MODEL} {RUN} {TRAIN}"),
    "nest": ("nest a trained GPT-2", "folder --nesting --corpus", RUN),
    "generate": ("write text with any doll of a saved model", "folder", f"{WRITING} --threads"),
    "slice": ("save one doll as a model of its own", "folder --size --out", "--gpt2 --force"),
    "eval": ("measure the loss of every doll", "folder", "--corpus --eval-blocks --device --threads"),
    "data": ("turn texts into token files", "paths --out", "--pattern --column --tokenizer --vocab"),
    "benchmark": ("repeat the figures of the README and the log", "name", "options"),
}
DEFAULTS = {"train": dict(nesting=[32, 64, 128], corpus="python-docs"), "generate": dict(threads=1)}
OTHER_NAMES = {"out": "checkpoint_dir", "eval_blocks": "max_blocks"}  # in the API


def doll(text):
    """Read a doll as command lines name it: a width, or what `Size.parse` reads."""
    try:
        return positive("a width", int(text)) if text.isdecimal() else Size.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(error) from None


def thread_count(text):
    """Read a number of CPU threads. PyTorch crashes on 100,000."""
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text}: allowed are 1 to 1024")
    return int(text)


OPTIONS = {
    "folder": dict(help="a saved model or, except for slice, a GPT-2 with its tokenizer.json"),
    "paths": dict(nargs="+", help="UTF-8 texts, folders of documents, .jsonl or .parquet files, known texts"),
    "name": dict(choices=["quality", "speed", "generate", "embeddings"], help="NAME --help describes it"),
    "options": dict(nargs=argparse.REMAINDER, help="those of the benchmark"),
    "--corpus": dict(help="known text, file or token files (default: python-docs; eval: of its training)"),
    "--tokenizer": dict(choices=["char", "bpe"], help="of a text (default: char; data: bpe)"),
    "--vocab": dict(type=int, dest="vocab_size", help="tokens that bpe learns (default: 1024; data: 4096)"),
    "--pattern": dict(help='of the files in folders, such as "*.py" (default: all)'),
    "--column": dict(help="of .jsonl and .parquet files (default: text)"),
    "--nesting": dict(nargs="+", type=doll, help="widths, or width,heads,layers[,inner] (train: 32 64 128)"),
    "--variant": dict(choices=["nested", "embeddings"], help="cut all, or the readout (default: nested)"),
    "--n-embd": dict(type=int, help="width of the full model (default: the largest that a doll names)"),
    "--n-head": dict(type=int, help="its heads (default: the most that a doll names; a width names 4)"),
    "--n-layer": dict(type=int, help="its layers (default: the most that a doll names; a width names 4)"),
    "--block-size": dict(type=int, help="longest context, in tokens (default: 64)"),
    "--dropout": dict(type=float, help="probability of dropping an activation (default: 0)"),
    "--compile": dict(action="store_true", help="slow at first, faster steps on a GPU"),
    "--size": dict(type=doll, help="a doll: width, or width,heads,layers[,inner] (generate: the full one)"),
    "--out": dict(help="folder to write (default: runs/NAME-NESTING)"),
    "--force": dict(action="store_true", dest="overwrite", help="replace what --out holds"),
    "--gpt2": dict(action="store_true", help="write a GPT-2 of transformers"),
    "--steps": dict(type=int, help="the budget in steps (default: 2000)"),
    "--flops": dict(type=float, help="the budget in FLOPs instead, the optimizer's included"),
    "--batch-size": dict(type=int, help="blocks in a step, over all processes (default: 12; nest: 2)"),
    "--lr": dict(type=float, help="peak learning rate (default: 1.024 / width; nest: a quarter of that)"),
    "--share": dict(type=float, help="small dolls' part of FLOPs (default: 0.15, readouts 0.02; nest: 0.5)"),
    "--optimizer": dict(choices=["muon", "adamw"], help="for the matrices of the blocks (default: muon)"),
    "--loss-weights": dict(nargs="+", type=float, help="one number a doll (default: all equal)"),
    "--dtype": dict(choices=["float32", "bfloat16"], help="of matrix products (default: bfloat16 on a GPU)"),
    "--seed": dict(type=int, help="of everything random (default: 0; generate: a new text each time)"),
    "--eval-interval": dict(type=int, help="steps between evaluations (default: a tenth of the budget)"),
    "--eval-blocks": dict(type=int, help="blocks to read (train: for a tenth of the time; nest: 256)"),
    "--resume": dict(action="store_true", help="continue the run in --out, or extend it by more --steps"),
    "--device": dict(help="where to compute (default: cuda if there is one, else cpu)"),
    "--threads": dict(type=thread_count, help="of the CPU (default: by the model's width; generate: 1)"),
    "--prompt": dict(help="the text to continue (default: a newline)"),
    "--tokens": dict(type=int, default=200, dest="max_new_tokens", help="how many to write (default: 200)"),
    "--temperature": dict(type=float, default=0.8, help="0 is greedy (default: 0.8)"),
    "--top-k": dict(type=int, help="draw only from this many likeliest tokens (default: from all)"),
    "--top-p": dict(type=float, help="draw only from the likeliest of this probability in sum (default: 1)"),
    "--draft-size": dict(type=doll, help="a smaller doll that proposes tokens (default: none)"),
    "--draft-tokens": dict(type=int, help="proposals at a time (default: 4)"),
}


def make_parser(version):
    """Return the parser of the program; what it reads names the `command` and holds the `parser` of that."""
    parser = Parser(prog="python -m matgpt", description="One GPT that contains smaller GPTs.")
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (text, required, optional) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(parser=command, **DEFAULTS.get(name, {}))
        for option in f"{required} {optional}".split():
            action = command.add_argument(option, **OPTIONS[option])
            action.required |= option in required.split()
    return parser


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """Exit with one line, without the usage: what is wrong is the last thing on the screen."""
        self.exit(2, f"{self.prog}: error: {self.translated(message)}\n")

    def translated(self, message):
        """Write sizes and arguments of the API as a command line does: 32,4,4,128 and --batch-size=0."""
        message = " ".join(message.split()).replace("model_or_path", "FOLDER")
        message = re.sub(r" \(config\.\w+\([^)]*\)[^)]*\)", "", message)  # a call of the API as advice
        size = r"Size\(\w+=(\d+), \w+=(\d+), \w+=(\d+), \w+=\(?([\d, ]+)\)?\)"
        message = re.sub(size, lambda m: f"{m[1]},{m[2]},{m[3]},{m[4].replace(', ', '/')}", message)
        for action in self._actions:
            if action.option_strings:
                names = f"{action.dest}|{OTHER_NAMES.get(action.dest, action.dest)}"
                message = re.sub(rf"(?<![\w/.-])({names})(=True|(?==))", action.option_strings[0], message)
        return message
