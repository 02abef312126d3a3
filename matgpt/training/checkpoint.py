"""The state of a run on disk, from which it resumes as if it had never stopped."""

import hashlib
import io
import json
import pickle
import re
import time
import warnings
from contextlib import suppress
from dataclasses import asdict

import numpy as np
import torch
from filelock import FileLock, Timeout

from ..files.atomic import as_path, parsed, write
from ..files.checkpoint import read_weights
from .history import History

FORMAT = 6
NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{16})\.pt")  # step, first digits of the SHA-256 of its bytes
TEMPORARY = re.compile(NAME.pattern + r"\.matgpt-\d+\.tmp")  # left by a process that was killed
# settings that may differ when a run resumes
FREE = ("progress", "on_evaluation", "checkpoint_dir", "resume", "overwrite", "threads")


def digest(ids):
    """Describe a corpus by the number of its tokens and a SHA-256, read in pieces."""
    ids, sha = np.asarray(ids), hashlib.sha256()
    for start in range(0, len(ids), 2**20):
        sha.update(ids[start : start + 2**20].astype("<u4").tobytes())
    return f"{len(ids)} tokens with SHA-256 {sha.hexdigest()[:16]}"


def states(folder, name=NAME):
    """List the state files in a folder, by step."""
    matches = [(name.fullmatch(path.name), path) for path in folder.glob("step-*")]
    return [path for _, path in sorted((int(m[1]), path) for m, path in matches if m and path.is_file())]


def model_digest(folder):
    """Return the SHA-256 of the model that `save` wrote to a folder, or None if there is none."""
    path = folder / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def ended(folder):
    """Return the history.json of a run of the command that ended in a folder, with its model; else None."""
    with suppress(ValueError), parsed(folder / "history.json") as record:
        finished = History.from_dict(record).finished
        if finished and record["train_wrote"] == model_digest(folder):
            return record
    return None


def lock(folder, name):
    """Lock a folder until the end of a `with` block. ValueError, with that name, if another run uses it."""
    try:
        return FileLock(folder / ".matgpt-lock").acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{name} is in use by another run") from None


class Checkpoint:
    """The states of one run in a folder, as `step-<step>-<digest>.pt`.

    These are the newest two, or the last one of a finished run. The command replaces that by model and
    history.json. A file's name holds the digest of its bytes, so one atomic rename completes both, and
    damage is noticed. Files of other names are not touched. The folder is locked against other runs until the
    end of a block `with checkpoint.lock`. Raises ValueError if the folder cannot be written, is in use, or
    holds a run and neither `resume` nor `overwrite` is set.
    """

    def __init__(self, model, settings, data):
        told = {name: value for name, value in vars(settings).items() if name not in FREE}
        kind = dict(format=FORMAT, model=type(model).__name__, weights=str(model.embedding.token.dtype))
        kind["frozen"] = [name for name, p in model.named_parameters() if not p.requires_grad]
        run = {**kind, **asdict(model.config), **told, **data}
        self.run = json.loads(json.dumps(run, default=str))  # what a run must share with the one it resumes
        self.budget = "steps" if settings.flops is None else "flops"
        self.folder = as_path(settings.checkpoint_dir)
        self.saved, self.cost, self.states = time.monotonic(), 0.0, []  # the states of this run, newest last
        name = f"checkpoint_dir={str(settings.checkpoint_dir)!r}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = lock(self.folder, name)
            if not (settings.resume or settings.overwrite) and (states(self.folder) or ended(self.folder)):
                self.lock.lock.release()
                holds = f"{name} already holds a run"
                raise ValueError(f"{holds}: resume it, remove its states, or name another folder")
        except OSError as error:
            raise ValueError(f"{name} cannot be written: {error.strerror}") from None

    def due(self):
        """Say whether a minute of work could be lost, and saving costs less than a hundredth of the time."""
        return time.monotonic() - self.saved > max(60, 100 * self.cost)

    def save(self, model, optimizers, history):
        """Write the state, and remove others: a finished run keeps its last one, from which it is extended.

        Raises OSError, with the last state intact, if there is no room.
        """
        started, buffer = time.monotonic(), io.BytesIO()
        optimizer = [each.state_dict() for each in optimizers]
        state = {"model": model.state_dict(), "optimizer": optimizer, "history": history.as_dict()}
        torch.save({"run": self.run, **state}, buffer)
        data = buffer.getbuffer()
        path = self.folder / f"step-{history.done:08}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
        try:
            write(path, data)
        except OSError as error:
            intact = [f"; {path.name} is intact: make room and resume" for path in states(self.folder)][-1:]
            problem = f"the state of step {history.done} could not be written to {self.folder}"
            raise OSError(error.errno, f"{error.strerror}: {problem}{''.join(intact)}") from None
        self.states = [path] if history.finished else [*self.states[-1:], path]
        for old in {*states(self.folder), *states(self.folder, TEMPORARY)} - {*self.states}:
            old.unlink()
        self.saved = time.monotonic()
        self.cost = self.saved - started

    def restore(self):
        """Return the newest intact state, on the CPU, or None if the folder has none yet.

        A damaged file is reported, renamed, and the one before it taken. A finished run may be given a larger
        budget ("steps" or "flops"); no other setting may differ. Raises ValueError, saying what differs, or
        if every state is damaged; an OSError of the disk passes through.
        """
        damaged = []
        for path in reversed(states(self.folder)):
            data = path.read_bytes()
            try:
                if hashlib.sha256(data).hexdigest()[:16] != NAME.fullmatch(path.name)[2]:
                    raise EOFError("its bytes are not those that were written")
                state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
                was, history = dict(state["run"]), state["history"]
            except (EOFError, pickle.UnpicklingError, LookupError, TypeError) as error:
                warnings.warn(f"{path} is damaged ({error}): taking the state before it", stacklevel=3)
                damaged.append(path)
                continue
            self._compare(was, history)
            for each in damaged:
                each.rename(f"{each}.damaged")
            self.states = [path]
            return state
        if damaged:
            raise ValueError(f"no state in {self.folder} is intact: {', '.join(p.name for p in damaged)}")
        if record := ended(self.folder):
            self._compare(record["run"], record)
            weights, _ = read_weights(self.folder / "model.safetensors")
            return {"model": weights, "optimizer": [], "history": record}  # optimizers begin afresh
        return None

    def _compare(self, was, history):
        """Raise ValueError unless the state is that of this run, or of a finished one to be extended."""
        names = [name for name in {**was, **self.run} if was.get(name) != self.run.get(name)]
        budgets, spent = {"steps", "flops"} & {*names}, history["done" if self.budget == "steps" else "spent"]
        if budgets == {self.budget} and self.run[self.budget] > was[self.budget] <= spent:
            history["start"] = was[self.budget]
            names.remove(self.budget)
        if names:
            different = [f"{name} was {was.get(name)}, is {self.run.get(name)}" for name in names]
            anew = "; overwrite=True in place of resume=True begins anew"
            raise ValueError(f"{self.folder} holds another run: {'; '.join(different)}{anew}")
