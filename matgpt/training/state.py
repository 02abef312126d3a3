"""The state of a run on disk, from which it goes on as if it had never stopped."""

import hashlib
import io
import json
import signal
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch

from ..config import Size
from ..files.atomic import write

FORMAT = 1


def digest(ids):
    """What tells one corpus from another: the number of its tokens and a SHA-256 over them, read in pieces."""
    found = hashlib.sha256()
    for start in range(0, len(ids), 2**20):
        found.update(ids[start : start + 2**20].astype("<u4").tobytes())
    return f"{len(ids)} tokens with SHA-256 {found.hexdigest()[:16]}"


@contextmanager
def uninterrupted():
    """Hold back Ctrl-C until the block is done: what changes together is never left half changed."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield  # nothing here would raise KeyboardInterrupt
        return
    pressed = []
    signal.signal(signal.SIGINT, lambda *press: pressed.append(press))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed:
        handler(*pressed[0])


class RunState:
    """The state of one run in a folder: the newest and the one before it, as `step-<step>-<digest>.pt`.

    A file's name holds the digest of its bytes, so one atomic rename completes both and damage is noticed.
    A run goes on only with the same model, corpus and `settings`.
    Raises ValueError if the folder cannot be written, or holds a run that nobody asked to resume.
    """

    def __init__(self, folder, resume, model, train_ids, val_ids, **settings):
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(self.folder / "writable", b"")
            (self.folder / "writable").unlink()
        except OSError as error:
            raise ValueError(f"checkpoint_dir={str(folder)!r} cannot be written: {error.strerror}") from None
        if self.files() and not resume:
            raise ValueError(
                f"checkpoint_dir={str(folder)!r} already holds a run, kept in {self.files()[-1].name}: "
                "resume it, or name another folder"
            )
        run = {
            "format": FORMAT,
            "model": type(model).__name__,
            **vars(model.config),
            **settings,
            "train_ids": digest(train_ids),
            "val_ids": digest(val_ids),
        }
        self.run = json.loads(json.dumps(run, default=lambda x: str(x) if isinstance(x, Size) else float(x)))
        self.saved, self.cost = time.monotonic(), 0.0

    def files(self):
        return sorted(self.folder.glob("step-*.pt"))

    def due(self):
        """Whether a minute of work could be lost, and saving it costs less than a hundredth of the time."""
        return time.monotonic() - self.saved > max(60, 100 * self.cost)

    def save(self, step, model, optimizer, history):
        """Keep the state behind `step` steps. Raises OSError if there is no room, with the last state intact."""
        started = time.monotonic()
        buffer = io.BytesIO()
        torch.save(
            {
                "run": self.run,
                "step": step,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": history.as_dict(),
            },
            buffer,
        )
        data = buffer.getbuffer()
        try:
            write(self.folder / f"step-{step:08}-{hashlib.sha256(data).hexdigest()[:16]}.pt", data)
        except OSError as error:
            last = (
                f"{self.files()[-1].name} is intact: make room and resume"
                if self.files()
                else "nothing was kept"
            )
            raise OSError(
                error.errno,
                f"{error.strerror}: the state of step {step} could not be written to {self.folder}; {last}",
            ) from None
        for path in set(self.folder.glob("step-*")) - {*self.files()[-2:], *self.folder.glob("*.damaged")}:
            path.unlink()  # older ones, and what a killed process left half written
        self.saved = time.monotonic()
        self.cost = self.saved - started

    def restore(self):
        """The newest intact state, on the CPU, or None if the folder has none yet.

        A damaged file is reported, set aside, and the one before it taken. Raises ValueError if all are
        damaged, or if the state is that of another run, saying what differs.
        """
        damaged = []
        for path in reversed(self.files()):
            try:
                data = path.read_bytes()
                if hashlib.sha256(data).hexdigest()[:16] != path.stem.split("-")[2]:
                    raise ValueError("its bytes are not those that were written")
                state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            except Exception as error:
                warnings.warn(f"{path} is damaged ({error}); taking the state before it")
                damaged.append(path)
                continue
            was = state["run"]
            different = [
                f"{name} was {was.get(name)}, is {self.run.get(name)}"
                for name in {**was, **self.run}
                if was.get(name) != self.run.get(name)
            ]
            if different:
                raise ValueError(f"{path} is the state of another run: " + "; ".join(different))
            for path in damaged:
                path.rename(f"{path}.damaged")
            return state
        if damaged:
            raise ValueError(
                f"no state in {self.folder} is intact: {', '.join(path.name for path in damaged)}"
            )
        return None
