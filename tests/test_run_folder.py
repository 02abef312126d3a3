"""The folder of a run: files of the user stay as they are, and one process at a time writes to it."""

import pickle
import subprocess
import sys

import pytest

from matgpt import DivergedError, GPTConfig, History, MatryoshkaGPT, Size, between, train
from matgpt.training.checkpoint import Checkpoint

RANGE = between(Size(8, 1, 1), Size(12, 2, 2), multiple_of=4)
NOT_OURS = (
    "step-notes.txt",
    "step-best.pt",
    "step-00000003.pt",
    "step-00000003-0123456789abcdeg.pt",
    "step-00000003-0123456789abcdef.pt.tmp",
    "STEP-00000003-0123456789abcdef.pt",
    "lock",
)


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
    with Checkpoint(tmp_path, resume=True, run={}) as checkpoint:
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


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [dict(seed=1), dict(on_evaluation=lambda history: 1 / 0)])
def test_the_lock_is_given_back(wrong, tmp_path):
    """Also where a run ended by an error whose traceback is still referenced, as in a notebook."""
    run(tmp_path, on_evaluation=interrupt)
    with pytest.raises((ValueError, ZeroDivisionError)) as error:
        run(tmp_path, resume=True, **wrong)
    assert can_lock(tmp_path) and error


def test_a_diverged_error_comes_through_a_process_pool():
    history = History((Size(4, 1, 1),))
    history.steps.append(3)
    error = pickle.loads(pickle.dumps(DivergedError("step 3: not finite", history)))
    assert str(error) == "step 3: not finite" and error.history == history
