"""The training loop."""

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
from .loss import check_weights, draw_sizes, matryoshka_backward
from .optimizer import default_lr, learning_rate, make_optimizers
from .progress import Progress, in_notebook
from .state import RunState, uninterrupted
from .threads import slow_threads


class DivergedError(FloatingPointError):
    """A loss was not finite; `history` holds what was measured until then."""

    def __init__(self, message, history):
        super().__init__(message)
        self.history = history

    def __reduce__(self):
        return type(self), (str(self), self.history)  # a process pool sends it by pickle


def train(
    model,
    train_ids,
    val_ids,
    steps=2000,
    batch_size=12,
    lr=None,
    seed=0,
    *,
    loss_weights=None,
    random_sizes=None,
    optimizer="muon",
    warmup=100,
    weight_decay=0.1,
    grad_clip=1.0,
    eval_interval=None,
    eval_blocks=256,
    progress=True,
    on_evaluation=None,
    checkpoint_dir=None,
    resume=False,
):
    """Train every doll of the nesting at once; returns a `History`.

    One step is the mean over the sizes of their cross-entropies, each on as many tokens (batch_size x block_size) as it
    would read if trained alone; sizes whose blocks run together (one width, several depths) read the same ones.
    Interrupting (Ctrl-C, or the notebook's stop button) returns the history so far. Where torch.distributed is
    initialized, each process takes its share of the batch, and the first one writes.

    grad_clip: largest norm of the gradient; 0 does not clip.
    lr: peak learning rate, after `warmup` steps and before a linear fall to zero; None: 1.024 / n_embd.
    seed: of batches and dropout; a run with the same seed repeats bit for bit on the same machine.
    loss_weights: a number for each size, smallest first; uniform if left out.
    random_sizes: a step trains the smallest, the largest and this many others drawn at random, and with them the
        dolls whose blocks they run anyway; None: all, or three where more than six trunks would have to run.
    optimizer: "muon" for the matrices of the blocks and AdamW for the rest, or "adamw" for all.
    eval_interval: steps between evaluations (default: a tenth of the run); each reads `eval_blocks` blocks
        of train and val, always the same.
    on_evaluation: called with the history after each evaluation.
    checkpoint_dir: folder that keeps the state of the run, written at evaluations, about once a minute
        between them, and when interrupted.
    resume: go on from the newest state in checkpoint_dir, if there is one; the run ends as if never stopped.
    Raises ValueError for bad arguments before any work (also for a checkpoint_dir that holds another run),
    DivergedError when a loss is not finite, OSError when there is no room for the state.
    """
    config, device, sizes = model.config, model.embedding.token.device, model.sizes
    steps, batch_size = positive("steps", steps), positive("batch_size", batch_size)
    eval_interval = positive("eval_interval", max(1, steps // 10) if eval_interval is None else eval_interval)
    weights = check_weights(loss_weights, sizes)
    train_ids = as_ids(train_ids, config.block_size, config.vocab_size, "train_ids")
    val_ids = as_ids(val_ids, config.block_size, config.vocab_size, "val_ids")
    lr = default_lr(config) if lr is None else lr
    if random_sizes is None:
        random_sizes = 3 if len(model.trunks(sizes)) > 6 else len(sizes)
    if eval_blocks is not None:
        positive("eval_blocks", eval_blocks)
    for name, value in dict(lr=lr, weight_decay=weight_decay, grad_clip=grad_clip).items():
        if not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
            raise ValueError(f"{name}={value!r} must be a number of at least 0")
    for name, value in dict(seed=seed, random_sizes=random_sizes, warmup=warmup).items():
        if not isinstance(value, numbers.Integral) or value < 0:
            raise ValueError(f"{name}={value!r} must be a whole number of at least 0")
    if random_sizes < len(sizes) - 2 and weights[0] == weights[-1] == 0:
        raise ValueError(
            f"loss_weights={loss_weights!r}: where sizes are drawn at random, the smallest or the largest, "
            "which belong to each step, needs a weight above 0"
        )
    distributed = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    if batch_size % world:
        raise ValueError(f"batch_size={batch_size} must be divisible by the number of processes, {world}")
    if resume and checkpoint_dir is None:
        raise ValueError("resume=True needs the checkpoint_dir to resume from")
    if (
        progress
        and in_notebook()
        and device.type == "cpu"
        and torch.get_num_threads() > 1
        and (advice := slow_threads())
    ):
        print(advice)  # the program says it itself
    optimizers, history, done = make_optimizers(optimizer, model, lr, weight_decay), History(sizes, lr=lr), 0
    run = state = None
    if checkpoint_dir is not None and rank == 0:
        run = RunState(
            checkpoint_dir,
            resume,
            model,
            train_ids,
            val_ids,
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            loss_weights=weights,
            random_sizes=random_sizes,
            optimizer=optimizer,
            warmup=warmup,
            weight_decay=weight_decay,
            grad_clip=grad_clip,
            eval_interval=eval_interval,
            eval_blocks=eval_blocks,
        )
        state = run.restore() if resume else None
    if resume and world > 1:  # only the first process needs to see the folder
        dist.broadcast_object_list(shared := [state])
        state = shared[0]
    if state is not None:
        model.load_state_dict(state["model"])
        optimizers.load_state_dict(state["optimizer"])
        history, done = History.from_dict(state["history"]), state["step"]
    gpu = [device] if device.type == "cuda" else []
    parallel = DistributedDataParallel(model) if world > 1 else model

    def diverged():
        return DivergedError(
            f"step {done}: the loss is not finite with lr={lr:g}; try a smaller one", history
        )

    def record():
        losses = [
            (evaluate(model, train_ids, size, eval_blocks), evaluate(model, val_ids, size, eval_blocks))
            for size in sizes
        ]
        if not np.isfinite(losses).all():
            raise diverged()
        with uninterrupted():
            history.steps.append(done)
            for size, (train_loss, val_loss) in zip(sizes, losses):
                history.train[size].append(train_loss)
                history.val[size].append(val_loss)
        bar.evaluated(history)
        if on_evaluation and rank == 0:
            on_evaluation(history)

    model.train()
    with Progress(steps, history, progress and rank == 0) as bar, torch.random.fork_rng(gpu):
        try:
            while True:
                measure = (done % eval_interval == 0 or done == steps) and done not in history.steps
                if measure:
                    record()
                if run and (measure or run.due()):
                    run.save(done, model, optimizers, history)
                if done == steps:
                    break
                started = time.monotonic()
                # all that is random in a step follows from seed and step alone
                rng = np.random.default_rng((seed, done))
                torch.manual_seed(int(rng.integers(2**31)) + rank)
                drawn, shares = draw_sizes(model, weights, random_sizes, rng)
                starts = rng.integers(
                    len(train_ids) - config.block_size, size=(len(model.trunks(drawn)), batch_size)
                )
                x, y = batch(train_ids, starts[:, rank::world], config.block_size, device)
                for group in optimizers.groups():
                    group["lr"] = learning_rate(done, steps, lr, warmup)
                losses = matryoshka_backward(parallel, x, y, drawn, shares)
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip or math.inf)
                if not torch.stack([norm, *losses]).isfinite().all():
                    raise diverged()
                with uninterrupted():
                    optimizers.step()
                    done += 1
                optimizers.zero_grad()
                history.seconds += time.monotonic() - started
                bar.stepped(done)
        except KeyboardInterrupt:
            if run:
                run.save(done, model, optimizers, history)
        finally:
            optimizers.zero_grad()
            model.eval()
            if run:
                run.close()
    return history
