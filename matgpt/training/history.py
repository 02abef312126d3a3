"""What a run measured."""

import json
from dataclasses import dataclass, field

from .. import plot
from ..files.atomic import as_path, parsed, write
from ..measure.evaluation import BySize
from ..sizes import Size

NUMBERS = "done", "spent", "start"


@dataclass
class History:
    """What `train` measured: one entry an evaluation in `steps`, `flops` and each list of `train` and `val`.

    Losses are mean cross-entropies in nats per token, by Size (or by a width that names one). `flops` are
    those of the steps until then: forward and backward passes and the optimizer's own. `done` and `spent` are
    the steps and FLOPs until now, `start` how much of the budget was spent before the run was extended, and
    `finished` says whether all of it is. `seconds` is the time spent in steps, evaluation left out, and `run`
    describes a run that leaves states. These two are not saved.
    """

    sizes: tuple[Size, ...]
    steps: list[int] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)
    train: dict[Size, list[float]] = None
    val: dict[Size, list[float]] = None
    lr: float = None
    done: int = 0
    spent: int = 0
    start: float = 0
    finished: bool = False
    seconds: float = field(default=0.0, compare=False)
    run: dict = field(default=None, compare=False)

    def __post_init__(self):
        for name in ("train", "val"):
            if getattr(self, name) is None:
                setattr(self, name, BySize((size, []) for size in self.sizes))

    def add(self, train_losses, val_losses):
        """Record an evaluation after `done` steps; losses: {size: nats}."""
        self.steps.append(self.done)
        self.flops.append(self.spent)
        for losses, new in ((self.train, train_losses), (self.val, val_losses)):
            for size in self.sizes:
                losses[size].append(new[size])

    def __str__(self):
        """Return a table: a row for each evaluation, with the validation loss of every doll."""
        rows = [["step", "FLOPs", *map(str, self.sizes)]]
        for i, (step, flops) in enumerate(zip(self.steps, self.flops)):
            rows.append([f"{step:,}", f"{flops:.2e}", *(f"{self.val[size][i]:.4f}" for size in self.sizes)])
        widths = [max(map(len, column)) for column in zip(*rows)]
        return "\n".join("  ".join(cell.rjust(n) for cell, n in zip(row, widths)) for row in rows)

    __repr__ = __str__

    def plot(self, x="steps"):
        """Draw the losses against "steps" or "flops": see `matgpt.plot.losses`."""
        return plot.losses(self, x)

    def as_dict(self):
        """Return plain lists and numbers; a size is the text that `Size.parse` reads."""
        record = {name: getattr(self, name) for name in ("lr", "steps", "flops", *NUMBERS, "finished")}
        for name in ("train", "val"):
            record[name] = {str(size): losses for size, losses in getattr(self, name).items()}
        return {"sizes": [str(size) for size in self.sizes], **record}

    @classmethod
    def from_dict(cls, record):
        """Return the history that `as_dict` wrote. Raises ValueError where its lists do not fit together."""
        sizes = tuple(Size.parse(text) for text in record["sizes"])
        train, val = (BySize((size, record[name][str(size)]) for size in sizes) for name in ("train", "val"))
        steps, flops, numbers = record["steps"], record["flops"], [record[name] for name in NUMBERS]
        columns = [steps, flops, *train.values(), *val.values()]
        if not all(isinstance(x, (int, float)) for column in (numbers, *columns) for x in column):
            raise ValueError("it must hold numbers")
        whole = all(isinstance(n, int) for n in (*steps, record["done"]))
        if not whole or {*map(len, columns)} != {len(steps)}:
            raise ValueError("its lists must be as long as that of its steps, which are whole numbers")
        finished = record.get("finished", False)  # earlier versions do not say
        return cls(sizes, steps, flops, train, val, record["lr"], *numbers, finished)

    def save(self, path):
        """Write the history to `path` as JSON."""
        write(as_path(path), json.dumps(self.as_dict(), indent=1).encode())

    @classmethod
    def load(cls, path):
        """Read what `save` wrote. Raises ValueError, naming the file, if it is missing or not a history."""
        with parsed(as_path(path)) as record:
            return cls.from_dict(record)
