"""Training: one visible loop, and `train`, which prepares it."""

import functools
import math
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from ..files.atomic import uninterrupted
from ..files.checkpoint import unwrapped
from ..measure.evaluation import evaluate_sizes, precision
from ..sizes import number, positive
from ..text.batches import as_ids, batch
from .checkpoint import Checkpoint, digest
from .cost import optimizer_flops, training_flops
from .history import History
from .loss import check_weights, step_losses
from .optimizer import default_lr, learning_rate, make_optimizers
from .progress import Progress
from .schedule import Schedule

THREADS_FROM = 256  # width from which on a second thread pays (LOG.md, "Threads")


class DivergedError(FloatingPointError):
    """A loss was not finite; `history` holds what was measured until then."""

    history = None


@dataclass(frozen=True)
class Settings:
    """The options of `train`, `nest` and `train_embeddings`. Raises ValueError, naming it, for a bad value.

    steps, flops: the budget, one of the two (2,000 steps if neither is given). FLOPs are those of forward and
        backward passes and of the optimizer; the last step may go beyond them.
    batch_size: sequences of block_size tokens that the largest doll reads in a step, over all processes.
    lr: peak learning rate, reached after the share `warmup` of the budget; then it falls linearly to zero, so
        a finished run has a rate of zero. None: 1.024 / n_embd.
    seed: of batches and dropout; a run with the same seed repeats bit for bit on the same machine.
    share: part of the FLOPs of forward and backward passes that all smaller dolls get together. None: 0.15,
        or 0.02 if they only read out of the full doll's blocks.
    loss_weights: how much a token counts in the loss, one number a size, smallest first. None: all alike.
    optimizer: "muon" for the matrices of the blocks and AdamW for the rest, or "adamw" for all.
    dtype: "float32" or "bfloat16", in which steps multiply matrices, Muon's too; everything else is float32.
        Some CPUs multiply bfloat16 several times as fast. None: "bfloat16" on a GPU that has it, else
        "float32". Evaluations always use the default.
    weight_decay: of matrices and embeddings. grad_clip: largest norm of the gradient; 0 does not clip.
    eval_interval: steps between evaluations. None: a tenth of the budget.
    eval_blocks: blocks of training and validation text that each evaluation reads, always the same ones.
        None: as many as take about a tenth of the run, from 16 to 256; so more once a run is extended.
    progress: show a bar, and in a notebook a plot.
    on_evaluation: called with the history after each evaluation.
    checkpoint_dir: folder for the state of the run, written at evaluations, about once a minute between them,
        and when interrupted.
    resume: continue from the newest state in checkpoint_dir, if there is one; the run ends as if it had never
        stopped. A finished run that is given more steps or FLOPs is extended: the rate rises again over the
        share `warmup` of what was added, and falls to zero.
    overwrite: begin anew where checkpoint_dir holds another run; its states stay until the first new one.
    threads: of the CPU. None: one for models under 256 wide, as many as PyTorch uses for others.
    """

    steps: int | None = None
    batch_size: int = 12
    lr: float | None = None
    seed: int = 0
    flops: float | None = None
    share: float | None = None
    loss_weights: tuple | None = None
    optimizer: str = "muon"
    dtype: str | None = None
    warmup: float = 0.05
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    eval_interval: int | None = None
    eval_blocks: int | None = None
    progress: bool = True
    on_evaluation: Callable | None = None
    checkpoint_dir: str | Path | None = None
    resume: bool = False
    overwrite: bool = False
    threads: int | None = None

    def __post_init__(self):
        put = functools.partial(object.__setattr__, self)  # the class is frozen
        if self.steps is not None and self.flops is not None:
            raise ValueError(f"steps={self.steps!r} and flops={self.flops!r}: give one budget, not both")
        if self.steps is None and self.flops is None:
            put("steps", 2000)
        least = dict(steps=1, batch_size=1, seed=0, eval_interval=1, eval_blocks=1, threads=1)
        intervals = dict(lr="[0, inf)", flops="(0, inf)", share="[0, 1)", warmup="[0, 1)")
        intervals |= dict(weight_decay="[0, inf)", grad_clip="[0, inf)")
        for name, allowed in {**least, **intervals}.items():
            value, check = getattr(self, name), positive if name in least else number
            if value is not None or getattr(Settings, name) is not None:  # a default may be None
                put(name, check(name, value, allowed))
        for name, allowed in dict(optimizer=("muon", "adamw"), dtype=("float32", "bfloat16", None)).items():
            if getattr(self, name) not in allowed:
                raise ValueError(f'{name}={getattr(self, name)!r} must be "{allowed[0]}" or "{allowed[1]}"')
        for name in ("progress", "resume", "overwrite"):
            if getattr(self, name) not in (True, False):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False")
        if self.on_evaluation is not None and not callable(self.on_evaluation):
            raise ValueError(f"on_evaluation={self.on_evaluation!r} must be a function of the history")
        if self.resume and self.checkpoint_dir is None:
            raise ValueError("resume=True needs the checkpoint_dir to resume from")

    def progress_of(self, done, spent, start):
        """Return the share of the budget that is spent, 0 to 1; in an extended run, that of its extension."""
        now, end = (done, self.steps) if self.flops is None else (spent, self.flops)
        return min(1.0, (now - start) / (end - start))

    def evaluation_due(self, history, now):
        """Say whether to evaluate now: at the start, the end, and each interval or tenth of the budget."""
        if not history.steps:
            return True
        if self.eval_interval:
            regular = now == 1 or history.done % self.eval_interval == 0
            return regular and history.done > history.steps[-1]
        last = self.progress_of(history.steps[-1], history.flops[-1], history.start)
        return int(10 * now + 1e-6) > int(10 * last + 1e-6)


def without(options, *names):
    """Return options for `Settings`. Raises ValueError for one that the calling function does not take."""
    for name in names:
        if name in options:
            raise ValueError(f"{name}={options[name]!r} cannot be set here")
    return options


def processes():
    """Return (number of this process, number of processes) under torchrun, else (0, 1)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def using_threads(threads, model):
    """Compute on so many threads of the CPU inside the block. None: one for small models, else all.

    Each operation waits for the slowest of its threads, so on a busy machine two can be ten times slower than
    one. The rule reads the width and the number of threads only, so that runs repeat.
    """
    before, small = torch.get_num_threads(), model.config.n_embd < THREADS_FROM
    if model.embedding.token.device.type == "cpu":
        if threads is None and small and before > 1:
            say_once(f"training on 1 of {before} threads, since the model is small (threads= overrides)")
        torch.set_num_threads(threads or (1 if small else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


say_once = functools.cache(print)


def loop(model, settings, batch_loss, evaluate, data, flops_before=0):
    """Train until the budget is spent or the run is interrupted; returns the `History`.

    batch_loss: function of (step, progress, numpy Generator) that yields (loss to differentiate, FLOPs) once
        or more for each step; progress goes from 0 to 1, and is 1 once a run is extended. This is all that
        `train`, `nest` and `train_embeddings` differ in.
    evaluate: function that returns two dicts {size: loss}, on training and validation data.
    data: what identifies the data, and must be the same when the run resumes. flops_before: already spent.
    """
    model, (rank, world) = unwrapped(model)[0], processes()
    device, update_flops = model.embedding.token.device, optimizer_flops(model, settings.optimizer)
    lr = default_lr(model.config) if settings.lr is None else settings.lr
    optimizers = make_optimizers(settings.optimizer, model, lr, settings.weight_decay)
    history, checkpoint = History(model.sizes, lr=lr, spent=flops_before), None
    if settings.checkpoint_dir is not None and rank == 0:
        checkpoint = Checkpoint(model, settings, data)
    modes, gpus = model.mode(training=True), [device] if device.type == "cuda" else []
    threads = using_threads(settings.threads, model)
    lock = checkpoint.lock if checkpoint else nullcontext()
    with lock, Progress(settings, rank) as bar, torch.random.fork_rng(gpus), modes, threads:
        if settings.resume:
            history = restore(checkpoint, model, optimizers, world) or history
        if world > 1:  # they may have begun with other weights
            for p in model.state_dict().values():
                dist.broadcast(p, 0)
        history.run = checkpoint and checkpoint.run
        try:
            while True:
                progress = settings.progress_of(history.done, history.spent, history.start)
                due = settings.evaluation_due(history, progress)
                if due:
                    losses = evaluate()
                    if not np.isfinite([loss for part in losses for loss in part.values()]).all():
                        raise diverged(model, settings, history)
                    with uninterrupted():
                        history.add(*losses)
                    bar.evaluated(history)
                    if settings.on_evaluation and rank == 0:
                        settings.on_evaluation(history)
                history.finished = progress == 1
                if checkpoint and (due or checkpoint.due()):
                    checkpoint.save(model, optimizers, history)
                if history.finished:
                    break
                started = time.monotonic()
                # everything random in a step follows from the seed and the step alone
                rng = np.random.default_rng((settings.seed, history.done))
                torch.manual_seed(int(rng.integers(2**31)) + rank)
                model.train()  # on_evaluation may have changed the mode, gradients or grad mode
                model.zero_grad()
                torch.set_grad_enabled(True)
                flops, losses = update_flops, []
                for loss, price in batch_loss(history.done, 1 if history.start else progress, rng):
                    if loss.requires_grad:  # not where everything that these dolls read is frozen
                        loss.backward()
                    losses.append(loss.detach())
                    flops += price
                if world > 1:
                    sum_gradients(model)
                norm = clip_grad_norm_(model.parameters(), settings.grad_clip or math.inf)
                if not torch.stack([norm, *losses]).isfinite().all():
                    raise diverged(model, settings, history)
                with uninterrupted(), precision(device, settings.dtype):
                    for optimizer in optimizers:
                        for group in optimizer.param_groups:
                            group["lr"] = learning_rate(progress, lr, settings.warmup)
                        optimizer.step()
                    history.done, history.spent = history.done + 1, history.spent + flops
                history.seconds += time.monotonic() - started
                bar.reached(history)
        except KeyboardInterrupt:
            if checkpoint:
                checkpoint.save(model, optimizers, history)
        finally:
            model.zero_grad()
    return history


def restore(checkpoint, model, optimizers, world):
    """Load the newest state into model and optimizers, in every process; returns its History, or None."""
    state = checkpoint and checkpoint.restore()
    if world > 1:  # only the first process needs to see the folder
        dist.broadcast_object_list(shared := [state])
        state = shared[0]
    if state is None:
        return None
    model.load_state_dict(state["model"])
    for optimizer, own in zip(optimizers, state["optimizer"]):
        optimizer.load_state_dict(own)
    return History.from_dict(state["history"])


def sum_gradients(model):
    """Add the gradients of all processes; one that read nothing has zeros, unless none read anything."""
    params = [p for p in model.parameters() if p.requires_grad]
    has_gradient = torch.tensor([p.grad is not None for p in params], device=params[0].device).int()
    dist.all_reduce(has_gradient)
    params = [p for p, count in zip(params, has_gradient.tolist()) if count]
    for p in params:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    together = parameters_to_vector(p.grad for p in params)
    dist.all_reduce(together)
    vector_to_parameters(together, (p.grad for p in params))


def diverged(model, settings, history):
    weights = f"weight_decay={settings.weight_decay:g} and {model.embedding.token.dtype} weights"
    what = f"the loss is not finite with lr={history.lr:g}, {weights}: try smaller or more precise numbers"
    error = DivergedError(f"step {history.done}: {what}")
    error.history = history
    return error


@torch.inference_mode(False)  # which enables gradients, too
def train(model, train_ids, val_ids, steps=None, batch_size=12, lr=None, seed=0, **options):
    """Train every doll of the nesting in one run; returns a `History`.

    A step trains the largest doll on batch_size x block_size tokens (with fewer layers, until 70% of the
    budget), and the others on as much text of their own as `share` pays for: see `Schedule`. Interrupting
    (Ctrl-C, or the notebook's stop button) returns the history so far. Under torchrun each process takes its
    part of the batch, and the first one writes.

    train_ids, val_ids: token ids (N,), int. All other arguments, and their defaults, are those of `Settings`:
    flops, share, loss_weights, optimizer, dtype, warmup, weight_decay, grad_clip, eval_interval, eval_blocks,
    progress, on_evaluation, checkpoint_dir, resume, overwrite, threads.
    Raises ValueError for bad arguments before any work (also for a checkpoint_dir that holds another run),
    DivergedError when a loss is not finite, OSError when there is no room for the state.
    """
    settings = Settings(steps, batch_size, lr, seed, **options)
    nested, (rank, world) = unwrapped(model)[0], processes()
    T, V, device = nested.config.block_size, nested.config.vocab_size, nested.embedding.token.device
    weights = check_weights(settings.loss_weights, nested.sizes)
    if settings.batch_size % world:
        raise ValueError(f"batch_size={batch_size} must be divisible by the number of processes, {world}")
    train_ids, val_ids = as_ids(train_ids, T, V, "train_ids"), as_ids(val_ids, T, V, "val_ids")
    data = dict(train_ids=digest(train_ids), val_ids=digest(val_ids), loss_weights=list(weights.values()))
    weights = {size: weight for size, weight in weights.items() if weight}
    schedule = Schedule(nested, settings.share, weights)
    others = 1 / len(weights) if schedule.is_range else weights[schedule.full]
    blocks = settings.eval_blocks or blocks_for_a_tenth(settings, schedule)

    def weight(size):  # a drawn Size counts as the average, the full doll's first layers as the full doll
        return weights.get(size, others)

    def batch_loss(step, progress, rng):
        def read(n):
            starts = rng.integers(len(train_ids) - T, size=n)[rank::world]
            return batch(train_ids, starts, T, device)

        schedule.deepen(progress)
        passes, _ = schedule.draw(settings.batch_size, rng)
        return step_losses(model, passes, read, weight, settings.dtype, rank, world)

    def evaluate():
        return [evaluate_sizes(nested, ids, max_blocks=blocks) for ids in (train_ids, val_ids)]

    return loop(model, settings, batch_loss, evaluate, data)


def blocks_for_a_tenth(settings, schedule):
    """Return how many blocks each evaluation may read so that all of them take a tenth of the run."""
    model, T = schedule.model, schedule.model.config.block_size
    step = training_flops(model, [schedule.full]) / (1 - schedule.share) * settings.batch_size * T
    steps = settings.steps or settings.flops / step
    times = steps / settings.eval_interval + 1 if settings.eval_interval else 11
    forward = T * sum(training_flops(model, trunk) for trunk in model.trunks(model.sizes)) / 3  # of a block
    return int(min(256, max(16, steps * step / 10 / (2 * times * forward))))
