"""Dolls smaller along every dimension: lattices of sizes, their cost, and the best shape for a budget."""

from dataclasses import dataclass

from ..config import Size, inner_sizes, positive
from .evaluation import evaluate


def lattice(n_embd, n_layer, head_size, n_inner_ratio=(4,)):
    """A Size for every width, depth and feedforward ratio; heads keep their size, so width w has w // head_size.

    Raises ValueError if an axis is empty or a width is not a multiple of head_size.
    """
    for name, axis in (("n_embd", n_embd), ("n_layer", n_layer), ("n_inner_ratio", n_inner_ratio)):
        if not isinstance(axis, (tuple, list)) or not axis:
            raise ValueError(f"{name}={axis!r} is empty or no tuple: name at least one value")
    for d in n_embd:
        if positive("n_embd", d) % positive("head_size", head_size):
            raise ValueError(f"n_embd={d} is not a multiple of head_size={head_size}")
    return tuple(
        Size(d, d // head_size, l, d * positive("n_inner_ratio", ratio))
        for d in n_embd
        for l in n_layer
        for ratio in n_inner_ratio
    )


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
        weights += (
            4 * a * d + 2 * d * f + 2 * a * config.block_size
        )  # the last: q·k and the weighted sum of v
    return 2 * weights


@dataclass(frozen=True)
class Point:
    """One doll measured: parameters, FLOPs per token, validation loss (nats), whether nothing beats it."""

    size: Size
    params: int
    flops: int
    loss: float
    on_front: bool = False

    def beats(self, other):
        """No dearer in parameters or FLOPs, no worse in loss, and better in one of them."""
        mine, theirs = (self.params, self.flops, self.loss), (other.params, other.flops, other.loss)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs))


def mark_front(points):
    """The same points, smallest first, with `on_front` set for those that no other point beats."""
    return [
        Point(p.size, p.params, p.flops, p.loss, not any(q.beats(p) for q in points))
        for p in sorted(points, key=lambda p: (p.params, p.flops))
    ]


def frontier(model, val_ids, sizes=None, max_blocks=None):
    """Measure dolls: a `Point` for each of `sizes` (default: the nesting), smallest first.

    sizes may name any Size that fits, trained or not. max_blocks: as for `evaluate`.
    """
    sizes = [model.config.resolve(s) for s in (model.sizes if sizes is None else sizes)]
    return mark_front(
        [
            Point(
                s,
                model.num_params(s),
                flops_per_token(model.config, s, model.trunk_size(s)),
                evaluate(model, val_ids, s, max_blocks),
            )
            for s in sizes
        ]
    )


def best_size(points, max_params=None, max_flops=None):
    """The Size with the lowest loss within a budget of parameters and of FLOPs per token.

    Raises ValueError, naming the cheapest doll, if none fits.
    """
    fitting = [
        p
        for p in points
        if (max_params is None or p.params <= max_params) and (max_flops is None or p.flops <= max_flops)
    ]
    if not fitting:
        if not points:
            raise ValueError("points is empty: measure some dolls with frontier first")
        raise ValueError(
            f"no doll fits max_params={max_params}, max_flops={max_flops}: the smallest has "
            f"{min(p.params for p in points)} parameters, the cheapest {min(p.flops for p in points)} FLOPs"
        )
    return min(fitting, key=lambda p: p.loss).size
