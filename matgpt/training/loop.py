"""The training loop: check, prepare, then step after step until the budget is spent."""

from contextlib import closing, nullcontext

import torch

from ..text.batches import as_ids
from .progress import Progress
from .run import Run
from .settings import check
from .state import RunState
from .threads import slow_threads


def follow(run, val_ids, progress, on_evaluation, checkpoint_dir=None, resume=False):
    """Step after step until the budget is spent, or until it is interrupted; returns the history."""
    if on_evaluation is not None and not callable(on_evaluation):
        raise ValueError(f"on_evaluation={on_evaluation!r} must be a function of the history")
    if resume and checkpoint_dir is None:
        raise ValueError("resume=True needs the checkpoint_dir to resume from")
    kept = checkpoint_dir is not None and run.rank == 0 and RunState(checkpoint_dir, resume, run, val_ids)
    with closing(kept) if kept else nullcontext():
        if resume:
            run.restore(kept and kept.restore())
        heard = run.rank == 0 and (progress or on_evaluation)
        if heard and run.device.type == "cpu" and (advice := slow_threads()):
            print(advice)
        steps, flops = run.settings["steps"], run.settings["flops"]
        total, unit = (steps, "step") if flops is None else (max(1, round(flops / 1e9)), "GFLOP")
        bar = Progress(total, progress and run.rank == 0, unit)
        gpu = [run.device] if run.device.type == "cuda" else []
        run.model.zero_grad()  # of another's backward pass
        with bar, torch.random.fork_rng(gpu), run.model.mode(training=True), torch.enable_grad():
            try:
                while True:
                    due = run.due()
                    if due:
                        run.evaluate(val_ids)
                        bar.evaluated(run.history)
                        if on_evaluation and run.rank == 0:
                            on_evaluation(run.history)
                    if kept and (due or kept.due()):
                        kept.save(run)
                    if run.spent() == 1:
                        break
                    run.step()
                    bar.reached(round(run.spent() * total))
            except KeyboardInterrupt:
                if kept:
                    kept.save(run)
            finally:
                run.model.zero_grad()
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
    dtype=None,
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

    A step trains the largest doll on batch_size x block_size tokens, and the others on as much text of their
    own as the `Schedule` says; sizes whose blocks run together (one width, several depths) read the same.
    Interrupting (Ctrl-C, or the notebook's stop button) returns the history so far. Where torch.distributed
    is initialized, each process takes its share of the batch, and the first one writes.

    steps, flops: the budget, one of the two (2,000 steps if neither is given). FLOPs are those of forward and
        backward passes and of the optimizer; the last step may go beyond them. Schedules follow the share
        spent.
    lr: peak learning rate, after the share `warmup` of the budget and before a linear fall to zero; None:
        1.024 / n_embd.
    seed: of batches and dropout; a run with the same seed repeats bit for bit on the same machine.
    loss_weights: what a token that it reads counts for, by size, smallest first; uniform if left out.
    optimizer: "muon" for the matrices of the blocks and AdamW for the rest, or "adamw" for all.
    dtype: "float32" or "bfloat16", in which steps multiply matrices, Muon's too; all else is float32. Some
        CPUs multiply bfloat16 several times as fast. None: "bfloat16" on a GPU that has it, else "float32";
        so do evaluations, whatever dtype is.
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
    moves = dict(lr=lr, optimizer=optimizer, dtype=dtype, warmup=warmup)
    moves |= dict(weight_decay=weight_decay, grad_clip=grad_clip)
    looks = dict(loss_weights=loss_weights, eval_interval=eval_interval, eval_blocks=eval_blocks)
    settings = check(model, {**budget, **moves, **looks})
    T, V = model.config.block_size, model.config.vocab_size
    train_ids, val_ids = as_ids(train_ids, T, V, "train_ids"), as_ids(val_ids, T, V, "val_ids")
    run = Run(model, train_ids, settings)
    return follow(run, val_ids, progress, on_evaluation, checkpoint_dir, resume)
