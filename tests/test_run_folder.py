"""The folder of a run: what is there of the user's stays, and one process at a time writes to it."""

import hashlib
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from matgpt import DivergedError, GPTConfig, History, Size, between
from matgpt.training.state import RunState

from .test_resume import run, states, stop

ROOT = Path(__file__).parent.parent
NAMES = (
    "step-notes.txt",
    "step-100.png",
    "step-best.pt",
    "step-00000003.pt",
    "step-00000003-0123456789abcdeg.pt",
    "step-00000003-0123456789abcdef.pt.tmp",
    "step-00000003-0123456789abcdef.pt.bak",
    "STEP-00000003-0123456789abcdef.pt",
    "writable",
    "lock",
)


@pytest.mark.slow
def test_only_names_of_our_own_are_touched(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_text(name)
    (tmp_path / "step-1000").mkdir()
    (tmp_path / "step-00000000-0123456789abcdef.pt").mkdir()
    left = "step-00000002-0123456789abcdef.pt.matgpt-1.tmp"
    (tmp_path / left).touch()  # half a state, of a process that was killed
    run(checkpoint_dir=tmp_path, on_evaluation=stop(9))
    run(checkpoint_dir=tmp_path, resume=True)
    assert all((tmp_path / name).read_text() == name for name in NAMES)
    assert (tmp_path / "step-1000").is_dir() and not (tmp_path / left).exists()
    ours = {path.name for path in tmp_path.iterdir()} - {*NAMES, "step-1000", ".matgpt-lock"}
    assert len(ours) == 3  # the newest state, the one before it, and the folder of such a name


def test_a_backup_does_not_take_the_place_of_a_state(tmp_path):
    run(checkpoint_dir=tmp_path, on_evaluation=stop(9))
    newest = states(tmp_path)[-1]
    (tmp_path / "step-best.pt").write_bytes(b"mine")
    assert run(checkpoint_dir=tmp_path, resume=True)[1].steps[-1] == 16
    assert not newest.exists() or newest in states(tmp_path)
    assert (tmp_path / "step-best.pt").read_bytes() == b"mine" and not list(tmp_path.glob("*.damaged"))


def test_states_of_many_steps_are_in_order(tmp_path):
    state = RunState.__new__(RunState)
    state.folder = tmp_path
    for step in (99_999_999, 100_000_000, 5):
        (tmp_path / f"step-{step:08}-0123456789abcdef.pt").touch()
    assert [path.name.split("-")[1] for path in state.files()] == ["00000005", "99999999", "100000000"]


HOLD = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire(timeout=0)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_second_process_is_refused(tmp_path):
    command = [sys.executable, "-c", HOLD, tmp_path / ".matgpt-lock"]
    other = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other:
        assert other.stdout.readline() == b"locked\n"
        for resume in (False, True):
            with pytest.raises(ValueError, match=f"{tmp_path}.* is in use by another run$"):
                run(checkpoint_dir=tmp_path, resume=resume)
        other.kill()  # the lock goes with the process, however it ends
        other.wait()
    assert run(checkpoint_dir=tmp_path, resume=True)[1].steps[-1] == 16


@pytest.mark.slow
def test_the_lock_is_given_back(tmp_path):
    """Also where a run ended by an error whose traceback is still held, as in a notebook."""
    held = []
    run(checkpoint_dir=tmp_path, on_evaluation=stop(3))
    for wrong in (dict(seed=1), dict(on_evaluation=lambda _: 1 / 0)):
        with pytest.raises((ValueError, ZeroDivisionError)) as error:
            run(checkpoint_dir=tmp_path, resume=True, **wrong)
        held.append(error)
        command = [sys.executable, "-c", HOLD, tmp_path / ".matgpt-lock"]
        subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_of_the_same_process_is_refused_and_takes_no_lock_away(resume, tmp_path):
    """As from another thread, or another notebook's cell that was left running."""
    command = [sys.executable, "-c", HOLD, tmp_path / ".matgpt-lock"]

    def meanwhile(history):
        with pytest.raises(ValueError, match="is in use by another run"):
            run(checkpoint_dir=tmp_path, resume=resume)
        assert subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True).returncode
        raise KeyboardInterrupt

    assert run(checkpoint_dir=tmp_path, on_evaluation=meanwhile)[1].steps == [0]


@pytest.mark.parametrize("state", [{}, [], {"run": 3}, {"run": [1]}, None, 5])
def test_a_state_that_lacks_its_run_is_damaged(state, tmp_path):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    (tmp_path / f"step-00000001-{digest}.pt").write_bytes(buffer.getvalue())
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(ValueError, match="no state in .* is intact"),
    ):
        run(checkpoint_dir=tmp_path, resume=True)


def test_a_diverged_error_comes_through_a_process_pool():
    history = History((Size(4, 1, 1),))
    history.steps.append(3)
    error = pickle.loads(pickle.dumps(DivergedError("step 3: not finite", history)))
    assert str(error) == "step 3: not finite" and error.history == history


def test_a_run_with_a_range_is_kept(tmp_path):
    config = GPTConfig(11, 7, 12, 2, 2, nesting=between(Size(8, 1, 1), Size(12, 2, 2), multiple_of=4))
    run(checkpoint_dir=tmp_path, config=config, on_evaluation=stop(3))
    assert run(checkpoint_dir=tmp_path, config=config, resume=True)[1].steps[-1] == 16


def test_an_interrupt_before_the_first_step_gives_the_folder_back(tmp_path, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("matgpt.training.loop.slow_threads", interrupted)
    with pytest.raises(KeyboardInterrupt) as held:
        run(checkpoint_dir=tmp_path, on_evaluation=print)
    monkeypatch.undo()
    assert run(checkpoint_dir=tmp_path)[1].steps[-1] == 16 and held  # as a notebook holds the last error
