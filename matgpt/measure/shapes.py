"""What each doll costs, and which is the best within a budget."""

import itertools
import math
import timeit
import warnings
from dataclasses import dataclass, replace
from statistics import median

import torch

from ..model import MatryoshkaGPT
from ..sizes import Size, number, positive
from .evaluation import evaluate_sizes


def lattice(n_embd, n_layer, head_size, n_inner_ratio=(4,)):
    """Return a Size for each combination of width, depth and feedforward ratio, all with heads of one size.

    Raises ValueError if an axis is empty or a width is not a multiple of head_size.
    """
    for name, axis in (("n_embd", n_embd), ("n_layer", n_layer), ("n_inner_ratio", n_inner_ratio)):
        if not isinstance(axis, (tuple, list)) or not axis:
            raise ValueError(f"{name}={axis!r} must be a tuple or list of at least one number")
    for d in n_embd:
        if positive("n_embd", d) % positive("head_size", head_size):
            raise ValueError(f"n_embd={d} is not a multiple of head_size={head_size}")
    shapes = itertools.product(n_embd, n_layer, n_inner_ratio)
    return tuple(Size(d, d // head_size, l, d * positive("n_inner_ratio", r)) for d, l, r in shapes)


def flops_per_token(config, size=None, trunk=None):
    """Return the FLOPs per token of one forward pass at full context: 2 per weight of every matrix product.

    trunk: the size at which the blocks run, if it differs (an output-only model runs them at full size).
    As in PaLM (2204.02311, appendix B), the tied readout counts, and attention as if without its mask.
    """
    trunk = config.resolve(size if trunk is None else trunk)
    d, a = trunk.n_embd, trunk.n_head * config.head_size_of(trunk)
    inner = sum(trunk.inner)
    attention = 4 * a * d + 2 * a * config.block_size  # the last: q·k and the weighted sum of v
    return 2 * (config.vocab_size * config.resolve(size).n_embd + trunk.n_layer * attention + 2 * d * inner)


@torch.no_grad()
def milliseconds(model, size):
    """Return the median time of a forward pass of one token, by the doll sliced out if that is possible."""
    if isinstance(model, MatryoshkaGPT):
        with warnings.catch_warnings(action="ignore"):  # the size need not be a trained one
            model, size = model.slice(size), None
    token = torch.zeros(1, 1, dtype=torch.long, device=model.embedding.token.device)
    with model.mode(training=False):  # .item() waits for a GPU
        return 1e3 * median(timeit.repeat(lambda: model(token, size).max().item(), number=1, repeat=15))


@dataclass(frozen=True)
class Point:
    """One doll as measured: costs (FLOPs and ms per token), loss in nats, whether no other point beats it."""

    size: Size
    params: int
    flops: int
    loss: float
    on_front: bool = False
    ms: float | None = None
    bytes: int | None = None

    def __str__(self):
        ms = "" if self.ms is None else f", {self.ms:.2f} ms"
        price = f"{self.params:>11,} parameters, {self.flops:>13,} FLOPs{ms} per token"
        return f"{self.size!s:<14}{price}, loss {self.loss:.3f}{', on the front' * self.on_front}"


class Points(list):
    """A list of points that prints as a table, a row for each."""

    def __repr__(self):
        return "\n".join(map(str, self))


def mark_front(points):
    """Return the points, smallest first, with `on_front` set for those that no other point beats.

    A point beats another if it has no more parameters or FLOPs and no higher loss, and one of them is lower.
    """
    measures = [(p.params, p.flops, p.loss) for p in points]

    def leads(own):
        beaten = (other != own and all(a <= b for a, b in zip(other, own)) for other in measures)
        return not math.isnan(own[-1]) and not any(beaten)

    points = [replace(p, on_front=leads(own)) for p, own in zip(points, measures)]
    return Points(sorted(points, key=lambda p: (p.params, p.flops)))


def frontier(model, val_ids, sizes=None, max_blocks=None, latency=False):
    """Return a list of Points, smallest first, that prints as a table: one for each of `sizes`.

    sizes: None for the nesting, or any Sizes that fit, such as `model.config.sample(100)` of a range.
    max_blocks: see `evaluate`. latency: whether to measure milliseconds per token, too.
    """
    if sizes is not None and not hasattr(sizes, "__iter__"):
        raise ValueError(f"sizes={sizes!r} must be several sizes, or None for those of the nesting")
    points = []
    for size, loss in evaluate_sizes(model, val_ids, sizes, max_blocks).items():
        params, flops = model.num_params(size), flops_per_token(model.config, size, model.trunk_size(size))
        ms = milliseconds(model, size) if latency else None
        memory = params * model.embedding.token.element_size()
        points.append(Point(size, params, flops, loss, ms=ms, bytes=memory))
    return mark_front(points)


def best_size(points, max_params=None, max_flops=None, max_ms=None, max_bytes=None):
    """Return the Size with the lowest loss among the points within every limit that is given.

    points: what `frontier` measured. max_flops and max_ms are per token, max_bytes is for the weights.
    Raises ValueError if `points` holds anything else, lacks a cost that has a limit, or has none that fits.
    """
    if not isinstance(points, (list, tuple)) or not all(isinstance(p, Point) for p in points):
        raise ValueError("points must be what frontier(model, val_ids) measures: call frontier first")
    points = [p for p in points if not math.isnan(p.loss)]
    if not points:
        raise ValueError("points is empty, or every loss is NaN: measure dolls with frontier first")
    for cost, most in dict(params=max_params, flops=max_flops, ms=max_ms, bytes=max_bytes).items():
        if most is None:
            continue
        number(f"max_{cost}", most, "[0, inf]")
        costs = [getattr(p, cost) for p in points]
        if None in costs:
            raise ValueError(f"the points hold no {cost}: frontier(..., latency=True) measures it")
        points = [p for p, value in zip(points, costs) if value <= most]
        if not points:
            raise ValueError(f"no doll fits max_{cost}={most}: the least is {min(costs)}")
    return min(points, key=lambda p: p.loss).size
