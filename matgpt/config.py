"""The configuration of the full model, and the dolls that it nests."""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np

from .ranges import Between
from .sizes import Size, heads_fit, number, positive


@dataclass(frozen=True)
class GPTConfig:
    """Shape of the full model, and its `nesting`: the dolls that are trained inside it.

    vocab_size: number of tokens, V.
    block_size: longest context in tokens, T.
    n_embd, n_head, n_layer: width D, heads H and blocks L of the full model.
    nesting: the dolls, each an int or a `Size`; or a range made by `between`. An int is a width: see `width`.
        The full size always belongs to the nesting. None: only the full size, which makes a plain GPT-2.
    n_inner: hidden units of the feedforward, an int or a tuple with one entry per layer. None: 4 * n_embd.
    head_size: width S of one head. None: n_embd // n_head.
    dropout: probability, on embeddings, attention weights and both residual branches.
    bias: whether linear layers and norms have one.

    The fields stay as given, so that `dataclasses.replace` derives defaults anew. `full`, `sizes` and
    `full_head_size` hold the derived values. Raises ValueError, naming the value, for one out of range.
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
        put = functools.partial(object.__setattr__, self)  # the class is frozen
        for name in ("vocab_size", "block_size", "n_embd", "n_head", "n_layer"):
            put(name, positive(name, getattr(self, name)))
        put("dropout", number("dropout", self.dropout, "[0, 1)"))
        if self.bias not in (True, False):
            raise ValueError(f"bias={self.bias!r} must be True or False")
        put("bias", bool(self.bias))
        D, H = self.n_embd, self.n_head
        if self.head_size is None and D % H:
            raise ValueError(f"n_embd={D} must be a multiple of n_head={H}")
        if self.head_size is not None:
            put("head_size", positive("head_size", self.head_size))
            if self.head_size > D // H:  # no doll, not even the full one, would read all of a head
                raise ValueError(f"head_size={self.head_size} may be at most n_embd // n_head = {D // H}")
        if self.n_inner is not None:
            put("n_inner", self.full.n_inner)
        nesting = self.nesting
        if nesting is not None and not isinstance(nesting, Between):
            if isinstance(nesting, (str, Size)) or not hasattr(nesting, "__iter__"):
                raise ValueError(f"nesting={nesting!r} must be a sequence of widths and Sizes, or a range")
            put("nesting", tuple(x if isinstance(x, Size) else positive("n_embd", x) for x in nesting))
        self.sizes  # noqa: B018 - raises ValueError for a nesting that does not fit

    def in_order(self, sizes):
        """Return `sizes` and the full one, smallest first; shapes break ties, so the order never varies."""

        def key(size):
            return self.num_params(size), size.n_embd, size.n_head, size.n_layer, size.inner

        return tuple(sorted({*sizes, self.full}, key=key))

    @property
    def full(self):
        """The Size of the whole model."""
        return Size(self.n_embd, self.n_head, self.n_layer, self.n_inner)

    @property
    def full_head_size(self):
        """Width S of one head of the full model."""
        return self.n_embd // self.n_head if self.head_size is None else self.head_size

    @functools.cached_property
    def sizes(self):
        """Every doll of the nesting, or a few of a range, smallest first; the last is the full size."""
        if isinstance(self.nesting, Between):
            self.fit(self.nesting.smallest)
            self.fit(self.nesting.largest)
            return self.in_order(self.nesting.landmarks(self.full_head_size, self.num_params))
        if self.nesting == ():
            raise ValueError("nesting=() is empty: name at least one doll, or pass None for the full size")
        sizes = [self.fit(x) if isinstance(x, Size) else self.width(x) for x in self.nesting or ()]
        if twice := [size for i, size in enumerate(sizes) if size in sizes[:i]]:
            raise ValueError(f"nesting={self.nesting!r} names {twice[0]!r} twice")
        return self.in_order(sizes)

    def draw(self, rng):
        """Draw a Size of the range with a numpy Generator. ValueError unless the nesting is a range."""
        if not isinstance(self.nesting, Between):
            raise ValueError(f"nesting={self.nesting!r} is not a range: make one with matgpt.between")
        return self.nesting.at(self.full_head_size, *rng.random(3), rng.uniform(*self.nesting.inner_ratios))

    def sample(self, n, seed=0):
        """Draw up to n Sizes of the range, for `frontier`; returns them and the full one, smallest first."""
        rng = np.random.default_rng(positive("seed", seed, 0))
        return self.in_order([self.draw(rng) for _ in range(positive("n", n))])

    def width(self, n_embd):
        """Return the doll cut along the width alone: every layer, and the feedforward in proportion.

        It keeps every head, each narrower; or the most that fit: whole heads, or a number that divides it.
        """
        n_embd = positive("n_embd", n_embd)
        inner = tuple(max(1, f * n_embd // self.n_embd) for f in self.full.inner)
        heads = [h for h in range(1, self.n_head + 1) if heads_fit(n_embd, h, self.full_head_size)]
        return self.fit(Size(n_embd, heads[-1], self.n_layer, inner))

    def fit(self, size):
        """Return `size` if the full model holds it; else raise ValueError saying what does not fit."""
        if not self.full.covers(size):
            raise ValueError(f"{size!r} does not fit: no axis may be larger than that of {self.full!r}")
        if not heads_fit(size.n_embd, size.n_head, self.full_head_size):
            raise ValueError(f"{size!r} does not fit: its n_head must divide its n_embd")
        return size

    def resolve(self, size=None):
        """Return the Size meant by None (the full one), a Size that fits, or the width of one of `sizes`."""
        if size is None:
            return self.full
        if isinstance(size, Size):
            return self.fit(size)
        named = [s for s in self.sizes if s.n_embd == size]
        if len(named) == 1:
            return named[0]
        problem = f"names {len(named)} dolls; give the Size" if named else "names no doll"
        if not named and size in range(1, self.n_embd):
            problem += f" (config.width({int(size)}) is one that no step trained)"
        raise ValueError(f"size={size!r} {problem}: the nesting is {', '.join(map(repr, self.sizes))}")

    def head_size_of(self, size):
        """Return the width of one head of that doll: S if its width has room for all heads, else less."""
        return min(self.full_head_size, size.n_embd // size.n_head)

    def doll(self, size):
        """Return the configuration of that doll as a model of its own, with a single size."""
        size = self.resolve(size)
        return dataclasses.replace(self, **vars(size), nesting=None, head_size=self.head_size_of(size))

    def num_params(self, size=None):
        """Count the parameters that the doll reads: the tied embedding once, position embeddings too."""
        size = self.resolve(size)
        d, a = size.n_embd, size.n_head * self.head_size_of(size)
        norm = d * (1 + self.bias)
        total = (self.vocab_size + self.block_size) * d + norm
        for f in size.inner:
            total += 4 * d * a + 2 * d * f + 2 * norm + self.bias * (3 * a + f + 2 * d)
        return total
