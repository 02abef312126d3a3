"""A nesting without names: every Size that lies between two."""

from dataclasses import dataclass

import numpy as np

from .sizes import Size, heads_fit, positive


def pick(values, share, step=1):
    """The value at that share, 0 to 1, of the way along `values`; over random shares each comes as often."""
    place = values[0] - step / 2 + share * (values[-1] - values[0] + step)
    return min(values, key=lambda value: abs(value - place))


@dataclass(frozen=True)
class Between:
    """A nesting of every Size from one to another: `matgpt.between(Size(32, 1, 1), Size(128, 4, 4))`.

    Width, a multiple of `multiple_of`, heads and layers lie between those of the two. The feedforward is
    2 to 4 times as wide as the residual, or as far beyond that as theirs, up to that of the largest.
    """

    smallest: Size
    largest: Size
    multiple_of: int = 8

    def __post_init__(self):
        object.__setattr__(self, "multiple_of", positive("multiple_of", self.multiple_of))
        for name in ("smallest", "largest"):
            size = getattr(self, name)
            if not isinstance(size, Size) or isinstance(size.n_inner, tuple):
                raise ValueError(f"{name}={size!r} must be a Size whose n_inner is one number for all layers")
            if size.n_embd % (multiple := self.multiple_of):
                raise ValueError(f"{name}={size!r}: n_embd must be a multiple of multiple_of={multiple}")
        for axis, least in vars(self.smallest).items():
            if least > (most := getattr(self.largest, axis)):
                found = f"smallest={self.smallest!r} has more {axis} than the largest"
                raise ValueError(f"{found}: at most {most}")

    @property
    def inner_ratios(self):
        """How many times as wide as the residual the feedforward is, at least and at most."""
        ratios = [size.n_inner / size.n_embd for size in (self.smallest, self.largest)]
        return min(2, *ratios), max(4, *ratios)

    def at(self, head_size, width, heads, layers, inner_ratio):
        """The Size at these shares, each from 0 to 1, of the way from the smallest to the largest."""
        low, high = self.smallest, self.largest
        fitting = lambda d: [h for h in range(low.n_head, high.n_head + 1) if heads_fit(d, h, head_size)]
        widths = range(low.n_embd, high.n_embd + 1, self.multiple_of)
        d = pick([d for d in widths if fitting(d)], width, self.multiple_of)
        n_layer = pick(range(low.n_layer, high.n_layer + 1), layers)
        f = max(1, min(round(inner_ratio * d), high.n_inner))
        return Size(d, pick(fitting(d), heads), n_layer, f)

    def landmarks(self, head_size, cost):
        """A few sizes from the smallest to the largest, evenly spread over the logarithm of their `cost`."""
        first, last = (size.n_inner / size.n_embd for size in (self.smallest, self.largest))
        way = [self.at(head_size, t, t, t, first + t * (last - first)) for t in np.linspace(0, 1, 101)]
        costs = np.log([cost(size) for size in way])
        return {way[abs(costs - c).argmin()] for c in np.linspace(costs[0], costs[-1], 5)}


between = Between  # as `range` is: a class with the name of what it makes
