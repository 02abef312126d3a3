"""The Matryoshka loss: a weighted mean over the dolls of a step."""

import math

import numpy as np
import torch

from ..measure.evaluation import cross_entropy, nats, precision
from .cost import training_flops


def check_weights(loss_weights, sizes):
    """Return the weight of each size, summing to one. Raises ValueError for a wrong number or sign."""
    try:
        weights = np.ones(len(sizes)) if loss_weights is None else np.atleast_1d(loss_weights).astype(float)
    except (TypeError, ValueError):
        weights = np.zeros(0)
    if weights.shape != (len(sizes),) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        allowed = f"{len(sizes)} numbers of at least 0, one for each size, and not all 0"
        raise ValueError(f"loss_weights={loss_weights!r} must be {allowed}")
    return dict(zip(sizes, (weights / weights.sum()).tolist()))


def matryoshka_loss(model, x, y, loss_weights=None):
    """Return the weighted mean of the losses of all sizes (2205.13147, equation 1), to differentiate.

    x, y: (B, T), which every size reads; `train` gives every trunk text of its own. loss_weights: one number
    for each size, smallest first; None: all alike. Raises ValueError for a wrong number of weights.
    """
    weights = check_weights(loss_weights, model.sizes)
    return sum(weight * cross_entropy(model, x, y, size) for size, weight in weights.items())


def step_losses(model, passes, read, weight, dtype=None, rank=0, world=1):
    """Yield (loss to differentiate, FLOPs) for each pass of a step.

    passes: what `Schedule.draw` returns first: [(sizes of one trunk, sequences that each of them reads)].
    read: function of a number n, called once for each pass, that returns this process's part of n sequences:
        x and y, (n, T) each; y may also be a teacher's probabilities, (n, T, V).
    weight: function of a size: how much a token counts in the loss.
    rank, world: this process takes every world-th sequence, from number `rank` on.

    The losses add up to the mean over all tokens and sizes of the step. Each can be differentiated, and its
    graph freed, before the next one is computed, so memory is that of the largest doll.
    """
    total = sum(weight(size) * n for trunk, rows in passes for size, n in zip(trunk, rows))
    for trunk, rows in passes:
        x, y = read(max(rows))
        own = [len(range(rank, n, world)) for n in rows]  # sequences of this process
        loss, flops = torch.zeros((), device=x.device), training_flops(model, trunk, rows) * x.size(1)
        if len(x):  # another process may have all of it
            with precision(x.device, dtype):
                logits = model(x, trunk, own)
                for size, n, each in zip(trunk, own, logits):
                    if n:
                        loss = loss + weight(size) * n / total * nats(each, y[:n])
        yield loss, flops
