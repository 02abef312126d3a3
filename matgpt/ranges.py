"""A range: a nesting of every Size that lies between two."""

from dataclasses import dataclass

import numpy as np

from .sizes import Size, heads_fit, positive


def pick(values, share):
    """Return the value this far (0 to 1) along `values`; uniform shares pick all of them equally often."""
    return values[min(int(share * len(values)), len(values) - 1)]


@dataclass(frozen=True)
class Between:
    """A nesting of every Size from one to another: `matgpt.between(Size(32, 1, 1), Size(128, 4, 4))`.

    Width (a multiple of `multiple_of`), heads and layers lie between those of the two. The feedforward is 2
    to 4 times as wide as the residual (further, if theirs are), and at most that of the largest. Raises
    ValueError, naming the value, where the smallest is larger than the largest on an axis.
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
                raise ValueError(f"smallest={self.smallest!r} may have at most {axis}={most}, as the largest")

    @property
    def inner_ratios(self):
        """The least and the largest ratio of feedforward to residual width."""
        ratios = [size.n_inner / size.n_embd for size in (self.smallest, self.largest)]
        return min(2, *ratios), max(4, *ratios)

    def holds(self, size):
        """Say whether `size` is one that the range may draw."""
        axes, most = ("n_embd", "n_head", "n_layer"), self.largest.n_inner
        low, high, own = ([getattr(x, axis) for axis in axes] for x in (self.smallest, self.largest, size))
        least, widest = (max(1, min(round(ratio * size.n_embd), most)) for ratio in self.inner_ratios)
        fits = size.n_embd % self.multiple_of == 0 and all(least <= f <= widest for f in size.inner)
        return fits and all(a <= b <= c for a, b, c in zip(low, own, high))

    def at(self, head_size, width, heads, layers, inner_ratio):
        """Return the Size this far (0 to 1) along each axis, with inner_ratio * its width hidden units."""
        low, high, step = self.smallest, self.largest, self.multiple_of

        def fitting(d):  # numbers of heads
            return [h for h in range(low.n_head, high.n_head + 1) if heads_fit(d, h, head_size)]

        d = pick([d for d in range(low.n_embd, high.n_embd + 1, step) if fitting(d)], width)
        n_layer = pick(range(low.n_layer, high.n_layer + 1), layers)
        return Size(d, pick(fitting(d), heads), n_layer, max(1, min(round(inner_ratio * d), high.n_inner)))

    def landmarks(self, head_size, cost):
        """Return a few sizes from the smallest to the largest, evenly spread over their log `cost`."""
        first, last = (size.n_inner / size.n_embd for size in (self.smallest, self.largest))
        path = [self.at(head_size, t, t, t, first + t * (last - first)) for t in np.linspace(0, 1, 101)]
        costs = np.log([cost(size) for size in path])
        return {path[abs(costs - c).argmin()] for c in np.linspace(costs[0], costs[-1], 5)}


between = Between  # lower case, as for `range`
