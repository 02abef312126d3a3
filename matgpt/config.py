"""The configuration of the model that holds all dolls, and what it says of each of them."""

import dataclasses
import functools
import numbers
from dataclasses import dataclass

from .ranges import Between
from .sizes import Size, heads_fit, inner_sizes, positive


@dataclass(frozen=True)
class GPTConfig:
    """Shape of the full model, and its `nesting`: which dolls inside it are trained.

    vocab_size: tokens, V.
    block_size: longest context in tokens, T.
    n_embd, n_head, n_layer: width D, heads H and blocks L of the full model.
    nesting: dolls, each an int (a width: every head and layer, head size and feedforward in
        proportion) or a `Size`; or all that lie `between` two Sizes. The full size always belongs to
        them. None: the full size alone, which makes the model a plain GPT-2.
    n_inner: hidden units of the feedforward, an int or a tuple with one entry per layer. None: 4 * n_embd.
    head_size: width S of one head. None: n_embd // n_head.
    dropout: probability, on embeddings, attention weights and both residual branches.
    bias: whether linear layers and norms have one.

    After construction `n_inner` and `head_size` are filled in, and `nesting` holds Sizes, smallest first,
    or the range. Raises ValueError for a value out of range, naming it.
    """

    vocab_size: int
    block_size: int = 64
    n_embd: int = 128
    n_head: int = 4
    n_layer: int = 4
    nesting: tuple | Between | None = None
    n_inner: int | tuple[int, ...] | None = None
    head_size: int | None = None
    dropout: float = 0.0
    bias: bool = True

    def __post_init__(self):
        put = lambda name, value: object.__setattr__(self, name, value)
        for name in ("vocab_size", "block_size", "n_embd", "n_head", "n_layer"):
            put(name, positive(name, getattr(self, name)))
        if not isinstance(self.dropout, numbers.Real) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout!r} must be a number in [0, 1)")
        if self.bias not in (True, False):
            raise ValueError(f"bias={self.bias!r} must be True or False")
        put("dropout", float(self.dropout))
        put("bias", bool(self.bias))
        D, H = self.n_embd, self.n_head
        if self.head_size is None and D % H:
            raise ValueError(f"n_embd={D} is not divisible by n_head={H}: it must be a multiple of it")
        put("head_size", positive("head_size", D // H if self.head_size is None else self.head_size))
        if self.head_size > D // H:  # no doll, not even the full one, would read all of a head
            found = f"head_size={self.head_size} does not fit"
            raise ValueError(f"{found}: with n_embd={D} and n_head={H} it may be at most {D // H}")
        put("n_inner", self.full.n_inner)
        put("nesting", self._check_nesting())

    def _check_nesting(self):
        if isinstance(self.nesting, Between):
            self.fit(self.nesting.smallest)
            self.fit(self.nesting.largest)
            return self.nesting
        if self.nesting is None:
            return (self.full,)
        if isinstance(self.nesting, (str, Size)) or not hasattr(self.nesting, "__iter__"):
            raise ValueError(f"nesting={self.nesting!r} must be a sequence of widths and Sizes, or a range")
        nesting = tuple(self.nesting)
        sizes = [self.fit(s) if isinstance(s, Size) else self.width(s) for s in nesting]
        if not sizes:
            what = "name at least one width or Size, or None for the full size alone"
            raise ValueError(f"nesting=() is empty: {what}")
        for i, size in enumerate(sizes):
            if size in sizes[:i]:
                raise ValueError(f"nesting={nesting!r} names {size!r} twice")
        return self.in_order(sizes)

    def in_order(self, sizes):
        """`sizes` and the full one, smallest first: a total order, so that loss_weights keep their places."""
        shape = lambda s: (s.n_embd, s.n_head, s.n_layer, inner_sizes(s.n_inner, s.n_layer))
        return tuple(sorted({*sizes, self.full}, key=lambda s: (self.num_params(s), shape(s))))

    @property
    def full(self):
        """The Size of the whole model."""
        return Size(self.n_embd, self.n_head, self.n_layer, self.n_inner)

    @property
    def sizes(self):
        """Every doll of the nesting, or a few of its range, smallest first; the last is the full size."""
        return landmarks(self) if isinstance(self.nesting, Between) else self.nesting

    def draw(self, rng):
        """A random Size of the range that is the nesting, by a numpy Generator."""
        if not isinstance(self.nesting, Between):
            raise ValueError(f"nesting={self.nesting!r} is no range to draw from: make one with between")
        return self.nesting.at(self.head_size, *rng.random(3), rng.uniform(*self.nesting.inner_ratios))

    def width(self, n_embd):
        """The doll cut along the width alone: every head and layer, the feedforward in proportion."""
        n_embd = positive("n_embd", n_embd)
        inner = tuple(max(1, f * n_embd // self.n_embd) for f in inner_sizes(self.n_inner, self.n_layer))
        return self.fit(Size(n_embd, self.n_head, self.n_layer, inner))

    def fit(self, size):
        """`size` itself, if the full model holds such a doll; else ValueError naming what does not fit."""
        room = [(name, getattr(size, name), getattr(self, name)) for name in ("n_embd", "n_head", "n_layer")]
        depth = min(size.n_layer, self.n_layer)
        inner = zip(inner_sizes(size.n_inner, depth), inner_sizes(self.n_inner, depth))
        room += [(f"n_inner of layer {i}", f, F) for i, (f, F) in enumerate(inner)]
        for name, value, most in room:
            if value > most:
                raise ValueError(f"{size!r} does not fit: {name} may be at most {most}")
        if not heads_fit(size.n_embd, size.n_head, self.head_size):
            what = f"n_embd={size.n_embd} is not divisible by n_head={size.n_head}"
            raise ValueError(f"{size!r} does not fit: {what}")
        return size

    def resolve(self, size=None):
        """The Size meant by None (the full one), a Size that fits, or the width of one of `sizes`."""
        if size is None:
            return self.full
        if isinstance(size, Size):
            return self.fit(size)
        found = [s for s in self.sizes if s.n_embd == size]
        if len(found) != 1:
            what = "names no doll" if not found else f"names {len(found)} dolls; give the Size"
            raise ValueError(f"size={size!r} {what}: the nesting is {', '.join(map(repr, self.sizes))}")
        return found[0]

    def head_size_of(self, size):
        """Width of one head of that doll: whole where its width has room for all of them, else narrower."""
        return min(self.head_size, size.n_embd // size.n_head)

    def doll(self, size):
        """Configuration of that doll as a model of its own, with a single size."""
        size = self.resolve(size)
        return dataclasses.replace(self, **vars(size), nesting=None, head_size=self.head_size_of(size))

    def num_params(self, size=None):
        """Parameters that the doll reads; the tied embedding counts once, position embeddings count."""
        size = self.resolve(size)
        d, a = size.n_embd, size.n_head * self.head_size_of(size)
        norm = d * (1 + self.bias)
        total = (self.vocab_size + self.block_size) * d + norm
        for f in inner_sizes(size.n_inner, size.n_layer):
            total += 4 * d * a + 2 * d * f + 2 * norm + self.bias * (3 * a + f + 2 * d)
        return total


@functools.cache
def landmarks(config):
    """A few sizes of the range that the config nests, and the full one."""
    return config.in_order(config.nesting.landmarks(config.head_size, config.num_params))


def parse_doll(text):
    """A doll as command lines name it: a width, or what `Size.parse` reads."""
    return int(text) if text.isdecimal() else Size.parse(text)
