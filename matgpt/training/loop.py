"""The training loop: check, prepare, then step after step until the budget is spent."""

import math
import numbers
import time

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ..config import positive
from ..measure.evaluation import evaluate
from ..text.batches import as_ids, batch
from .history import History
from .loss import check_weights, matryoshka_backward
from .optimizer import default_lr, learning_rate, make_optimizers
from .price import price, union
from .progress import Progress, in_notebook
from .schedule import Schedule
from .state import RunState, uninterrupted
from .threads import slow_threads


class DivergedError(FloatingPointError):
    """A loss was not finite; `history` holds what was measured until then."""

    def __init__(self, message, history):
        super().__init__(message, history)
        self.history = history

    def __str__(self):
        return self.args[0]


class Run:
    """One run: its text, optimizers and schedule, and how far it has come (`done` steps, in `history`)."""

    def __init__(self, model, train_ids, settings):
        self.model, self.ids, self.settings = model, train_ids, settings
        self.device = model.embedding.token.device
        distributed = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        if settings["batch_size"] % self.world:
            wanted = f"must be divisible by the number of processes, {self.world}"
            raise ValueError(f"batch_size={settings['batch_size']} {wanted}")
        self.parallel = DistributedDataParallel(model) if self.world > 1 else model
        self.optimizers = make_optimizers(
            settings["optimizer"], model, settings["lr"], settings["weight_decay"]
        )
        weights = settings["loss_weights"]
        self.schedule = Schedule(model, [size for size in model.sizes if weights[size]])
        self.history, self.done = History(model.sizes, lr=settings["lr"]), 0

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

    def read(self, trunks, rng):
        """Tokens (N, B, T) of a step and what follows each: a batch for each of the N trunks."""
        T, size = self.model.config.block_size, (len(trunks), self.settings["batch_size"])
        starts = rng.integers(len(self.ids) - T, size=size)[:, self.rank :: self.world]
        return batch(self.ids, starts, T, self.device)

    def step(self):
        """Train the dolls whose turn it is, each trunk of them on a batch of its own."""
        model, s, spent, started = self.model, self.settings, self.spent(), time.monotonic()
        # all that is random in a step follows from seed and step alone
        rng = np.random.default_rng((s["seed"], self.done))
        torch.manual_seed(int(rng.integers(2**31)) + self.rank)
        trunks = self.schedule.draw(spent, rng)
        x, y = self.read(trunks, rng)
        losses = matryoshka_backward(self.parallel, x, y, trunks, s["loss_weights"])
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), s["grad_clip"] or math.inf)
        if not torch.stack([norm, *losses.values()]).isfinite().all():
            raise self.diverged()
        read = union(model.config, [model.trunk_size(trunk[0]) for trunk in trunks])
        self.optimizers.set_lr(learning_rate(spent, s["lr"], s["warmup"]))
        with uninterrupted():
            self.optimizers.step(read)
            tokens = s["batch_size"] * model.config.block_size
            self.history.spent += price(model, trunks) * tokens + self.optimizers.flops(read)
            self.done += 1
        self.optimizers.zero_grad()
        self.history.seconds += time.monotonic() - started

    def evaluate(self, val_ids):
        """Add an entry to the history."""
        options = dict(max_blocks=self.settings["eval_blocks"], batch_size=self.settings["batch_size"])
        losses = {
            size: [evaluate(self.model, ids, size, **options) for ids in (self.ids, val_ids)]
            for size in self.model.sizes
        }
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
        message = (
            f"step {self.done}: the loss is not finite with lr={self.settings['lr']:g}; try a smaller one"
        )
        return DivergedError(message, self.history)


def check(model, settings):
    """Settings of `train` with their defaults filled in. ValueError, naming it, for a value out of range."""
    s = dict(settings)
    if s["steps"] is not None and s["flops"] is not None:
        raise ValueError(f"steps={s['steps']!r} and flops={s['flops']!r}: give one budget, not both")
    if s["flops"] is None:
        s["steps"] = 2000 if s["steps"] is None else s["steps"]
    for name in ("steps", "batch_size", "eval_interval", "eval_blocks"):
        if s[name] is not None:
            s[name] = positive(name, s[name])
    s["lr"] = default_lr(model.config) if s["lr"] is None else s["lr"]
    limits = dict(lr=math.inf, weight_decay=math.inf, grad_clip=math.inf, warmup=1.0, flops=math.inf)
    for name, end in limits.items():
        if s[name] is not None and (not isinstance(s[name], numbers.Real) or not 0 <= s[name] < end):
            below = "" if end == math.inf else f" and below {end:g}"
            raise ValueError(f"{name}={s[name]!r} must be a number of at least 0{below}")
    if s["flops"] == 0:
        raise ValueError(f"flops={s['flops']!r} must be more than 0")
    if not isinstance(s["seed"], numbers.Integral) or s["seed"] < 0:
        raise ValueError(f"seed={s['seed']!r} must be a whole number of at least 0")
    s["loss_weights"] = check_weights(s["loss_weights"], model.sizes)
    return s


def follow(run, val_ids, progress=True, on_evaluation=None, kept=None):
    """Step after step until the budget is spent, or until it is interrupted; returns the history."""
    if progress and in_notebook() and run.device.type == "cpu" and (advice := slow_threads()):
        print(advice)  # the program says it itself
    mode = run.model.training
    run.model.train()
    run.model.zero_grad()  # of another's backward pass
    gpu = [run.device] if run.device.type == "cuda" else []
    steps, flops = run.settings["steps"], run.settings["flops"]
    total, unit = (steps, "step") if flops is None else (max(1, round(flops / 1e9)), "GFLOP")
    bar = Progress(total, progress and run.rank == 0, unit)
    with bar, torch.random.fork_rng(gpu):
        try:
            while True:
                due = run.due()
                if due:
                    run.evaluate(val_ids)
                    bar.evaluated(run.history)
                    if on_evaluation and run.rank == 0:
                        on_evaluation(run.history)
                if kept and (due or kept.due()):
                    kept.save(run.done, run.model, run.optimizers, run.history)
                if run.spent() == 1:
                    break
                run.step()
                bar.reached(round(run.spent() * total))
        except KeyboardInterrupt:
            if kept:
                kept.save(run.done, run.model, run.optimizers, run.history)
        finally:
            run.optimizers.zero_grad()
            run.model.train(mode)
            if kept:
                kept.close()
    return run.history


def train(
    model,
    train_ids,
    val_ids,
    steps=None,
    batch_size=12,
    lr=None,
    seed=0,
    *,
    flops=None,
    loss_weights=None,
    optimizer="muon",
    warmup=0.05,
    weight_decay=0.1,
    grad_clip=1.0,
    eval_interval=None,
    eval_blocks=256,
    progress=True,
    on_evaluation=None,
    checkpoint_dir=None,
    resume=False,
):
    """Train every doll of the nesting in one run; returns a `History`.

    A step trains the largest doll, and others that its `Schedule` draws, each on batch_size x block_size
    tokens of its own; sizes whose blocks run together (one width, several depths) read the same ones.
    Interrupting (Ctrl-C, or the notebook's stop button) returns the history so far. Where torch.distributed
    is initialized, each process takes its share of the batch, and the first one writes.

    steps, flops: the budget, one of the two (2,000 steps if neither is given). FLOPs are those of forward and
        backward passes and of the optimizer; the last step may go beyond them. Schedules follow the share
        spent.
    lr: peak learning rate, after the share `warmup` of the budget and before a linear fall to zero; None:
        1.024 / n_embd.
    seed: of batches and dropout; a run with the same seed repeats bit for bit on the same machine.
    loss_weights: a number for each size, smallest first; uniform if left out.
    optimizer: "muon" for the matrices of the blocks and AdamW for the rest, or "adamw" for all.
    grad_clip: largest norm of the gradient; 0 does not clip.
    eval_interval: steps between evaluations (default: a tenth of the budget); each reads `eval_blocks` blocks
        of train and val, always the same.
    on_evaluation: called with the history after each evaluation.
    checkpoint_dir: folder that keeps the state of the run, written at evaluations, about once a minute
        between them, and when interrupted.
    resume: go on from the newest state in checkpoint_dir, if there is one; the run ends as if never stopped.
    Raises ValueError for bad arguments before any work (also for a checkpoint_dir that holds another run),
    DivergedError when a loss is not finite, OSError when there is no room for the state.
    """
    budget = dict(steps=steps, flops=flops, batch_size=batch_size, seed=seed)
    moves = dict(lr=lr, optimizer=optimizer, warmup=warmup, weight_decay=weight_decay, grad_clip=grad_clip)
    looks = dict(loss_weights=loss_weights, eval_interval=eval_interval, eval_blocks=eval_blocks)
    settings = check(model, {**budget, **moves, **looks})
    T, V = model.config.block_size, model.config.vocab_size
    train_ids, val_ids = as_ids(train_ids, T, V, "train_ids"), as_ids(val_ids, T, V, "val_ids")
    if resume and checkpoint_dir is None:
        raise ValueError("resume=True needs the checkpoint_dir to resume from")
    run, kept = Run(model, train_ids, settings), None
    if checkpoint_dir is not None and run.rank == 0:
        weights = list(settings["loss_weights"].values())
        kept = RunState(
            checkpoint_dir, resume, model, train_ids, val_ids, **{**settings, "loss_weights": weights}
        )
    if resume:
        run.restore(kept and kept.restore())
    return follow(run, val_ids, progress, on_evaluation, kept)
