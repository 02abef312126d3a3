"""What a run measured."""

import json
from dataclasses import dataclass, field

from ..config import Size
from ..files.atomic import as_path, parsed, write
from ..measure.evaluation import BySize


@dataclass
class History:
    """What `train` measured: one entry an evaluation in `steps`, `flops` and each list of `train` and `val`.

    Losses are mean cross-entropies in nats per token, by Size (or by a width that names one). `flops` are
    those of the steps until then: forward and backward passes and the optimizer's own; `spent` are those
    until now. `seconds` are those spent in steps, evaluation left out; they are not kept, since no two runs
    have the same.
    """

    sizes: tuple[Size, ...]
    steps: list[int] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)
    train: dict[Size, list[float]] = None
    val: dict[Size, list[float]] = None
    lr: float = None
    spent: int = 0
    seconds: float = field(default=0.0, compare=False)

    def __post_init__(self):
        for name in ("train", "val"):
            if getattr(self, name) is None:
                setattr(self, name, BySize((size, []) for size in self.sizes))

    def add(self, step, losses):
        """An evaluation behind `step` steps; losses: {size: (training loss, validation loss)}."""
        self.steps.append(step)
        self.flops.append(self.spent)
        for size, (train_loss, val_loss) in losses.items():
            self.train[size].append(train_loss)
            self.val[size].append(val_loss)

    def as_dict(self):
        """Plain lists and numbers; a size is the text that `Size.parse` reads."""
        by_text = lambda losses: {str(size): losses[size] for size in self.sizes}
        numbers = {name: getattr(self, name) for name in ("lr", "steps", "flops", "spent")}
        losses = {"train": by_text(self.train), "val": by_text(self.val)}
        return {"sizes": [str(size) for size in self.sizes], **numbers, **losses}

    @classmethod
    def from_dict(cls, kept):
        """The history of which that is the `as_dict`."""
        sizes = tuple(Size.parse(text) for text in kept["sizes"])
        losses = {name: BySize((size, kept[name][str(size)]) for size in sizes) for name in ("train", "val")}
        return cls(sizes, kept["steps"], kept["flops"], **losses, lr=kept["lr"], spent=kept["spent"])

    def save(self, path):
        """Keep it as JSON."""
        write(as_path(path), json.dumps(self.as_dict(), indent=1).encode())

    @classmethod
    def load(cls, path):
        """What `save` kept. Raises ValueError, naming the file, if it is missing or holds no history."""
        with parsed(as_path(path), "a history") as kept:
            history = cls.from_dict(kept)
            columns = [*history.train.values(), *history.val.values()]
            if any(not isinstance(c, list) or len(c) != len(history.steps) for c in columns):
                raise ValueError("it has not as many losses as steps")
            return history
