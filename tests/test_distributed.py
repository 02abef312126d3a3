"""Two processes that share a batch compute what one computes alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from matgpt import GPTConfig, History, MatryoshkaGPT, Size, train
from matgpt.training.loss import matryoshka_backward

from .test_resume import stop
from .test_train import TEXT, program

ROOT = Path(__file__).parent.parent
IDS = np.random.default_rng(0).integers(0, 11, 2000)
CONFIG = GPTConfig(11, 7, 12, 2, 2, nesting=(6, Size(6, 2, 1), Size(8, 2, 2)))
WEIGHTS = dict(zip(CONFIG.sizes, (0.1, 0.2, 0.3, 0.4)))
STEPS = 12

pytestmark = pytest.mark.slow


def batches(n):
    """Three batches of n, one for each width."""
    return [torch.from_numpy(IDS[i : i + 3 * n * 7]).view(3, n, 7) for i in (0, 1)]


def run(batch_size=4, **settings):
    torch.manual_seed(0)
    model = MatryoshkaGPT(CONFIG)
    history = train(
        model,
        IDS[:1800],
        IDS[1800:],
        STEPS,
        batch_size,
        0.01,
        progress=False,
        eval_interval=3,
        warmup=0.2,
        eval_blocks=4,
        **settings,
    )
    return model, history


@pytest.fixture(scope="module")
def alone():
    return run()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left, after one process left a run for them to go on with."""
    folder = tmp_path_factory.mktemp("two")
    run(checkpoint_dir=folder / "alone", on_evaluation=stop(6))
    done = subprocess.run(
        [sys.executable, "-m", "tests.two_processes", folder], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "gradients 0 0",
        "whole 0 0",
        "dies 3 1",
        "goes_on 0 0",
        "indivisible 0 0",
    ], done.stdout + done.stderr
    return folder


def agrees(history, other):
    for losses, others in ((history.train, other.train), (history.val, other.val)):
        for size in history.sizes:
            assert losses[size] == pytest.approx(others[size], abs=1e-4)
    assert history.steps == other.steps == [0, 3, 6, 9, 12]


def test_gradients(folder):
    torch.manual_seed(0)
    model = MatryoshkaGPT(CONFIG)
    for _ in range(2):
        trunks = model.trunks(CONFIG.sizes)
        matryoshka_backward(model, list(zip(trunks, *batches(4))), WEIGHTS)
    for rank in range(2):
        found = torch.load(folder / f"grad{rank}.pt")
        for p, gradient in zip(model.parameters(), found["gradients"], strict=True):
            torch.testing.assert_close(gradient, p.grad, rtol=1e-5, atol=1e-7)
        assert len(found["reductions"]) == 2  # once a step, not once a size


def test_same_losses(folder, alone):
    states, histories = zip(*(torch.load(folder / f"whole{rank}.pt") for rank in range(2)))
    assert histories[0] == histories[1]
    assert all(torch.equal(p, q) for p, q in zip(states[0].values(), states[1].values(), strict=True))
    agrees(History.from_dict(histories[0]), alone[1])


def test_only_the_first_writes(folder):
    assert (folder / "state of 0").exists() and not (folder / "state of 1").exists()


def test_resume_with_fewer(folder, alone):
    _, history = run(checkpoint_dir=folder / "one lives", resume=True)
    agrees(history, alone[1])


def test_resume_with_more(folder, alone):
    for rank in range(2):
        agrees(History.from_dict(torch.load(folder / f"goes_on{rank}.pt")[1]), alone[1])
    assert not (folder / "not there").exists()


def test_batch_must_divide(folder):
    for rank in range(2):
        assert (
            folder / f"error{rank}"
        ).read_text() == "batch_size=3 must be divisible by the number of processes, 2"


def test_torchrun(tmp_path):
    (tmp_path / "text").write_text(TEXT)
    shape = "--nesting 4 8 --n-layer 1 --block-size 8 --steps 4 --batch-size 4"
    options = ["--corpus", str(tmp_path / "text"), *shape.split()]
    engine = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "matgpt",
        "train",
    ]
    done = subprocess.run(
        [*engine, *options, "--out", tmp_path / "two"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 4/4") == done.stdout.count("saved in") == 1  # one of them speaks
    program(*options, "--out", tmp_path / "one")
    one, two = (History.load(tmp_path / name / "history.json") for name in ("one", "two"))
    for size in one.sizes:
        assert two.val[size] == pytest.approx(one.val[size], abs=1e-4)
    assert sorted(path.name[:13] for path in (tmp_path / "two").iterdir()) == sorted(
        path.name[:13] for path in (tmp_path / "one").iterdir()
    )
