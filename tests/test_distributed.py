"""Two processes that share a batch compute what one computes alone, to rounding."""

import subprocess
import sys

import pytest
import torch

from matgpt import CharTokenizer, GPTConfig, History, MatryoshkaGPT, Size, nest, train, train_embeddings
from matgpt.__main__ import main
from matgpt.embeddings.pairs import Pairs

from .test_resume import IDS, ROOT, stop

CONFIG = GPTConfig(11, 7, 12, 2, 3, nesting=(Size(6, 2, 2), Size(6, 2, 1), Size(8, 2, 2)))

pytestmark = pytest.mark.slow


def run(batch_size=4, seed=0, **settings):
    """A short run, and the seed of dropout in each training pass here; seed: of the first weights."""
    torch.manual_seed(seed)
    model, passes = MatryoshkaGPT(CONFIG), []

    def forward(model, args):
        if model.training:
            passes.append(torch.initial_seed())

    model.register_forward_pre_hook(forward)
    quick = dict(eval_interval=3, warmup=0.2, eval_blocks=4, progress=False, share=0.1, weight_decay=1.0)
    history = train(model, IDS[:1800], IDS[1800:], 12, batch_size, 0.01, **quick, **settings)
    return model, history, passes


def nested():
    torch.manual_seed(0)
    quick = dict(eval_interval=3, eval_blocks=4, progress=False)
    return nest(MatryoshkaGPT(CONFIG), CONFIG.nesting, IDS[:1800], IDS[1800:], 12, **quick).history


def embeddings():
    pairs = Pairs(["a"] * 4, ["b"] * 4, list("abcd"), list("abcd"))
    train_embeddings(MatryoshkaGPT(CONFIG), pairs, CharTokenizer("ab"), 1, 2)


def program(*arguments):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def alone():
    return run()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left, after one process left a run for them to resume."""
    folder = tmp_path_factory.mktemp("two")
    run(checkpoint_dir=folder / "alone", on_evaluation=stop(6))
    done = program("tests.forks", "together", folder)
    ends = ["whole 0 0", "nested 0 0", "dies 3 1", "resumes 0 0", "refused 0 0"]
    assert done.stdout.splitlines() == ends, done.stdout + done.stderr
    return folder


def assert_agree(history, other):
    assert history.steps == other.steps and history.flops == other.flops
    torch.testing.assert_close([history.train, history.val], [other.train, other.val], rtol=0, atol=1e-4)


def test_same_losses(folder, alone):
    """Also where they begin with other weights, one reads no sequence, or no doll reads the last layer."""
    states, histories, passes = zip(*(torch.load(folder / f"whole{rank}.pt") for rank in range(2)))
    assert histories[0] == histories[1] and all(map(torch.equal, states[0].values(), states[1].values()))
    assert_agree(History.from_dict(histories[0]), alone[1])
    assert len(passes[1]) < len(passes[0]) and passes[0] == alone[2]
    assert not {*passes[0]} & {*passes[1]}, "each drops other activations"
    assert (folder / "state of 0").exists() and not (folder / "state of 1").exists()


def test_a_trained_model_is_nested_by_two_processes(folder):
    for rank in range(2):
        assert_agree(History.from_dict(torch.load(folder / f"nested{rank}.pt")), nested())


def test_resumed_by_another_number_of_processes(folder, alone):
    assert_agree(run(checkpoint_dir=folder / "one lives", resume=True)[1], alone[1])
    for rank in range(2):
        assert_agree(History.from_dict(torch.load(folder / f"resumes{rank}.pt")), alone[1])
    assert not (folder / "not there").exists()


def test_refused(folder):
    for rank in range(2):
        batch, pairs = ((folder / f"{name}{rank}").read_text() for name in ("batch", "embeddings"))
        assert batch == "batch_size=3 must be divisible by the number of processes, 2"
        assert pairs.startswith("train_embeddings runs in one process")


def test_torchrun(tmp_path):
    (tmp_path / "text").write_text("the dolls stand one inside another\n" * 40)
    shape = "--nesting 4 8 --n-layer 1 --block-size 8 --steps 4 --batch-size 4 --threads 1"
    options = ["train", "--corpus", str(tmp_path / "text"), *shape.split()]
    engine = "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "matgpt"
    done = program(*engine, *options, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 4/4") == 1, "one of them speaks"
    main([*options, "--out", str(tmp_path / "one")])
    one, two = (History.load(tmp_path / name / "history.json") for name in ("one", "two"))
    assert_agree(one, two)
    names = [{path.name[:13] for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert names[0] == names[1]
