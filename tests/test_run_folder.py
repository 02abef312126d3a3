"""The folder of a run: files of the user stay as they are, and one process at a time writes to it."""

import subprocess
import sys

import pytest

from .conftest import assert_refused
from .test_resume import STEPS, run, stop

STATE = "step-00000003-0123456789abcdef.pt"
NOT_OURS = ("step-3.pt", STATE.replace("f.", "g."), STATE.replace("step", "STEP"), f"{STATE}.tmp", "lock")


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
