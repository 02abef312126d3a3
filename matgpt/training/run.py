"""One run of training: what it holds, its step, and how far it has come."""

import math
import time

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ..files.checkpoint import unwrapped
from ..measure.evaluation import evaluate, precision
from ..text.batches import batch
from .history import History
from .loss import matryoshka_backward, weigh
from .optimizer import learning_rate, make_optimizers
from .price import price, union
from .schedule import Schedule
from .state import uninterrupted


class DivergedError(FloatingPointError):
    """A loss was not finite; `history` holds what was measured until then."""

    def __init__(self, message, history=None):  # unpickled, it has its history only afterwards
        super().__init__(message)
        self.history = history


class Run:
    """One run: its text, optimizers and schedule, and how far it has come (`done` steps, in `history`)."""

    def __init__(self, model, train_ids, settings):
        self.model, self.ids, self.settings = unwrapped(model)[0], train_ids, settings
        self.device = model.embedding.token.device
        distributed = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        if settings["batch_size"] % self.world:
            wanted = f"must be divisible by the number of processes, {self.world}"
            raise ValueError(f"batch_size={settings['batch_size']} {wanted}")
        self.parallel = DistributedDataParallel(model) if self.world > 1 else model
        lr, weights = settings["lr"], settings["loss_weights"]
        self.optimizers = make_optimizers(settings["optimizer"], model, lr, settings["weight_decay"])
        self.schedule = Schedule(model, [size for size in model.sizes if weights[size]])
        self.history, self.done = History(model.sizes, lr=lr), 0

    def spent(self):
        """The share of the budget that is spent, of steps or of FLOPs: 1 at the end."""
        steps, flops = self.settings["steps"], self.settings["flops"]
        return min(1.0, self.done / steps if flops is None else self.history.spent / flops)

    def restore(self, state):
        """Go on from a state that RunState kept; None: from the beginning."""
        if self.world > 1:  # only the first process needs to see the folder
            dist.broadcast_object_list(shared := [state])
            state = shared[0]
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizers.load_state_dict(state["optimizer"])
            self.history, self.done = History.from_dict(state["history"]), state["step"]

    def read(self, n, rng):
        """Tokens x and what follows each, y, both (n, T), or this process's share of these sequences."""
        T = self.model.config.block_size
        starts = rng.integers(len(self.ids) - T, size=n)[self.rank :: self.world]
        return batch(self.ids, starts, T, self.device)

    def counts(self, spent, rng):
        """[(trunk, sequences that it reads)] in this step; fractions of a sequence are by chance."""
        drawn, most = self.schedule.draw(spent, rng), self.settings["batch_size"]
        counts = [(trunk, int(share * most + rng.random())) for trunk, share in drawn]
        return [(trunk, n) for trunk, n in counts if n]

    def weights(self, counts):
        """What a token counts for, by size."""
        return self.settings["loss_weights"]

    def parts(self, counts, rng):
        """(trunk, x, y) for each: text of its own, of which another process may have all."""
        parts = [(trunk, *self.read(n, rng)) for trunk, n in counts]
        return [part for part in parts if len(part[1])]

    def backward(self, spent, rng):
        """Add the gradient of a step; returns its losses by size, the sizes that ran, and their FLOPs."""
        model, counts = self.model, self.counts(spent, rng)
        weights = self.weights(counts)
        total = sum(weigh(weights, trunk) * n for trunk, n in counts) / self.world  # gradients are averaged
        parts, dtype = self.parts(counts, rng), self.settings["dtype"]
        losses = matryoshka_backward(self.parallel, parts, weights, total, dtype)
        flops = sum(price(model, trunk) * n for trunk, n in counts) * model.config.block_size
        return losses, [model.trunk_size(trunk[0]) for trunk, _ in counts], flops

    def step(self):
        """Train the dolls whose turn it is, each trunk of them on text of its own."""
        model, s, spent, started = self.model, self.settings, self.spent(), time.monotonic()
        # all that is random in a step follows from seed and step alone
        rng = np.random.default_rng((s["seed"], self.done))
        torch.manual_seed(int(rng.integers(2**31)) + self.rank)
        losses, ran, flops = self.backward(spent, rng)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), s["grad_clip"] or math.inf)
        if not torch.stack([norm, *losses.values()]).isfinite().all():
            raise self.diverged()
        read = union(model.config, ran)
        self.optimizers.set_lr(learning_rate(spent, s["lr"], s["warmup"]))
        with uninterrupted(), precision(self.device, s["dtype"]):
            self.optimizers.step(read)
            self.history.spent += flops + self.optimizers.flops(read)
            self.done += 1
        model.zero_grad()
        self.history.seconds += time.monotonic() - started

    def losses(self, val_ids):
        """{size: (loss on the training text, loss on that for validation)}, each on part of it."""
        blocks, both = self.settings["eval_blocks"], (self.ids, val_ids)
        return {s: [evaluate(self.model, ids, s, blocks) for ids in both] for s in self.model.sizes}

    def evaluate(self, val_ids):
        """Add an entry to the history."""
        losses = self.losses(val_ids)
        if not np.isfinite(list(losses.values())).all():
            raise self.diverged()
        with uninterrupted():
            self.history.add(self.done, losses)

    def due(self):
        """Whether to evaluate now: at the beginning, the end, and each interval or tenth of the budget."""
        every, spent, steps = self.settings["eval_interval"], self.spent(), self.history.steps
        tenth = self.done % every == 0 if every else round(10 * spent, 6) >= len(steps)
        return (tenth or spent == 1) and self.done not in steps[-1:]

    def diverged(self):
        what = f"the loss is not finite with lr={self.history.lr:g}; try a smaller one"
        return DivergedError(f"step {self.done}: {what}", self.history)
