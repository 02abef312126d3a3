"""A run that is killed again and again, for test_resume: python -m tests.killed_run FOLDER.

Each attempt is a fork of a process that did its imports once. Prints how each attempt ended.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # the first step of an optimizer would import it, in every fork

from matgpt import save
from matgpt.files import atomic
from tests.test_resume import run


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def in_write(call, how):
    """Die in the call-th write: with half the bytes written, all but not renamed, or renamed."""
    real, calls = {name: getattr(os, name) for name in ("fsync", "replace")}, {"fsync": 0, "replace": 0}

    def fsync(descriptor):
        calls["fsync"] += 1
        if calls["fsync"] == call and how == "half":
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            die()
        real["fsync"](descriptor)

    def replace(source, target):
        calls["replace"] += 1
        if calls["replace"] == call and how == "whole":
            die()
        real["replace"](source, target)
        if calls["replace"] == call and how == "renamed":
            die()

    atomic.os.fsync, atomic.os.replace = fsync, replace


def attempt(folder, prepare=None, kill_after=None, **settings):
    """Fork and run to the end, or to death; returns the exit code."""
    child = os.fork()
    if child == 0:
        try:
            if prepare:
                prepare()
            model, history = run(**settings)
            save(model, folder)
            history.save(folder / "history.json")
            os._exit(0)
        finally:
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    attempt(folder / "never")
    killed = folder / "killed"
    state = dict(checkpoint_dir=killed, resume=True)
    for call, how in [(1, "half"), (1, "whole"), (1, "renamed"), (2, "half"), (2, "whole")]:
        print("in write", call, how, attempt(killed, lambda: in_write(call, how), **state))
    for step in (1, 4):
        print("in step", step, attempt(killed, on_step=lambda done, lr: done == step and die(), **state))
    for seconds in (0.1, 0.2):
        print("at any time", attempt(killed, kill_after=seconds, **state))
    print("to the end", attempt(killed, **state))
