"""The Matryoshka loss, and which dolls a step trains."""

import math
from contextlib import nullcontext

import numpy as np
import torch.nn.functional as F

from ..measure.evaluation import cross_entropy, precision


def check_weights(loss_weights, sizes):
    """The weight of each size, summing to one. ValueError for a wrong number or sign."""
    try:
        weights = (
            [1.0] * len(sizes) if loss_weights is None else np.atleast_1d(loss_weights).astype(float).tolist()
        )
    except (TypeError, ValueError):
        weights = []
    if len(weights) != len(sizes) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ValueError(
            f"loss_weights={loss_weights!r} must be {len(sizes)} numbers of at least 0, not all 0: "
            "one for each size"
        )
    return [w / sum(weights) for w in weights]


def matryoshka_loss(model, x, y, loss_weights=None):
    """Weighted mean of the sizes' losses (2205.13147 equation 1), as one scalar to differentiate.

    x, y: (B, T), which every size reads; `train` gives every trunk a batch of its own.
    """
    weights = check_weights(loss_weights, model.sizes)
    return sum(weight * cross_entropy(model, x, y, size) for weight, size in zip(weights, model.sizes))


def matryoshka_backward(model, x, y, sizes, weights):
    """Add the gradient of the weighted mean loss, and return the cross-entropies, one for each size.

    x, y: (N, B, T), a batch for each of the N trunks that `sizes` make. 2205.13147 and 2310.07707 read one batch for
    all; with one for each a step costs the same, and the weights that dolls share learn from N times the text.
    The largest trunk runs first, and the graph of each is freed before the next is built: peak memory is that of the
    largest doll alone. With a model in DistributedDataParallel, processes exchange gradients once.
    """
    nested = getattr(model, "module", model)
    weights, losses = dict(zip(sizes, weights)), {}
    with getattr(model, "no_sync", nullcontext)():
        for trunk, tokens, targets in zip(nested.trunks(sizes), x, y, strict=True):
            with precision(x):
                found = {
                    size: F.cross_entropy(logits.flatten(0, 1), targets.flatten())
                    for size, logits in zip(trunk, nested(tokens, trunk))
                }
            sum(weights[size] * loss for size, loss in found.items()).backward()
            losses.update({size: loss.detach() for size, loss in found.items()})
    if (
        nested is not model
    ):  # a pass that adds nothing, but at whose end DistributedDataParallel exchanges gradients
        (0 * model(x[0, :1, :1]).sum()).backward()
    return [losses[size] for size in sizes]


def draw_sizes(model, weights, random_sizes, rng):
    """The sizes of one step and their weights: all, or the smallest, the largest and `random_sizes` others.

    That is the sandwich rule of 1903.05134, section 3.2; beyond it, the sizes whose blocks a drawn one runs anyway come along.
    """
    sizes, trunks = model.sizes, [model.trunk_size(size) for size in model.sizes]
    if random_sizes < len(sizes) - 2:
        middle = rng.choice(np.arange(1, len(sizes) - 1), random_sizes, replace=False)
        run = [trunks[i] for i in (0, *middle, -1)]
        drawn = [i for i, trunk in enumerate(trunks) if any(trunk.begins(other) for other in run)]
        sizes, weights = [sizes[i] for i in drawn], [weights[i] for i in drawn]
    return sizes, [weight / sum(weights) for weight in weights]
