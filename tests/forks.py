"""Runs in forks of a process that did its imports once: python -m tests.forks killed|together FOLDER.

"killed" is for test_resume, "together" for test_distributed. Both print how each fork ended.
"""

import multiprocessing
import os
import signal
import sys
import time
from datetime import timedelta
from itertools import count
from pathlib import Path

import torch
import torch._dynamo  # the first step of an optimizer would import it, in every fork
import torch.distributed as dist

from matgpt import save
from tests import test_distributed, test_resume


def fork(work, *args, **settings):
    """Call `work` in a new process; returns it."""
    child = multiprocessing.get_context("fork").Process(target=work, args=args, kwargs=settings)
    child.start()
    return child


def code(child):
    """Wait for a process; returns its exit code."""
    child.join()
    return child.exitcode


# ---- a run that is killed again and again
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


def attempt(folder, kill=None, **settings):
    """Run to the end, or to death."""
    if kill:
        die_in(*kill)
    model, history = test_resume.run(**settings)
    save(model, folder)
    history.save(folder / "history.json")


def killed(folder):
    code(fork(attempt, folder / "never"))
    folder /= "killed"
    state = dict(checkpoint_dir=folder, resume=True)
    for call in (1, 2):
        for kill in (("fsync", call, "before"), ("replace", call, "before"), ("replace", call, "after")):
            print(*kill, code(fork(attempt, folder, kill, **state)))
    print("in a step", code(fork(attempt, folder, on_step=lambda done, lr: done == 3 and die(), **state)))
    for seconds in (0.1, 0.2):
        child = fork(attempt, folder, **state)
        time.sleep(seconds)
        child.kill()
        print("at any time", code(child))
    print("to the end", code(fork(attempt, folder, **state)))


# ---- two processes that share a run
def whole(folder, rank):
    state = dict(checkpoint_dir=folder / f"state of {rank}", resume=True)  # there is none yet
    model, history, passes = test_distributed.run(seed=rank, **state)
    torch.save((model.state_dict(), history.as_dict(), passes), folder / f"whole{rank}.pt")


def nested(folder, rank):
    torch.save(test_distributed.nested().as_dict(), folder / f"nested{rank}.pt")


def dies(folder, rank):
    """The first process dies in the middle of the run, and with it the second."""

    def end(history):
        if history.steps[-1] == 6:
            os._exit(3)

    test_distributed.run(checkpoint_dir=folder / "one lives", on_evaluation=end)


def resumes(folder, rank):
    """From the state of a run on one process; only the first sees the folder."""
    own = folder / ("alone" if rank == 0 else "not there")
    history = test_distributed.run(checkpoint_dir=own, resume=True)[1]
    torch.save(history.as_dict(), folder / f"resumes{rank}.pt")


def refused(folder, rank):
    for name in ("batch", "embeddings"):
        try:
            test_distributed.run(batch_size=3) if name == "batch" else test_distributed.embeddings()
        except ValueError as error:
            (folder / f"{name}{rank}").write_text(str(error))


def share(folder, work, rank):
    store, limit = f"file://{folder}/{work.__name__}.store", timedelta(seconds=60)
    dist.init_process_group("gloo", store, rank=rank, world_size=2, timeout=limit)
    work(folder, rank)
    dist.destroy_process_group()


def together(folder):
    for work in (whole, nested, dies, resumes, refused):
        children = [fork(share, folder, work, rank) for rank in range(2)]
        print(work.__name__, *map(code, children))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"killed": killed, "together": together}[sys.argv[1]](Path(sys.argv[2]))
