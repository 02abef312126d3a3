"""What the commands share: errors of one line, and help that names defaults."""

import argparse

import torch


class Parser(argparse.ArgumentParser):
    """A parser of `python -m matgpt NAME`."""

    def __init__(self, name, description):
        super().__init__(prog=f"python -m matgpt {name}", description=description, formatter_class=Formatter)

    def error(self, message):
        """One line instead of the usage: what was wrong is the last thing on the screen."""
        self.exit(2, f"{self.prog}: error: {message}\n")


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
