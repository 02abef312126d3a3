"""Nest a trained GPT-2: move what matters to the front, then let the dolls learn from the whole model."""

import dataclasses

import numpy as np
import torch

from ..files.checkpoint import load, unwrapped
from ..files.gpt2 import import_gpt2, is_gpt2
from ..measure.evaluation import cross_entropy, evaluate_sizes, precision
from ..measure.shapes import flops_per_token
from ..model import MatryoshkaGPT
from ..nested import check_finite
from ..text.batches import as_ids, batch
from .checkpoint import digest
from .loop import Settings, loop, processes, without
from .loss import step_losses
from .optimizer import default_lr
from .schedule import Schedule

SHARE = 0.5  # of a step's passes, for all smaller dolls together (LOG.md, "Nesting a trained GPT-2")
BATCHES = 16  # that measure importance, of 256 tokens or one block each

# The meaning of each axis of a weight: d dimensions of the residual, h heads, f hidden units; "." is not
# reordered. A capital letter says that the weight reads along this axis.
AXES = {
    "embedding.token": ".D",
    "embedding.position": ".d",
    "qkv.weight": ".h.D",
    "qkv.bias": ".h.",
    "attention.proj.weight": "dH.",
    "expand.weight": "fD",
    "expand.bias": "f",
    "feedforward.proj.weight": "dF",
}  # all else is a prefix of d


def axes(name):
    """Return [(axis, key, whether the weight reads along it)]; a key is "d", or "0.h" for layer 0."""
    kinds = next((kinds for end, kinds in AXES.items() if name.endswith(end)), "d")
    layer = name.split(".")[1]  # of a weight in the blocks; only there are heads and hidden units
    keys = {"d": "d", "h": f"{layer}.h", "f": f"{layer}.f"}
    return [(i, keys[kind.lower()], kind.isupper()) for i, kind in enumerate(kinds) if kind != "."]


def importance(model, ids, seed=0):
    """Estimate how much the loss would change without each dimension, head and hidden unit.

    Returns {"d": (D,), "0.h": (H,), "0.f": (F,), ...}: the mean square, over small batches, of the first
    order estimate, which is the sum of weight x gradient over the weights that read there (1906.10771).
    """
    T, scores, rng = model.config.block_size, {}, np.random.default_rng(seed)
    batch_size = max(1, 256 // T)
    model.zero_grad()
    for _ in range(BATCHES):
        starts = rng.integers(len(ids) - T, size=batch_size)
        cross_entropy(model, *batch(ids, starts, T, model.embedding.token.device)).backward()
        changes = {}
        for name, p in model.named_parameters():
            for axis, key, reads in axes(name):
                if reads:
                    change = (p.detach().float() * p.grad).movedim(axis, 0).flatten(1).sum(1)
                    changes[key] = changes.get(key, 0) + change
        scores = {key: scores.get(key, 0) + change**2 / BATCHES for key, change in changes.items()}
        model.zero_grad()
    return scores


@torch.no_grad()
def reorder(model, scores):
    """Move what scores high to the front in all weights; the full doll computes the same as before."""
    orders = {key: score.argsort(descending=True, stable=True) for key, score in scores.items()}
    for name, p in model.named_parameters():
        for axis, key, _ in axes(name):
            p.copy_(p.index_select(axis, orders[key]))


@torch.inference_mode(False)  # which enables gradients, too
def nest(model_or_path, nesting, train_ids, val_ids, steps=None, *, lr=None, share=SHARE, **options):
    """Turn a trained GPT-2 into a MatryoshkaGPT, with a `history`, whose full doll is nearly the same.

    The trained model is the teacher: in each step dolls read parts of one batch and learn its predictions.
    Heads, hidden units and dimensions are first put in the order of their importance, so that the dolls begin
    as the most important corners. Dropout and weight decay are 0; the optimizer is AdamW.

    model_or_path: a MatryoshkaGPT, which is not changed; or a folder that `save` or transformers wrote.
    nesting: the dolls, as in `GPTConfig`. train_ids, val_ids: token ids (N,), int.
    lr: peak learning rate. None: a quarter of that of `train`.
    options: those of `Settings` except optimizer, weight_decay and loss_weights, such as flops (the teacher
        and measuring importance count), batch_size (2), eval_blocks (256), seed, progress.
    Raises ValueError for bad arguments, a budget that measuring importance alone exceeds, weights that are
    not finite, or an output-only model; DivergedError when a loss is not finite.
    """
    teacher = model_or_path
    if not isinstance(teacher, torch.nn.Module):
        teacher = import_gpt2(teacher) if is_gpt2(teacher) else load(teacher)[0]
    teacher, trained = unwrapped(teacher)
    if not isinstance(teacher, MatryoshkaGPT):
        raise ValueError(f"model_or_path is a {type(teacher).__name__}: only a MatryoshkaGPT holds dolls")
    check_finite(trained)
    config, (rank, world) = dataclasses.replace(teacher.config, nesting=nesting, dropout=0.0), processes()
    T, V = config.block_size, config.vocab_size
    fixed, lr = dict(optimizer="adamw", weight_decay=0.0), default_lr(config) / 4 if lr is None else lr
    options = dict(batch_size=2, eval_blocks=256) | without(options, *fixed, "loss_weights")
    settings = Settings(steps, lr=lr, share=share, **fixed, **options)
    train_ids, val_ids = as_ids(train_ids, T, V, "train_ids"), as_ids(val_ids, T, V, "val_ids")
    importance_flops = 3 * flops_per_token(config) * BATCHES * max(256 // T, 1) * T
    if settings.flops and settings.flops <= importance_flops:
        raise ValueError(
            f"flops={settings.flops:g} must exceed {importance_flops:g}, which measuring importance takes"
        )
    model = MatryoshkaGPT(config).to(teacher.embedding.token)
    model.load_state_dict(trained)
    reorder(model, importance(model, train_ids, settings.seed))
    device, schedule = model.embedding.token.device, Schedule(model, settings.share)

    def batch_loss(step, progress, rng):
        passes, fractions = schedule.draw(settings.batch_size, rng)
        starts = rng.integers(len(train_ids) - T, size=settings.batch_size)  # the full doll reads them all
        x, _ = batch(train_ids, starts[rank::world], T, device)
        teacher.eval()  # on_evaluation may have changed it
        with torch.no_grad(), precision(device, settings.dtype):
            y = teacher(x).float().softmax(-1)
        yield torch.zeros((), device=device), flops_per_token(config) * settings.batch_size * T

        def read(n):
            n = len(range(rank, n, world))
            return x[:n], y[:n]

        read_by = {size: fractions[trunk[0]] for trunk, _ in passes for size in trunk}

        def weight(size):  # all dolls weigh alike, however much they read, if they read at all
            return 1 if size == schedule.full else 1 / (read_by[size] or 1)

        yield from step_losses(model, passes, read, weight, settings.dtype, rank, world)

    def evaluate():
        return [evaluate_sizes(model, ids, max_blocks=settings.eval_blocks) for ids in (train_ids, val_ids)]

    data = dict(train_ids=digest(train_ids), val_ids=digest(val_ids))
    data["teacher"] = f"of norm {sum(p.double().norm().item() for p in trained.values())}"
    with teacher.mode(training=False):
        model.history = loop(model, settings, batch_loss, evaluate, data, importance_flops)
    return model.eval()
