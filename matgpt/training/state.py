"""The state of a run on disk, from which it goes on as if it had never stopped."""

import dataclasses
import hashlib
import io
import json
import re
import signal
import threading
import time
import warnings
from contextlib import contextmanager
from numbers import Number

import torch
from filelock import FileLock, Timeout

from ..files.atomic import as_path, write

FORMAT = 1
NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{16})\.pt")  # step, beginning of the SHA-256 of its bytes
LEFT = re.compile(NAME.pattern + r"\.matgpt-\d+\.tmp")  # by a process that was killed while it wrote


def digest(ids):
    """What tells one corpus from another: the number of its tokens and a SHA-256, read in pieces."""
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

    A file's name holds the digest of its bytes, so one atomic rename completes both and damage is noticed;
    files of other names are not touched. A run goes on only with the same model, corpus and settings.
    Until `close`, or the end of this process, the folder is locked against other runs.
    Raises ValueError if the folder cannot be written, is in use, or holds a run that nobody asked to resume.
    """

    def __init__(self, folder, resume, run, val_ids):
        settings = {**run.settings, "loss_weights": list(run.settings["loss_weights"].values())}
        corpus = {"train_ids": digest(run.ids), "val_ids": digest(val_ids)}
        model = {"model": type(run.model).__name__, **dataclasses.asdict(run.model.config)}
        plain = lambda x: float(x) if isinstance(x, Number) else str(x)
        self.run = json.loads(json.dumps({"format": FORMAT, **model, **settings, **corpus}, default=plain))
        self.folder = as_path(folder)
        self.lock = FileLock(self.folder / ".matgpt-lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"checkpoint_dir={str(folder)!r} is in use by another run") from None
        except OSError as error:
            raise ValueError(f"checkpoint_dir={str(folder)!r} cannot be written: {error.strerror}") from None
        if self.files() and not resume:
            self.close()
            raise ValueError(
                f"checkpoint_dir={str(folder)!r} already holds a run, kept in {self.files()[-1].name}: "
                "resume it, remove it, or name another folder"
            )
        self.saved, self.cost = time.monotonic(), 0.0

    def close(self):
        """Let other runs use the folder."""
        self.lock.release()

    def files(self, name=NAME):
        """Files of our own, by step."""
        found = [(name.fullmatch(path.name), path) for path in self.folder.iterdir()]
        return [path for _, path in sorted((int(m[1]), path) for m, path in found if m and path.is_file())]

    def due(self):
        """Whether a minute of work could be lost, and saving it costs less than a hundredth of the time."""
        return time.monotonic() - self.saved > max(60, 100 * self.cost)

    def save(self, run):
        """Keep the state of the run. OSError, with the last one intact, if there is no room."""
        started, buffer, step = time.monotonic(), io.BytesIO(), run.done
        state = {"model": run.model.state_dict(), "optimizer": run.optimizers.state_dict()}
        torch.save({"run": self.run, "step": step, **state, "history": run.history.as_dict()}, buffer)
        data = buffer.getbuffer()
        try:
            write(self.folder / f"step-{step:08}-{hashlib.sha256(data).hexdigest()[:16]}.pt", data)
        except OSError as error:
            kept = [f"{path.name} is intact: make room and resume" for path in self.files()]
            last = kept[-1] if kept else "nothing was kept"
            what = f"{error.strerror}: the state of step {step} could not be written to {self.folder}; {last}"
            raise OSError(error.errno, what) from None
        for path in self.files()[:-2] + self.files(LEFT):
            path.unlink()
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
                if hashlib.sha256(data).hexdigest()[:16] != NAME.fullmatch(path.name)[2]:
                    raise ValueError("its bytes are not those that were written")
                state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
                was = dict(state["run"])
            except Exception as error:
                warnings.warn(f"{path} is damaged ({error}); taking the state before it", stacklevel=3)
                damaged.append(path)
                continue
            names = [name for name in {**was, **self.run} if was.get(name) != self.run.get(name)]
            if names:
                self.close()
                different = [f"{name} was {was.get(name)}, is {self.run.get(name)}" for name in names]
                raise ValueError(f"{path} is the state of another run: " + "; ".join(different))
            for path in damaged:
                path.rename(f"{path}.damaged")
            return state
        if damaged:
            self.close()
            names = ", ".join(path.name for path in damaged)
            raise ValueError(f"no state in {self.folder} is intact: {names}")
        return None
