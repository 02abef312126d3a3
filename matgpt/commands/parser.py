"""What the commands share: errors of one line, help that names defaults, the options of a run."""

import argparse
import contextlib
import os
import sys

import torch

from ..sizes import Size

CORPUS = "a text that is known, a file, or a folder of the data command"
DOLL = "a width, or width,heads,layers[,inner]"


def parse_doll(text):
    """A doll as command lines name it: a width, or what `Size.parse` reads."""
    return int(text) if text.isdecimal() else Size.parse(text)


class Parser(argparse.ArgumentParser):
    """A parser of `python -m matgpt NAME`."""

    def __init__(self, name, description):
        super().__init__(prog=f"python -m matgpt {name}", description=description, formatter_class=Formatter)

    def error(self, message):
        """One line instead of the usage: what was wrong is the last thing on the screen."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    @contextlib.contextmanager
    def one_line(self, *more, interrupted="interrupted"):
        """What a user can mend (a loss that diverged too) ends the program in one line; so does Ctrl-C.

        more: further errors of that kind; interrupted: the line for Ctrl-C.
        """
        try:
            yield
        except (ValueError, OSError, ImportError, FloatingPointError) as error:
            self.error(str(error))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or "memory" in str(error):
                self.error("out of memory: choose a smaller model, or smaller batches where there are any")
            if not isinstance(error, more):
                raise
            self.error(str(error))
        except KeyboardInterrupt:
            sys.exit(interrupted)


def add_run(parser, batch_size, lr):
    """The options that every command with a run of training has; batch_size and lr: what is the default."""
    add = parser.add_argument
    add("--out", required=True, help="folder for the model, its history and a plot")
    add("--force", action="store_true", help="replace another model that --out holds")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help="the budget in steps (default: 2000)")
    budget.add_argument("--flops", type=float, help="the budget in FLOPs, the optimizer's own among them")
    add(
        "--batch-size",
        type=int,
        default=batch_size,
        help="blocks that the largest doll reads in a step, over all processes",
    )
    add("--lr", type=float, help=f"peak learning rate (default: {lr} / width)")
    add("--dtype", choices=["float32", "bfloat16"], help="of matrix products (default: bfloat16 on a GPU)")
    add("--seed", type=int, default=0, help="of all that is random")
    add("--eval-interval", type=int, help="steps between evaluations (default: a tenth of the budget)")
    add("--device", help="where to train (default: cuda if there is one, else cpu)")
    add("--threads", type=int, help="CPU threads (default: what PyTorch finds)")


def make_device(name):
    """The device of that name, or the best there is; under torchrun each process has a GPU of its own."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda":
            index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
            torch.cuda.set_device(device := torch.device("cuda", index))
        probe = torch.zeros(1, device=device)
        probe.cpu()  # "meta" has no numbers to give
        return probe.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None


def printing(**how):
    """How standard output prints from now on, where it can be told (a notebook's cannot)."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(**how)


def set_threads(n):
    """PyTorch's threads, or as many as it finds for None. ValueError outside 1 to 1024: 100,000 crash it."""
    if n is not None:
        if not 1 <= n <= 1024:
            raise ValueError(f"--threads {n}: allowed are 1 to 1024")
        torch.set_num_threads(n)


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        """Where the default is None, the help itself says what then happens."""
        return action.help if action.default is None else super()._get_help_string(action)
