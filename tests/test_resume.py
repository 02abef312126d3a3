"""A run that was stopped and resumed ends as one that never was: the same bits, whatever stopped it."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from matgpt import DivergedError, GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, between, train
from matgpt.files import atomic
from matgpt.training import run as training
from matgpt.training.state import uninterrupted

from .test_checkpoint import Touch

ROOT = Path(__file__).parent.parent
IDS = np.random.default_rng(0).integers(0, 11, 2000)
CONFIG = GPTConfig(11, 7, 12, 2, 2, nesting=(6, Size(6, 2, 1), Size(8, 2, 2)), dropout=0.1)
STEPS = 16


def run(on_step=None, variant=MatryoshkaGPT, config=CONFIG, ids=IDS, **settings):
    """A short run with all in it that is random: weights, batches, dolls, dropout.

    on_step: called with the number of steps before it, where weights are new and the step is not yet counted.
    """
    torch.manual_seed(0)
    model, numbers, make = variant(config), count(), training.make_optimizers

    def make_optimizers(*args):
        optimizers = make(*args)
        step = optimizers.step
        if on_step:
            optimizers.step = lambda read: (step(read), on_step(next(numbers)))
        return optimizers

    settings = {"steps": STEPS, "eval_interval": 3, "warmup": 0.125, "eval_blocks": 4, "lr": 0.02, **settings}
    with patch.object(training, "make_optimizers", make_optimizers):
        history = train(model, ids[:1800], ids[1800:], batch_size=4, progress=False, **settings)
    return model, history


def same(a, b):
    """Whether two results of `run` are the same bits."""
    return a[1] == b[1] and all(
        torch.equal(p, q) for p, q in zip(a[0].parameters(), b[0].parameters(), strict=True)
    )


def stop(at):
    """Interrupts at that evaluation."""

    def on_evaluation(history):
        if history.steps[-1] == at:
            raise KeyboardInterrupt

    return on_evaluation


def press(at):
    """Presses Ctrl-C inside that step."""
    return lambda step: step == at and os.kill(os.getpid(), signal.SIGINT)


def states(folder):
    return sorted(folder.glob("step-*.pt"))


@pytest.fixture(scope="module")
def whole():
    return run()


@pytest.mark.slow
def test_runs_differ_by_seed(whole):
    assert same(whole, run()) and not same(whole, run(seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("variant", [MatryoshkaGPT, MatryoshkaEmbeddingsGPT])
def test_interrupted_and_resumed(variant, tmp_path):
    state = dict(variant=variant, checkpoint_dir=tmp_path, resume=True)
    assert run(**state, on_evaluation=stop(0))[1].steps == [0]
    assert run(**state, on_step=press(3))[1].steps == [0, 3]
    assert [path.name[:13] for path in states(tmp_path)] == ["step-00000003", "step-00000004"]
    assert run(**state, on_evaluation=stop(9))[1].steps == [0, 3, 6, 9]
    result = run(**state)
    assert same(result, run(variant=variant))
    assert result[1].steps == [0, 3, 6, 9, 12, 15, 16]
    assert len(states(tmp_path)) == 2
    assert same(run(**state), result)  # it was done


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_budget_of_flops_resumed(optimizer, tmp_path):
    settings = dict(steps=None, flops=2e7, eval_interval=None, optimizer=optimizer)
    whole = run(**settings)
    steps = whole[1].steps
    assert len(steps) == 11 and len({*np.diff(whole[1].flops)}) > 2, "steps of several prices"
    state = dict(checkpoint_dir=tmp_path, resume=True, **settings)
    assert run(**state, on_step=press(3))[1].spent < run(**state, on_evaluation=stop(steps[4]))[1].spent
    found = run(**state)
    assert same(found, whole) and found[1].spent == whole[1].spent


@pytest.mark.slow
def test_a_range_resumed(tmp_path):
    """What is drawn from it follows from seed and step, too."""
    config = GPTConfig(11, 7, 12, 2, 2, nesting=between(Size(4, 1, 1), Size(12, 2, 2), 4))
    state = dict(config=config, checkpoint_dir=tmp_path, resume=True)
    assert run(**state, on_step=press(10))[1].steps == [0, 3, 6, 9]
    assert same(run(**state), run(config=config))


@pytest.mark.slow
def test_interrupt_is_held_back_where_weights_change(whole, tmp_path):
    model, history = run(checkpoint_dir=tmp_path, on_step=press(7))
    assert history.steps == [0, 3, 6] and model.training
    newest = torch.load(states(tmp_path)[-1], weights_only=True)
    assert newest["step"] == 8 and all(
        torch.equal(newest["model"][n], p) for n, p in model.state_dict().items()
    )
    assert same(run(checkpoint_dir=tmp_path, resume=True), whole)


def test_uninterrupted():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("inside")
        done.append("behind")
    assert done == ["inside"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(ZeroDivisionError), uninterrupted():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with patch.object(signal, "getsignal", lambda _: signal.SIG_IGN), uninterrupted():
        pass

    def elsewhere():
        with uninterrupted():  # only the main thread may set handlers
            done.append("thread")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done[-1] == "thread"


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    """SIGKILL in writes (half written, written, renamed), in steps, and whenever the clock says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_run", tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *kills, end = done.stdout.splitlines()
    assert end == "to the end 0" and len(kills) == 11
    assert all(line.endswith(" -9") for line in kills if not line.startswith("at any time")), done.stdout
    for name in ("model.safetensors", "history.json", "config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "never" / name).read_bytes()
    assert len(states(tmp_path / "killed")) == 2 and not list((tmp_path / "killed").glob("step-*.tmp"))


def damage(path, how):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"bit": data, "short": data[:-1], "empty": b""}[how])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["bit", "short", "empty"])
def test_damaged_newest(how, whole, tmp_path):
    run(checkpoint_dir=tmp_path, on_evaluation=stop(9))
    damage(states(tmp_path)[-1], how)
    with pytest.warns(UserWarning, match="step-00000009-.* is damaged"):
        assert same(run(checkpoint_dir=tmp_path, resume=True), whole)
    assert len(states(tmp_path)) == 2 and len(list(tmp_path.glob("step-00000009-*.damaged"))) == 1


@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_all_damaged(tmp_path):
    run(checkpoint_dir=tmp_path, on_evaluation=stop(9))
    for path in states(tmp_path):
        damage(path, "bit")
    for _ in range(2):  # nor does the second try begin anew
        with pytest.raises(ValueError, match="intact: step-00000009-.*, step-00000006-"):
            run(checkpoint_dir=tmp_path, resume=True)


def test_state_runs_no_code(tmp_path):
    data = pickle.dumps({"model": Touch(tmp_path / "touched")}, protocol=2)
    (tmp_path / f"step-00000001-{hashlib.sha256(data).hexdigest()[:16]}.pt").write_bytes(data)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="intact"):
        run(checkpoint_dir=tmp_path, resume=True)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(seed=1), "seed was 0, is 1$"),
        (dict(lr=0.01), "lr was 0.02, is 0.01$"),
        (dict(loss_weights=[1, 1, 1, 2]), "loss_weights was"),
        (dict(optimizer="adamw"), "optimizer was muon, is adamw$"),
        (dict(steps=None, flops=1e9), "steps was 16, is None; flops was None, is 1000000000.0$"),
        (dict(eval_interval=4, warmup=0.25), "warmup was 0.125, is 0.25; eval_interval was 3, is 4$"),
        (dict(ids=np.roll(IDS, 1)), "train_ids was 1800 tokens .*; val_ids was 200 tokens"),
        (dict(config=GPTConfig(11, 7, 12, 2, 2, nesting=(6,))), "nesting was .*; dropout was 0.1, is 0.0"),
        (dict(variant=MatryoshkaEmbeddingsGPT), "model was MatryoshkaGPT, is MatryoshkaEmbeddingsGPT$"),
    ],
)
def test_another_run_is_refused(change, message, tmp_path):
    run(checkpoint_dir=tmp_path, on_evaluation=stop(0))
    before = [path.read_bytes() for path in states(tmp_path)]
    with pytest.raises(ValueError, match="step-00000000-.*another run.*" + message):
        run(checkpoint_dir=tmp_path, resume=True, **change)
    assert [path.read_bytes() for path in states(tmp_path)] == before


@pytest.mark.slow
def test_same_corpus_in_another_form_is_no_other_run(whole, tmp_path):
    run(checkpoint_dir=tmp_path, on_evaluation=stop(6))
    np.save(tmp_path / "ids.npy", IDS.astype(np.uint16))
    ids = np.load(tmp_path / "ids.npy", mmap_mode="r")
    assert same(run(checkpoint_dir=tmp_path, resume=True, ids=ids), whole)


def test_a_run_is_not_overwritten(tmp_path):
    run(checkpoint_dir=tmp_path, on_evaluation=stop(3))
    with pytest.raises(ValueError, match="already holds a run, kept in step-00000003"):
        run(checkpoint_dir=tmp_path)


def test_bad_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file/folder.*cannot be written"):
        run(checkpoint_dir=tmp_path / "file" / "folder", on_evaluation=lambda _: pytest.fail("work was done"))
    with pytest.raises(ValueError, match="checkpoint_dir"):
        run(resume=True)


@pytest.mark.slow
def test_full_disk(whole, tmp_path, monkeypatch):
    real, calls = os.fsync, count()

    def fsync(descriptor):
        if next(calls) == 4:  # two calls a write: step 0, step 3, and now
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    with pytest.raises(
        OSError, match="No space left on device: the state of step 6 .*step-00000003-.* is intact"
    ):
        run(checkpoint_dir=tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    assert same(run(checkpoint_dir=tmp_path, resume=True), whole)


def test_diverged_leaves_the_last_state(whole, tmp_path):
    def spoil(model, *args):
        losses = real(model, *args)
        if next(calls) == 7:
            losses[CONFIG.full] = torch.tensor(float("nan"))
        return losses

    real, calls = training.matryoshka_backward, count()
    stopped = pytest.raises(DivergedError, match="step 7.*lr=0.02")
    with patch.object(training, "matryoshka_backward", spoil), stopped as error:
        run(checkpoint_dir=tmp_path)
    assert error.value.history.steps == [0, 3, 6]
    assert same(run(checkpoint_dir=tmp_path, resume=True), whole)


@pytest.mark.slow
def test_saved_between_evaluations(whole, tmp_path, monkeypatch):
    """As if each step took more than a minute."""
    clock = [0.0]
    monkeypatch.setattr("matgpt.training.state.time.monotonic", lambda: clock[0])

    def on_step(step):
        clock[0] += 61
        press(7)(step)

    run(checkpoint_dir=tmp_path, on_step=on_step)
    assert [path.name[:13] for path in states(tmp_path)] == ["step-00000007", "step-00000008"]
    assert same(run(checkpoint_dir=tmp_path, resume=True), whole)


@pytest.mark.slow
def test_numbers_of_numpy_are_kept(tmp_path):
    """As np.geomspace gives them: a state may hold plain numbers alone."""
    settings = dict(lr=np.float32(0.02), weight_decay=np.float64(0.1), warmup=np.float64(0.125))
    whole = run(**settings)
    run(checkpoint_dir=tmp_path, on_evaluation=stop(9), **settings)
    resumed = run(checkpoint_dir=tmp_path, resume=True, **settings)
    assert same(resumed, whole)
    resumed[1].save(tmp_path / "history.json")
