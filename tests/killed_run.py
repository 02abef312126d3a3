"""A run that is killed again and again, for test_resume: python -m tests.killed_run FOLDER.

Each attempt is a fork of a process that did its imports once. Prints how each attempt ended.
"""

import os
import signal
import sys
import time
from itertools import count
from pathlib import Path

import torch
import torch._dynamo  # the first step of an optimizer would import it, in every fork

from matgpt import save
from tests.test_resume import run


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_in(name, call, when):
    """Die "before" or "after" the call-th time that a state is synced to the disk or renamed."""
    real, calls = getattr(os, name), count(1)

    def function(*args):
        number = next(calls)
        if number == call and when == "before":
            die()
        real(*args)
        if number == call:
            die()

    setattr(os, name, function)


def attempt(folder, kill=None, after=None, **settings):
    """Fork and run to the end, or to death; returns the exit code."""
    child = os.fork()
    if child == 0:
        try:
            if kill:
                die_in(*kill)
            model, history = run(**settings)
            save(model, folder)
            history.save(folder / "history.json")
            os._exit(0)
        finally:
            os._exit(1)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    never, killed = (Path(sys.argv[1]) / name for name in ("never", "killed"))
    attempt(never)
    state = dict(checkpoint_dir=killed, resume=True)
    for call in (1, 2):
        for kill in (("fsync", call, "before"), ("replace", call, "before"), ("replace", call, "after")):
            print(*kill, attempt(killed, kill, **state))
    print("in a step", attempt(killed, on_step=lambda done, lr: done == 3 and die(), **state))
    for seconds in (0.1, 0.2):
        print("at any time", attempt(killed, after=seconds, **state))
    print("to the end", attempt(killed, **state))
