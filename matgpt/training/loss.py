"""The Matryoshka loss: the mean over the dolls of a step."""

import math
from contextlib import nullcontext

import numpy as np

from ..measure.evaluation import cross_entropy, nats, precision


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


def weigh(weights, trunk):
    """What a token counts for that these sizes read; a Size drawn from a range has no weight of its own."""
    return sum(weights.get(size, 1 / len(weights)) for size in trunk)


def matryoshka_backward(model, parts, weights, total=None, dtype=None):
    """Add the gradient of the mean loss over tokens and sizes of a step; returns {size: cross-entropy}.

    parts: (trunk, x, y) of each trunk, x and y of shape (B, T) with a B of its own; y may be a teacher's
        probabilities, (B, T, V).
    weights: what a token counts for, by size.
    total: what all sequences count for together, where other processes read some of them.
    dtype: of the products, as in `train`.

    2205.13147 and 2310.07707 read one batch for all; where each trunk reads its own, the weights that dolls
    share learn from more text. The graph of each trunk is freed before the next is built: with the largest
    first, peak memory is that of the largest doll alone. With a model in DistributedDataParallel, processes
    exchange gradients once.
    """
    nested, losses = getattr(model, "module", model), {}
    total = total or sum(weigh(weights, trunk) * len(x) for trunk, x, _ in parts)
    with getattr(model, "no_sync", nullcontext)():
        for trunk, x, y in parts:
            with precision(x.device, dtype):
                found = {size: nats(logits, y) for size, logits in zip(trunk, nested(x, trunk))}
            loss = sum(weigh(weights, [size]) * len(x) / total * loss for size, loss in found.items())
            if loss.requires_grad:  # not where all that these dolls read is frozen
                loss.backward()
            losses.update({size: loss.detach() for size, loss in found.items()})
    if nested is not model:  # a pass that adds nothing, at whose end processes exchange gradients
        (0 * model(parts[0][1][:1, :1]).sum()).backward()
    return losses
