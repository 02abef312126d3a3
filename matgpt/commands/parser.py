"""The options of every command, read before PyTorch is loaded, and errors of one line.

Options that a function takes have no default here: what is not given is not passed on. The help names its
default.
"""

import argparse
import ast
import os
import re
import sys
import warnings
from contextlib import contextmanager

from ..sizes import Size

CORPUS = "a known text, a file, or a folder made by the data command"
DOLL = "a width, or width,heads,layers[,inner]"
BENCHMARKS = {
    "quality": "one nested run beside its full model alone, its family apart and twins, at one cost",
    "speed": "time and memory of training, forward passes and generation",
    "generate": "tokens per second: cached, drafted, and beside transformers",
    "embeddings": "finding functions by what they do, with embeddings cut at every size",
}
OTHER_NAMES = {  # arguments of the API whose option has another name
    "checkpoint_dir": "out",
    "max_blocks": "eval_blocks",
    "max_new_tokens": "tokens",
    "vocab_size": "vocab",
}
SIZE = re.compile(r"Size\(n_embd=(\d+), n_head=(\d+), n_layer=(\d+), n_inner=(\d+|\([\d, ]+\))\)")


def parse_doll(text):
    """Read a doll as command lines name it: a width, or what `Size.parse` reads."""
    try:
        return int(text) if text.isdecimal() else Size.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(error) from None


def folder(text):
    """Read the name of a folder; an empty one would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("'' names no folder")
    return text


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """Exit with one line, without the usage: what is wrong is the last thing on the screen."""
        self.exit(2, f"{self.prog}: error: {self.translated(message)}\n")

    def translated(self, message):
        """Write sizes and arguments of the API as a command line does: 32,4,4 and --batch-size=0."""

        def as_typed(match):
            return str(Size(*map(ast.literal_eval, match.groups())))

        def as_option(match):
            option = "--" + OTHER_NAMES.get(match[1], match[1]).replace("_", "-")
            return f"{option}=" if option in self._option_string_actions else match[0]

        message = SIZE.sub(as_typed, " ".join(message.split()))
        message = message.replace("pass overwrite=True", "--force").replace("model_or_path", "FOLDER")
        message = re.sub(r" \(config\.\w+\([^)]*\)[^)]*\)", "", message)  # a call of the API as advice
        return re.sub(r"(?<![\w/.-])([a-z_]+)=", as_option, message)

    @contextmanager
    def one_line(self):
        """Print warnings in one line; exit with one line for Ctrl-C and for errors that the user can mend."""
        formatting = warnings.formatwarning
        warnings.formatwarning = lambda text, *_, **__: f"warning: {self.translated(str(text))}\n"
        try:
            yield
        except KeyboardInterrupt:
            sys.exit("\ninterrupted")
        except BrokenPipeError:  # `| head` has closed the pipe; nothing more is flushed to it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            out_of_memory = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)
            if isinstance(error, (MemoryError, out_of_memory)):
                self.error("out of memory: choose a smaller model, or smaller batches where there are any")
            if isinstance(error, (ValueError, OSError, ImportError, FloatingPointError, NotImplementedError)):
                self.error(str(error))
            raise
        finally:
            warnings.formatwarning = formatting


def make_parser(version):
    """The parser of the whole program; its result names the `command` and holds the `parser` of that."""
    parser = Parser(prog="python -m matgpt", description="One GPT that contains smaller GPTs.")
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add_command(name, text):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(parser=command)
        return command.add_argument

    add = add_command("train", "train a nested model, on one process or under torchrun")
    add("--corpus", default="python-docs", help=f"{CORPUS} (default: %(default)s)")
    add("--nesting", nargs="+", type=parse_doll, metavar="DOLL", help=f"each {DOLL} (default: 32 64 128)")
    add("--variant", choices=["nested", "embeddings"], help="cut all, or the readout (default: nested)")
    add("--n-embd", type=int, help="width of the full model (default: that of the widest doll)")
    add("--n-head", type=int, help="its heads (default: the most that a doll names, or 4)")
    add("--n-layer", type=int, help="its layers (default: the most that a doll names, or 4)")
    add("--block-size", type=int, help="longest context, in tokens (default: 64)")
    add("--dropout", type=float, help="probability of dropping an activation (default: 0.0)")
    add("--tokenizer", choices=["char", "bpe"], default="char", help="of a text (default: %(default)s)")
    add("--vocab", type=int, default=1024, help="tokens that bpe learns (default: %(default)s)")
    add("--optimizer", choices=["muon", "adamw"], help="for the matrices of the blocks (default: muon)")
    add("--loss-weights", nargs="+", type=float, metavar="WEIGHT", help="one a doll (default: all equal)")
    add("--compile", action="store_true", help="compile the model: slow at first, faster steps on a GPU")
    add("--resume", action="store_true", help="go on with the run in --out; with more --steps, extend it")
    add_run(add, "CORPUS", batch_size=12, lr=1.024, share=0.2, eval_blocks="for a tenth of the run")

    add = add_command("nest", "nest a trained GPT-2")
    add("folder", help="a GPT-2 of transformers with its tokenizer.json, or a saved model")
    add("--nesting", nargs="+", required=True, type=parse_doll, metavar="DOLL", help=f"each {DOLL}")
    add("--corpus", required=True, help=CORPUS)
    add_run(add, "FOLDER", batch_size=6, lr=0.256, share=0.3, eval_blocks=256)

    add = add_command("generate", "write text with any doll of a saved model")
    add("folder", help="a saved model with its tokenizer")
    add("--size", type=parse_doll, help=f"the doll that writes, {DOLL} (default: the full one)")
    add("--prompt", default="\n", help="the text to continue (default: a newline)")
    add("--tokens", type=int, default=200, help="how many to write (default: %(default)s)")
    add("--temperature", type=float, default=0.8, help="0 is greedy (default: %(default)s)")
    add("--top-k", type=int, help="draw only from this many likeliest tokens (default: from all)")
    add("--top-p", type=float, help="draw only from the likeliest of this probability in sum (default: 1)")
    add("--seed", type=int, help="repeat a text (default: another text each time)")
    add("--draft-size", type=parse_doll, help="a smaller doll that proposes tokens (default: none)")
    add("--draft-tokens", type=int, default=4, help="proposals at a time (default: %(default)s)")
    add("--threads", type=int, default=1, help="one token at a time has no work for more than one")

    add = add_command("slice", "save one doll as a model of its own")
    add("folder", help="a saved model")
    add("--size", required=True, type=parse_doll, help=f"the doll to cut out, {DOLL}")
    add("--out", required=True, type=folder, help="folder for the doll")
    add("--gpt2", action="store_true", help="write a GPT-2 of transformers")
    add("--force", action="store_true", help="replace what --out holds")

    add = add_command("eval", "measure the loss of every doll")
    add("folder", help="a saved model, or a GPT-2 of transformers with its tokenizer.json")
    add("--corpus", help=f"{CORPUS}; its validation part is read (default: what it was trained on)")
    add("--eval-blocks", type=int, help="how many blocks to read, evenly spaced (default: all)")
    add_machine(add, "as PyTorch chooses")

    add = add_command("data", "turn texts of any size into token files")
    add("paths", nargs="+", help="UTF-8 texts, folders of documents, .jsonl and .parquet files, known texts")
    add("--pattern", default="*", help='of the files in folders, such as "*.py" (default: all)')
    add("--column", default="text", help="of .jsonl and .parquet files (default: %(default)s)")
    add("--tokenizer", choices=["bpe", "char"], default="bpe", help="(default: %(default)s)")
    add("--vocab", type=int, default=4096, help="tokens that bpe learns (default: %(default)s)")
    add("--out", required=True, type=folder, help="folder to make; it must not exist yet")

    add = add_command("benchmark", "repeat the figures of the README and the log")
    text = "; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items())
    add("name", choices=BENCHMARKS, metavar="NAME", help=text)
    add("options", nargs=argparse.REMAINDER, help="those of this benchmark: NAME --help lists them")

    return parser


def add_run(add, source, batch_size, lr, share, eval_blocks):
    """Add the options of every command that trains; all else are the defaults that the help names."""
    add("--out", type=folder, help=f"folder for the results (default: runs/{source}-NESTING)")
    add("--force", action="store_true", help="replace what --out holds")
    add("--steps", type=int, help="the budget in steps (default: 2000)")
    add("--flops", type=float, help="the budget in FLOPs instead, the optimizer's included")
    add("--batch-size", type=int, help=f"blocks in a step, over all processes (default: {batch_size})")
    add("--lr", type=float, help=f"peak learning rate (default: {lr} / width)")
    add("--share", type=float, help=f"part of the FLOPs for all smaller dolls (default: {share})")
    add("--dtype", choices=["float32", "bfloat16"], help="of matrix products (default: bfloat16 on a GPU)")
    add("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    add("--eval-interval", type=int, help="steps between evaluations (default: a tenth of the budget)")
    add("--eval-blocks", type=int, help=f"blocks that each evaluation reads (default: {eval_blocks})")
    add_machine(add, "by the width of the model")


def add_machine(add, threads):
    add("--device", help="where to compute (default: cuda if there is one, else cpu)")
    add("--threads", type=int, help=f"CPU threads (default: {threads})")
