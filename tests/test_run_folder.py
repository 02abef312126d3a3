"""The folder of a run: files of the user stay as they are, and one process at a time writes to it."""

import subprocess
import sys

import pytest

from matgpt import GPTConfig, MatryoshkaGPT, Size, between, train
from matgpt.training.checkpoint import Checkpoint
from matgpt.training.loop import Settings

RANGE = between(Size(8, 1, 1), Size(12, 2, 2), multiple_of=4)
STATE = "step-00000003-0123456789abcdef.pt"
NOT_OURS = ("step-3.pt", STATE.replace("f.", "g."), STATE.replace("step", "STEP"), f"{STATE}.tmp", "lock")


def run(folder, **settings):
    """The history of a short run in `folder`, which reaches step 8 unless it is stopped."""
    model, ids = MatryoshkaGPT(GPTConfig(11, 7, 12, 2, 2, nesting=RANGE)), [i % 11 for i in range(400)]
    shared = dict(steps=8, batch_size=2, eval_interval=2, eval_blocks=4, progress=False)
    return train(model, ids, ids, checkpoint_dir=folder, **shared | settings)


def interrupt(history):
    if history.steps[-1] >= 4:
        raise KeyboardInterrupt


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
    run(tmp_path, on_evaluation=interrupt)
    assert run(tmp_path, resume=True).done == 8
    assert all((tmp_path / name).read_text() == name for name in NOT_OURS)
    ours = {path.name for path in tmp_path.iterdir()} - {*NOT_OURS, ".matgpt-lock"}
    assert len(ours) == 3  # the newest state, the one before it, and the folder of such a name


def test_states_of_many_steps_are_in_order(tmp_path):
    for step in (99_999_999, 100_000_000, 5):
        (tmp_path / f"step-{step:08}-0123456789abcdef.pt").touch()
    settings = Settings(checkpoint_dir=tmp_path, resume=True)
    with Checkpoint(MatryoshkaGPT(GPTConfig(11, 7, 12, 2, 2)), settings, {}) as checkpoint:
        steps = [path.name.split("-")[1] for path in checkpoint.files()]
    assert steps == ["00000005", "99999999", "100000000"]


@pytest.mark.slow
def test_a_second_run_is_refused_and_takes_no_lock_away(tmp_path):
    """As from another thread, or another notebook's cell that still runs."""

    def meanwhile(history):
        for resume in (False, True):
            with pytest.raises(ValueError, match=f"{tmp_path}.* is in use by another run$"):
                run(tmp_path, resume=resume)
        assert not can_lock(tmp_path)
        raise KeyboardInterrupt

    assert run(tmp_path, on_evaluation=meanwhile).steps == [0]
    for wrong in (dict(seed=1), dict(on_evaluation=lambda history: 1 / 0)):
        with pytest.raises((ValueError, ZeroDivisionError)) as error:
            run(tmp_path, resume=True, **wrong)
        assert can_lock(tmp_path) and error  # though the traceback is still referenced, as in a notebook
