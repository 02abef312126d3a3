"""A run that was stopped and resumed ends as one that never was: the same bits, whatever stopped it.

In its folder, files of the user stay as they are, and one process at a time writes.
"""

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
from torch.optim.optimizer import register_optimizer_step_post_hook

from matgpt import DivergedError, GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, between, train
from matgpt.files import atomic
from matgpt.files.atomic import uninterrupted
from matgpt.training import checkpoint

from .conftest import assert_refused
from .test_checkpoint import Touch

ROOT = Path(__file__).parent.parent
IDS = np.random.default_rng(0).integers(0, 11, 2000)
CONFIG = GPTConfig(11, 7, 12, 2, 2, nesting=(6, Size(6, 2, 1), Size(8, 2, 2)), dropout=0.1)
DEEP = GPTConfig(11, 7, 12, 2, 3, nesting=(Size(6, 2, 1), Size(8, 2, 2)))  # a third layer joins at step 12
RANGE = GPTConfig(11, 7, 12, 2, 2, nesting=between(Size(4, 1, 1), Size(12, 2, 2), 4))
STEPS = 16
STATE = "step-00000003-0123456789abcdef.pt"
NOT_OURS = ("step-3.pt", STATE.replace("f.", "g."), STATE.replace("step", "STEP"), f"{STATE}.tmp", "lock")


@pytest.fixture(autouse=True)
def ctrl_c():
    """A suite that runs in the background of a script ignores SIGINT."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def run(on_step=None, variant=MatryoshkaGPT, config=CONFIG, ids=IDS, dtype=torch.float32, **settings):
    """A short run with all in it that is random: weights, batches, dolls, dropout.

    on_step: called with a step's number and learning rate, before the step is counted.
    """
    torch.manual_seed(0)
    model, numbers = variant(config).to(dtype), count()

    def after_step(optimizer, *_):
        if on_step and isinstance(optimizer, torch.optim.AdamW):  # which is the last one of a step
            on_step(next(numbers), optimizer.param_groups[0]["lr"])

    settings = {"steps": STEPS, "eval_interval": 3, "warmup": 0.125, "eval_blocks": 4, "lr": 0.02, **settings}
    with register_optimizer_step_post_hook(after_step):
        return model, train(model, ids[:1800], ids[1800:], batch_size=4, progress=False, **settings)


def same(a, b):
    """Whether two results of `run` are the same bits."""
    equal = map(torch.equal, a[0].parameters(), b[0].parameters())
    return a[1] == b[1] and a[1].spent == b[1].spent and all(equal)


def stop(at):
    """Interrupt at that evaluation."""

    def on_evaluation(history):
        if history.steps[-1] == at:
            raise KeyboardInterrupt

    return on_evaluation


def press(at):
    """Press Ctrl-C inside that step."""
    return lambda step, lr: step == at and os.kill(os.getpid(), signal.SIGINT)


def states(folder):
    return sorted(folder.glob("step-*.pt"))


@pytest.fixture(scope="module")
def whole():
    return run()


KINDS = dict(variant=MatryoshkaEmbeddingsGPT), dict(config=RANGE), dict(config=DEEP), dict(optimizer="adamw")


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, *KINDS, dict(steps=None, flops=2e7)])
def test_interrupted_and_resumed(settings, tmp_path):
    folder = tmp_path / "new" / "folder"
    state = dict(checkpoint_dir=folder, resume=True, **settings)
    assert run(**state, on_evaluation=stop(0))[1].steps == [0]
    assert run(**state, on_step=press(3))[1].steps == [0, 3]
    assert [path.name[:13] for path in states(folder)] == ["step-00000003", "step-00000004"]
    assert run(**state, on_evaluation=stop(12))[1].steps == [0, 3, 6, 9, 12]
    assert run(**state, on_step=press(0))[1].done == 13
    result = run(**state)
    assert same(result, run(**settings)) and result[1].steps[:5] == [0, 3, 6, 9, 12]
    assert len(states(folder)) == 1, "a finished run needs one state, to be extended"
    assert same(run(**state), result), "it was finished"


@pytest.mark.parametrize("budget", [(dict(steps=4), dict(steps=8)), (dict(flops=4e6), dict(flops=9e6))])
def test_a_finished_run_is_extended(budget, tmp_path):
    """The rate rises again from where the run ended, and an extension can be interrupted, too."""

    def work(folder, budget, **settings):
        state = {"steps": None, "eval_interval": 2, "warmup": 0.5, "checkpoint_dir": tmp_path / folder}
        return run(**{**state, "resume": True, **budget, **settings})

    (less, more), rates = budget, []
    finished = work("a", less)[1]
    whole = work("a", more, on_step=lambda step, lr: rates.append(lr))
    assert whole[1].steps[: len(finished.steps)] == finished.steps and whole[1].spent > finished.spent
    assert rates[0] < max(rates) / 2 and max(rates) > 0.012 > rates[-1], "up again, and down"
    work("b", less)
    last = finished.steps[-1]
    assert work("b", more, on_step=press(1))[1].done == last + 2
    assert same(work("b", more), whole)
    assert_refused("holds another run: (steps|flops) was", work, "b", less)
    work("c", less, on_evaluation=stop(0))
    assert_refused("holds another run: (steps|flops) was", work, "c", more)


def test_an_interrupt_comes_after_the_block():
    done = []

    def work():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("inside")
        done.append("after")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["inside"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work()
    thread = threading.Thread(target=work)  # only the main thread may set handlers
    thread.start()
    thread.join()
    assert done == ["inside"] + ["inside", "after"] * 2 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    """SIGKILL in writes (half written, written, renamed), in steps, and whenever the clock says."""
    command = [sys.executable, "-m", "tests.forks", "killed", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *kills, end = done.stdout.splitlines()
    assert end == "to the end 0" and len(kills) == 9
    assert all(line.endswith(" -9") for line in kills if not line.startswith("at any time")), done.stdout
    for name in ("model.safetensors", "history.json", "config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "never" / name).read_bytes()
    assert len(states(tmp_path / "killed")) == 1 and not list((tmp_path / "killed").glob("step-*.tmp"))


# ---- states that cannot be read
def other_bit(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [other_bit, lambda data: data[:-1], lambda data: b""])
@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_damaged_states(damage, whole, tmp_path):
    run(checkpoint_dir=tmp_path, on_evaluation=stop(9))
    older, newest = states(tmp_path)
    intact = older.read_bytes()
    for path in (older, newest):
        path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):  # nor does the second try begin anew
        assert_refused("intact: step-00000009-.*, step-00000006-", run, checkpoint_dir=tmp_path, resume=True)
    older.write_bytes(intact)
    with pytest.warns(UserWarning, match="step-00000009-.* is damaged"):
        assert same(run(checkpoint_dir=tmp_path, resume=True), whole)
    assert len(states(tmp_path)) == 1 and len(list(tmp_path.glob("step-00000009-*.damaged"))) == 1


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_an_error_of_the_machine_is_no_damage(error, whole, tmp_path):
    """A passing error takes no state away, neither where bytes are read nor where they become tensors."""
    run(checkpoint_dir=tmp_path, on_evaluation=stop(9))
    before = states(tmp_path)
    for owner, function in ((Path, "read_bytes"), (checkpoint.torch, "load")):
        with patch.object(owner, function, side_effect=error), pytest.raises(type(error)):
            run(checkpoint_dir=tmp_path, resume=True)
        assert states(tmp_path) == before and not list(tmp_path.glob("*.damaged"))
    assert same(run(checkpoint_dir=tmp_path, resume=True), whole)


def test_a_state_runs_no_code(tmp_path):
    data = pickle.dumps({"model": Touch(tmp_path / "touched")}, protocol=2)
    (tmp_path / f"step-00000001-{hashlib.sha256(data).hexdigest()[:16]}.pt").write_bytes(data)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="intact"):
        run(checkpoint_dir=tmp_path, resume=True)
    assert not (tmp_path / "touched").exists()


# ---- another run, another folder
def with_a_frozen_norm(config):
    model = MatryoshkaGPT(config)
    model.norm.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(seed=1), "seed was 0, is 1; over"),
        (dict(lr=0.01, share=0.3), "lr was 0.02, is 0.01; share was None, is 0.3; over"),
        (dict(loss_weights=[1, 1, 1, 2]), "loss_weights was"),
        (dict(optimizer="adamw"), "optimizer was muon, is adamw; over"),
        (dict(steps=None, flops=1e9), "steps was 16, is None; flops was None, is 1000000000.0; over"),
        (dict(ids=[(IDS[0] + 1) % 11, *IDS[1:]]), "train_ids was 1800 tokens"),
        (dict(ids=np.roll(IDS, 1)), "train_ids was 1800 tokens .*; val_ids was 200 tokens"),
        (dict(config=GPTConfig(11, 7, 12, 2, 2, nesting=(6,))), "nesting was .*; dropout was 0.1, is 0.0"),
        (dict(variant=MatryoshkaEmbeddingsGPT), "model was MatryoshkaGPT, is MatryoshkaEmbeddingsGPT; over"),
        (dict(dtype=torch.float64), "weights was torch.float32, is torch.float64; over"),
        (dict(variant=with_a_frozen_norm), "frozen was"),
    ],
)
def test_another_run_is_refused(change, message, tmp_path):
    run(checkpoint_dir=tmp_path, on_evaluation=stop(0))
    before = [path.read_bytes() for path in states(tmp_path)]
    assert_refused("holds another run.*" + message, run, checkpoint_dir=tmp_path, resume=True, **change)
    assert_refused("already holds a run", run, checkpoint_dir=tmp_path)
    assert_refused(r"\.pt/folder' cannot be written", run, checkpoint_dir=states(tmp_path)[0] / "folder")
    assert [path.read_bytes() for path in states(tmp_path)] == before


@pytest.mark.slow
def test_another_run_is_replaced_if_asked(tmp_path):
    run(checkpoint_dir=tmp_path)
    (old,) = states(tmp_path)
    state = dict(checkpoint_dir=tmp_path, seed=1)
    assert_refused("loss_weights", run, overwrite=True, loss_weights=[1], **state)
    assert states(tmp_path) == [old], "what did not begin replaces nothing"
    run(overwrite=True, on_evaluation=stop(3), **state)
    assert old not in states(tmp_path) and same(run(resume=True, **state), run(seed=1))


@pytest.mark.slow
def test_numbers_of_numpy_and_memory_maps_are_the_same_run(whole, tmp_path):
    run(checkpoint_dir=tmp_path, on_evaluation=stop(6), lr=np.float64(0.02), warmup=np.float32(0.125))
    np.save(tmp_path / "ids.npy", IDS.astype(np.uint16))
    ids = np.load(tmp_path / "ids.npy", mmap_mode="r")
    weights = np.ones(len(CONFIG.sizes))  # all alike, as without any
    assert same(run(checkpoint_dir=tmp_path, resume=True, ids=ids, loss_weights=weights), whole)


@pytest.mark.slow
def test_full_disk(whole, tmp_path):
    real = os.fsync

    def fsync(descriptor):
        if len(states(tmp_path)) == 2 and list(tmp_path.glob("*.tmp")):  # the third write
            raise OSError(28, "No space left on device")
        real(descriptor)

    message = "No space left on device: the state of step 6 .*step-00000003-.* is intact"
    with patch.object(atomic.os, "fsync", fsync), pytest.raises(OSError, match=message):
        run(checkpoint_dir=tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    assert same(run(checkpoint_dir=tmp_path, resume=True), whole)


@pytest.mark.slow
def test_a_run_that_diverged_leaves_its_last_state(whole, tmp_path):
    reached = []

    def spoil(module, x, y):
        """After the evaluation of step 6, after which the state is written, with nothing spoiled in it."""
        return y * float("nan") if reached[-1:] == [6] and isinstance(module, torch.nn.Dropout) else y

    hook = torch.nn.modules.module.register_module_forward_hook
    with hook(spoil), pytest.raises(DivergedError, match="step 6.*lr=0.02") as error:
        run(checkpoint_dir=tmp_path, on_evaluation=lambda history: reached.append(history.steps[-1]))
    assert error.value.history.steps == [0, 3, 6]
    assert same(run(checkpoint_dir=tmp_path, resume=True), whole)


@pytest.mark.slow
@pytest.mark.parametrize("seconds, saved", [(0, 6), (61, 7)])
def test_interrupted_while_weights_change(seconds, saved, whole, tmp_path, monkeypatch):
    """The step is finished; a run whose steps take a minute saves between evaluations, too."""
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])

    def on_step(step, lr):
        clock[0] += seconds
        press(7)(step, lr)

    model, history = run(checkpoint_dir=tmp_path, on_step=on_step)
    assert history.steps == [0, 3, 6] and history.done == 8 and model.training
    assert [path.name[:13] for path in states(tmp_path)] == [f"step-0000000{saved}", "step-00000008"]
    newest = torch.load(states(tmp_path)[-1], weights_only=True)["model"]
    assert all(torch.equal(newest[name], p) for name, p in model.state_dict().items())
    assert same(run(checkpoint_dir=tmp_path, resume=True), whole)


def test_interrupted_while_layers_join(tmp_path, monkeypatch):
    whole, copy = run(config=DEEP), torch.Tensor.copy_

    def pressed(q, p):
        copy(q, p)
        if q.dim() == 1 and sys._getframe(1).f_code.co_name == "deepen":
            monkeypatch.setattr(torch.Tensor, "copy_", copy)
            os.kill(os.getpid(), signal.SIGINT)
        return q

    monkeypatch.setattr(torch.Tensor, "copy_", pressed)
    assert run(config=DEEP, checkpoint_dir=tmp_path)[1].done < STEPS
    assert same(run(config=DEEP, checkpoint_dir=tmp_path, resume=True), whole)


def test_states_are_in_the_order_of_their_steps(tmp_path):
    paths = [tmp_path / f"step-{step:08}-{'0' * 16}.pt" for step in (99_999_999, 100_000_000)]
    for path in paths:
        path.touch()
    assert checkpoint.states(tmp_path) == paths


# ---- the folder
def can_lock(folder):
    """Whether another process can use the folder."""
    code = "import sys, filelock; filelock.FileLock(sys.argv[1]).acquire(timeout=0)"
    command = [sys.executable, "-c", code, folder / ".matgpt-lock"]
    return not subprocess.run(command, capture_output=True).returncode


@pytest.mark.slow
def test_only_names_of_our_own_are_touched(tmp_path):
    for name in NOT_OURS:
        (tmp_path / name).write_text(name)
    (tmp_path / "step-00000000-0123456789abcdef.pt").mkdir()
    temporary = "step-00000002-0123456789abcdef.pt.matgpt-1.tmp"
    (tmp_path / temporary).touch()  # half a state, of a process that was killed
    run(checkpoint_dir=tmp_path, on_evaluation=stop(6))
    assert run(checkpoint_dir=tmp_path, resume=True)[1].done == STEPS
    assert all((tmp_path / name).read_text() == name for name in NOT_OURS)
    ours = {path.name for path in tmp_path.iterdir()} - {*NOT_OURS, ".matgpt-lock"}
    assert len(ours) == 2  # the last state, and the folder of such a name


@pytest.mark.slow
def test_a_second_run_is_refused_and_takes_no_lock_away(tmp_path):
    """As from another thread, or another notebook's cell that still runs."""

    def meanwhile(history):
        assert_refused(f"{tmp_path}.* is in use by another run$", run, checkpoint_dir=tmp_path, resume=True)
        assert not can_lock(tmp_path)
        raise KeyboardInterrupt

    assert run(checkpoint_dir=tmp_path, on_evaluation=meanwhile)[1].steps == [0]
    for wrong in (dict(seed=1), dict(on_evaluation=lambda history: 1 / 0)):
        with pytest.raises((ValueError, ZeroDivisionError)) as error:
            run(checkpoint_dir=tmp_path, resume=True, **wrong)
        assert can_lock(tmp_path) and error  # though the traceback is still referenced, as in a notebook
