"""The Matryoshka loss: the mean over the dolls of a step."""

import math
from contextlib import nullcontext

import numpy as np
import torch.nn.functional as F

from ..measure.evaluation import cross_entropy, precision


def check_weights(loss_weights, sizes):
    """The weight of each size, summing to one. ValueError for a wrong number or sign."""
    try:
        weights = np.ones(len(sizes)) if loss_weights is None else np.atleast_1d(loss_weights).astype(float)
    except (TypeError, ValueError):
        weights = np.zeros(0)
    if len(weights) != len(sizes) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ValueError(
            f"loss_weights={loss_weights!r} must be {len(sizes)} numbers of at least 0, not all 0: "
            "one for each size"
        )
    return dict(zip(sizes, (weights / weights.sum()).tolist()))


def matryoshka_loss(model, x, y, loss_weights=None):
    """Weighted mean of the sizes' losses (2205.13147 equation 1), as one scalar to differentiate.

    x, y: (B, T), which every size reads; `train` gives every trunk a batch of its own.
    """
    weights = check_weights(loss_weights, model.sizes)
    return sum(weight * cross_entropy(model, x, y, size) for size, weight in weights.items())


def matryoshka_backward(model, x, y, trunks, weights):
    """Add the gradient of the weighted mean loss of all sizes in `trunks`; returns {size: cross-entropy}.

    x, y: (N, B, T), a batch for each of the N trunks; y may be a teacher's probabilities, (N, B, T, V).
    2205.13147 and 2310.07707 read one batch for all; with one for each a step costs the same, and the
    weights that dolls share learn from N times the text.
    The graph of each trunk is freed before the next is built: with the largest first, peak memory is that
    of the largest doll alone. With a model in DistributedDataParallel, processes exchange gradients once.
    """
    nested, losses = getattr(model, "module", model), {}
    # a Size drawn from a range has no weight of its own
    weigh = lambda size: weights.get(size, 1 / len(weights))
    total = sum(weigh(size) for trunk in trunks for size in trunk)
    with getattr(model, "no_sync", nullcontext)():
        for trunk, tokens, targets in zip(trunks, x, y, strict=True):
            with precision(x):
                found = {
                    size: F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))
                    for size, logits in zip(trunk, nested(tokens, trunk))
                }
            loss = sum(weigh(size) / total * loss for size, loss in found.items())
            if loss.requires_grad:  # not where all that these dolls read is frozen
                loss.backward()
            losses.update({size: loss.detach() for size, loss in found.items()})
    if nested is not model:  # a pass that adds nothing, at whose end processes exchange gradients
        (0 * model(x[0, :1, :1]).sum()).backward()
    return losses
