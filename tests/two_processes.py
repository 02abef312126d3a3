"""What two processes compute together, for test_distributed: python -m tests.two_processes FOLDER.

Both are forks of a process that did its imports once.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch._dynamo  # the first step of an optimizer would import it, in every fork
import torch.distributed as dist

from tests.test_distributed import embeddings, run


def together(folder, name, work):
    """Run `work(rank)` in two processes that exchange gradients; returns their exit codes."""
    children = []
    for rank in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                store, limit = f"file://{folder}/{name}.store", timedelta(seconds=60)
                dist.init_process_group("gloo", store, rank=rank, world_size=2, timeout=limit)
                work(rank)
                dist.destroy_process_group()
                os._exit(0)
            finally:
                os._exit(1)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def whole(folder, rank):
    model, history = run(seed=rank, checkpoint_dir=folder / f"state of {rank}")
    torch.save((model.state_dict(), history.as_dict(), model.passes), folder / f"whole{rank}.pt")


def dies(folder, rank):
    """The first process dies in the middle of the run, and with it the second."""
    run(checkpoint_dir=folder / "one lives", on_evaluation=lambda h: h.steps[-1] == 6 and os._exit(3))


def resumes(folder, rank):
    """From the state of a run on one process; only the first sees the folder."""
    model, history = run(checkpoint_dir=folder / ("alone" if rank == 0 else "not there"), resume=True)
    torch.save(history.as_dict(), folder / f"resumes{rank}.pt")


def refused(folder, rank):
    for name, work in (("batch", lambda: run(batch_size=3)), ("embeddings", embeddings)):
        try:
            work()
        except ValueError as error:
            (folder / f"{name}{rank}").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for work in (whole, dies, resumes, refused):
        print(work.__name__, *together(folder, work.__name__, lambda rank: work(folder, rank)))
