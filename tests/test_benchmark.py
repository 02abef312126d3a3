"""What the benchmarks promise: finished runs are kept, and every twin has its own best learning rate."""

import argparse

import pytest

from matgpt import GPTConfig
from matgpt.benchmarks import common, quality
from matgpt.training.loop import DivergedError

IDS = [0, 1, 2, 3] * 40
CONFIG = GPTConfig(4, 8, 8, 2, 1, nesting=(4,))


def arguments(out, add, *argv):
    parser = argparse.ArgumentParser()
    add(parser)
    return parser.parse_args(["--out", str(out), "--steps", "2", "--seeds", "0", "1", *argv])


@pytest.fixture
def args(tmp_path):
    return arguments(tmp_path, quality.add_arguments)


def test_a_finished_run_is_kept_and_another_setting_is_another_run(args, monkeypatch):
    ran, train = [], common.train
    monkeypatch.setattr(
        common,
        "train",
        lambda model, *data, **settings: (ran.append(settings), train(model, *data, **settings)),
    )
    data = IDS, IDS, None
    first = common.train_and_measure(args, data, CONFIG, 0, lr=0.01)
    assert set(first) == set(CONFIG.sizes)
    assert common.train_and_measure(args, data, CONFIG, 0, lr=0.01) == first and len(ran) == 1
    common.train_and_measure(args, data, CONFIG, 1, lr=0.01)
    common.train_and_measure(args, data, CONFIG, 0, lr=0.02)
    common.train_and_measure(args, data, CONFIG.doll(4), 0, lr=0.01)
    args.optimizer = "muon"
    common.train_and_measure(args, data, CONFIG, 0, lr=0.01)
    assert len(ran) == 5


@pytest.mark.parametrize(
    "best, tried",
    [
        (0.128, [0.032, 0.064, 0.128, 0.256]),
        (0.064, [0.032, 0.064, 0.128]),
        (0.008, [0.004, 0.008, 0.016, 0.032, 0.064]),
    ],
)
def test_the_grid_of_a_twin_grows_until_its_best_rate_lies_inside(args, monkeypatch, best, tried):
    """At 16 wide it begins with 0.032 and 0.064."""
    ran = []

    def measure(args, data, config, seed, lr):
        ran.append((lr, seed))
        return {config.full: abs(lr - best) + seed}

    monkeypatch.setattr(common, "train_and_measure", measure)
    rate, losses, found = common.best_twin(args, None, GPTConfig(4, 8, 16, 2, 1))
    assert (
        rate == pytest.approx(best)
        and list(found) == pytest.approx(tried)
        and losses == pytest.approx([0, 1])
    )
    assert {lr for lr, seed in ran if seed == 1} == set(sorted(found, key=found.get)[:2]), (
        "other seeds run at the two best rates"
    )
    args.grid, ran[:] = [1.0], []
    assert common.best_twin(args, None, GPTConfig(4, 8, 16, 2, 1))[0] == 0.064 and {lr for lr, _ in ran} == {
        0.064
    }


def test_a_rate_that_rounding_changed_is_not_tried_again(args, monkeypatch):
    """At 96 wide the grid begins with 0.00533 and 0.0107, whose half is 0.00535."""
    monkeypatch.setattr(
        common, "train_and_measure", lambda args, data, config, seed, lr: {config.full: abs(lr - 0.0107)}
    )
    assert list(common.best_twin(args, None, GPTConfig(4, 8, 96, 3, 1))[2]) == [0.00533, 0.0107, 0.0214]


def test_a_rate_at_which_another_seed_diverges_does_not_count_as_best(args, monkeypatch):
    losses = {(0.032, 0): 1.9, (0.064, 0): 2.0, (0.016, 0): 1.91, (0.008, 0): 1.95, (0.016, 1): 1.9}

    def measure(args, data, config, seed, lr):
        if (lr, seed) == (0.032, 1):
            raise DivergedError("not finite", None)
        return {config.full: losses[lr, seed]}

    monkeypatch.setattr(common, "train_and_measure", measure)
    rate, found, tried = common.best_twin(args, None, GPTConfig(4, 8, 16, 2, 1))
    assert (rate, found) == (0.016, [1.91, 1.9])
    assert list(tried) == [0.008, 0.016, 0.032, 0.064], "both neighbours of the best rate were tried"


def test_the_tables(tmp_path, monkeypatch):
    """Every doll beside its twin."""
    monkeypatch.setattr(common, "load_text", lambda name: "to be or not to be, that is the question. " * 40)
    shape = ["--block-size", "8", "--batch-size", "2", "--grid", "1"]
    quality.run(
        arguments(
            tmp_path,
            quality.add_arguments,
            *shape,
            "--n-embd",
            "8",
            "--n-head",
            "2",
            "--n-layer",
            "2",
            "--nesting",
            "4",
        )
    )
    table = (tmp_path / "quality.md").read_text()
    assert "| 4,2,2 |" in table and "| 8,2,2 |" in table and (tmp_path / "quality.png").exists()
    assert len(list((tmp_path / "runs").iterdir())) == 2 * 3, "the family and two twins, two seeds each"
