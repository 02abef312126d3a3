"""What a doll costs, and the best shape for a budget."""

import functools
import math
import timeit
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Real
from statistics import median

import numpy as np
import torch

from ..model import MatryoshkaGPT, NestedGPT
from ..ranges import Between
from ..sizes import UNITS, Size, inner_sizes, positive
from .evaluation import evaluate


def lattice(n_embd, n_layer, head_size, n_inner_ratio=(4,)):
    """A Size for every width, depth and feedforward ratio; heads keep their size, so w has w // head_size.

    Raises ValueError if an axis is empty or a width is not a multiple of head_size.
    """
    for name, axis in (("n_embd", n_embd), ("n_layer", n_layer), ("n_inner_ratio", n_inner_ratio)):
        if not isinstance(axis, (tuple, list)) or not axis:
            raise ValueError(f"{name}={axis!r} is empty or no tuple: name at least one value")
    for d in n_embd:
        if positive("n_embd", d) % positive("head_size", head_size):
            raise ValueError(f"n_embd={d} is not a multiple of head_size={head_size}")
    shapes = ((d, l, positive("n_inner_ratio", r)) for d in n_embd for l in n_layer for r in n_inner_ratio)
    return tuple(Size(d, d // head_size, l, d * ratio) for d, l, ratio in shapes)


def flops_per_token(config, size=None, trunk=None):
    """FLOPs of one forward pass per token, at full context: 2 per weight of every matrix product.

    trunk: the size at which the blocks run, if it is another (that of an output-only model is the full one).

    Counted as in PaLM (2204.02311, appendix B): causal masking is not taken off, embedding look-ups,
    norms and softmax are left out, the tied readout counts.
    """
    weights = config.vocab_size * config.resolve(size).n_embd
    trunk = config.resolve(size if trunk is None else trunk)
    d, a = trunk.n_embd, trunk.n_head * config.head_size_of(trunk)
    for f in inner_sizes(trunk.n_inner, trunk.n_layer):
        # the last: q·k and the weighted sum of v
        weights += 4 * a * d + 2 * d * f + 2 * a * config.block_size
    return 2 * weights


@torch.no_grad()
def milliseconds(model, size):
    """Milliseconds of one forward pass of one token, the median of several, by the doll sliced out."""
    doll, size = (model.slice(size), None) if isinstance(model, MatryoshkaGPT) else (model, size)
    token = torch.zeros(1, 1, dtype=torch.long, device=model.embedding.token.device)
    with doll.mode(training=False):
        seconds = timeit.repeat(lambda: doll(token, size)[0, 0, 0].item(), number=1, repeat=15)
    return 1e3 * median(seconds)  # .item() waits for a GPU


def costs(model, size, latency=False):
    """What a doll costs, as a `Point` names it; milliseconds only where asked for."""
    params, flops = model.num_params(size), flops_per_token(model.config, size, model.trunk_size(size))
    memory = params * model.embedding.token.element_size()
    return dict(params=params, flops=flops, bytes=memory, ms=milliseconds(model, size) if latency else None)


@dataclass(frozen=True)
class Point:
    """One doll measured: parameters, FLOPs per token, validation loss (nats), whether nothing beats it.

    Where it was measured on a model, also the bytes of its weights and, if asked for, `milliseconds`.
    """

    size: Size
    params: int
    flops: int
    loss: float
    on_front: bool = False
    bytes: int | None = None
    ms: float | None = None

    def beats(self, other):
        """No dearer in parameters or FLOPs, no worse in loss, and better in one of them."""
        mine, theirs = (self.params, self.flops, self.loss), (other.params, other.flops, other.loss)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs))


def mark_front(points):
    """The same points, smallest first, with `on_front` set for those that no other point beats."""
    on_front = lambda p: not (math.isnan(p.loss) or any(q.beats(p) for q in points))
    return [replace(p, on_front=on_front(p)) for p in sorted(points, key=lambda p: (p.params, p.flops))]


def frontier(model, val_ids, sizes=None, max_blocks=None, latency=False):
    """Measure dolls: a `Point` for each of `sizes` (default: the nesting), smallest first.

    sizes may name any Size that fits, trained or not. max_blocks: as for `evaluate`. latency: measure `ms`.
    """
    if not isinstance(sizes, Iterable | None):
        raise ValueError(f"sizes={sizes!r} must be several sizes, or None for those of the nesting")
    sizes = [model.config.resolve(s) for s in (model.sizes if sizes is None else sizes)]
    losses = [evaluate(model, val_ids, s, max_blocks) for s in sizes]
    return mark_front([Point(s, loss=loss, **costs(model, s, latency)) for s, loss in zip(sizes, losses)])


def best_size(points, max_params=None, max_flops=None, max_ms=None, max_bytes=None, val_ids=None):
    """The Size with the lowest loss within a budget: of parameters, FLOPs or milliseconds a token, bytes.

    points: what `frontier` measured; or a model, of which a few dolls are measured on the text `val_ids`.
    Raises ValueError, naming the least that a doll takes, if none fits.
    """
    points = getattr(points, "_orig_mod", points)
    limits = dict(params=max_params, flops=max_flops, ms=max_ms, bytes=max_bytes)
    limits = {name: most for name, most in limits.items() if most is not None}
    for name, most in limits.items():
        if not isinstance(most, Real):
            raise ValueError(f"max_{name}={most!r} must be a number of {UNITS[name]}")
    points = search(points, val_ids, limits) if isinstance(points, NestedGPT) else points
    points = [p for p in points if not math.isnan(p.loss)]
    if not points:
        raise ValueError("points is empty, or no loss is a number: measure some dolls with frontier first")
    for name, most in limits.items():
        if any(getattr(p, name) is None for p in points):
            raise ValueError(
                f"max_{name}={most}: points hold no {name}; frontier(..., latency=True) measures it"
            )
    fitting = [p for p in points if all(getattr(p, name) <= most for name, most in limits.items())]
    if not fitting:
        asked = ", ".join(f"max_{name}={most}" for name, most in limits.items())
        least = ", ".join(f"{min(getattr(p, name) for p in points)} {UNITS[name]}" for name in limits)
        raise ValueError(f"no doll fits {asked}: the least is {least}")
    return min(fitting, key=lambda p: p.loss).size


def search(model, val_ids, limits):
    """Points of the dolls that promise most within `limits`; if none fits, of small ones, without a loss.

    Of all that fit the better half is measured on twice as much text, until two are left. In a range, those
    that count are the widest of each depth and feedforward: a doll is no better than one that contains it.
    """
    cost = functools.cache(lambda size: costs(model, size, "ms" in limits))
    fits = lambda size: all(cost(size)[name] <= most for name, most in limits.items())
    found = widest(model.config, fits) if isinstance(model.config.nesting, Between) else model.sizes
    found = {(model.trunk_size(size), size.n_embd): size for size in found}.values()  # each forward once
    sizes, blocks = [size for size in found if fits(size)], 16
    if not sizes:
        return [Point(s, loss=math.inf, **cost(s)) for s in found]
    while True:
        points = [Point(s, loss=evaluate(model, val_ids, s, blocks), **cost(s)) for s in sizes]
        points.sort(key=lambda p: math.inf if math.isnan(p.loss) else p.loss)
        if len(points) <= 2:
            return points
        sizes, blocks = [p.size for p in points[: (len(points) + 1) // 2]], 2 * blocks


def widest(config, fits):
    """For each depth and three feedforward ratios of a range, the widest Size that fits, or the narrowest.

    Before them the ends of the range, and the full one.
    """
    low, high, ratios = config.nesting.smallest, config.nesting.largest, config.nesting.inner_ratios
    yield from (low, high, config.full)
    shares = lambda n: [(i + 0.5) / n for i in range(n)]
    widths = (high.n_embd - low.n_embd) // config.nesting.multiple_of
    way = shares(max(widths, high.n_head - low.n_head) + 1)  # of width and heads together
    for layers in shares(high.n_layer - low.n_layer + 1):
        for ratio in np.linspace(*ratios, 3):
            sizes = [config.nesting.at(config.full_head_size, t, t, layers, ratio) for t in way]
            yield sizes[max(0, bisect_left(sizes, True, key=lambda size: not fits(size)) - 1)]
