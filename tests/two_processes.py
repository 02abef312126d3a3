"""What two processes compute together, for test_distributed: python -m tests.two_processes FOLDER.

Both are forks of a process that did its imports once; the first writes its results into FOLDER.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch._dynamo  # the first step of an optimizer would import it, in every fork
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from matgpt import MatryoshkaGPT
from matgpt.training.loss import matryoshka_backward
from tests.test_distributed import CONFIG, WEIGHTS, batches, run


def together(folder, name, work):
    """`work(rank)` in two processes that exchange gradients; their exit codes."""
    children = []
    for rank in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                dist.init_process_group(
                    "gloo",
                    init_method=f"file://{folder}/{name}.store",
                    rank=rank,
                    world_size=2,
                    timeout=timedelta(seconds=60),
                )
                work(rank)
                dist.destroy_process_group()
                os._exit(0)
            finally:
                os._exit(1)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def gradients(folder, rank):
    torch.manual_seed(0)
    model = DistributedDataParallel(MatryoshkaGPT(CONFIG))
    x, y = batches(4)
    reductions = []
    model.register_comm_hook(
        None,
        lambda _, bucket: (
            reductions.append(bucket.index()),
            dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future().then(lambda f: f.value()[0]),
        )[1],
    )
    for _ in range(2):  # gradients add up, as without processes
        trunks = model.module.trunks(CONFIG.sizes)
        matryoshka_backward(model, list(zip(trunks, x[:, rank::2], y[:, rank::2])), WEIGHTS)
    torch.save(
        {"gradients": [p.grad for p in model.parameters()], "reductions": reductions},
        folder / f"grad{rank}.pt",
    )


def whole(folder, rank):
    model, history = run(checkpoint_dir=folder / f"state of {rank}")
    torch.save((model.state_dict(), history.as_dict()), folder / f"whole{rank}.pt")


def dies(folder, rank):
    """The first process dies in the middle of the run, and with it the second."""
    run(checkpoint_dir=folder / "one lives", on_evaluation=lambda h: h.steps[-1] == 6 and os._exit(3))


def goes_on(folder, rank):
    """From the state of a run on one process; only the first sees the folder."""
    model, history = run(checkpoint_dir=folder / "alone" if rank == 0 else folder / "not there", resume=True)
    torch.save((model.state_dict(), history.as_dict()), folder / f"goes_on{rank}.pt")


def indivisible(folder, rank):
    try:
        run(batch_size=3)
    except ValueError as error:
        (folder / f"error{rank}").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for work in (gradients, whole, dies, goes_on, indivisible):
        print(work.__name__, *together(folder, work.__name__, lambda rank: work(folder, rank)))
