"""What a doll is: a `Size`, and the configuration of the model that holds all of them."""

import dataclasses
import numbers
import operator
from dataclasses import dataclass


def positive(name, value):
    """`value` as an int; ValueError, naming it, unless it is a whole number of at least 1."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
    return number


def inner_sizes(n_inner, n_layer):
    """Feedforward widths, one int or one per layer, as a tuple with one entry per layer."""
    return n_inner if isinstance(n_inner, tuple) else (n_inner,) * n_layer


def _check_inner(n_inner, n_layer):
    """An int, or a tuple with one int per layer (an int again where they are all alike)."""
    if not isinstance(n_inner, (tuple, list)):
        return positive("n_inner", n_inner)
    n_inner = tuple(positive("n_inner", f) for f in n_inner)
    if len(n_inner) != n_layer:
        raise ValueError(
            f"n_inner={n_inner!r} has {len(n_inner)} entries; it needs one for each of {n_layer} layers"
        )
    return n_inner[0] if len(set(n_inner)) == 1 else n_inner


@dataclass(frozen=True)
class Size:
    """The shape of one doll: the leading corner that it reads of every weight of the full model.

    `n_inner`, the hidden units of the feedforward, is an int or a tuple with one entry per layer
    (MatFormer's Mix'n'Match, 2310.07707 section 3.3); left out it is 4 * n_embd, as in GPT-2.
    """

    n_embd: int
    n_head: int
    n_layer: int
    n_inner: int | tuple[int, ...] | None = None

    def __post_init__(self):
        for name in ("n_embd", "n_head", "n_layer"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        n_inner = 4 * self.n_embd if self.n_inner is None else self.n_inner
        object.__setattr__(self, "n_inner", _check_inner(n_inner, self.n_layer))

    def __str__(self):
        """As `--nesting` and `--size` take it: "64,2,2", with n_inner behind it where it is not 4 * n_embd."""
        shape = (self.n_embd, self.n_head, self.n_layer)
        if self.n_inner != 4 * self.n_embd:
            shape += ("/".join(map(str, inner_sizes(self.n_inner, 1))),)
        return ",".join(map(str, shape))

    def begins(self, other):
        """Whether the blocks of this size are the first blocks of the `other`, at the same width."""
        mine, theirs = (inner_sizes(s.n_inner, s.n_layer) for s in (self, other))
        return (self.n_embd, self.n_head) == (other.n_embd, other.n_head) and mine == theirs[: self.n_layer]

    @classmethod
    def parse(cls, text):
        """The Size that `str` writes as "64,2,2", "64,2,2,128" or "64,2,2,128/256"; ValueError for anything else."""
        try:
            shape = [[int(number) for number in part.split("/")] for part in text.split(",")]
            (n_embd,), (n_head,), (n_layer,), n_inner = shape if len(shape) == 4 else (*shape, [None])
        except ValueError:
            raise ValueError(
                f"{text!r} is no size: write width,heads,layers or width,heads,layers,inner"
            ) from None
        return cls(n_embd, n_head, n_layer, n_inner if len(n_inner) > 1 else n_inner[0])


def parse_doll(text):
    """A doll as command lines name it: a width, or what `Size.parse` reads."""
    return int(text) if text.isdecimal() else Size.parse(text)


@dataclass(frozen=True)
class GPTConfig:
    """Shape of the full model, and its `nesting`: which dolls inside it are trained.

    vocab_size: tokens, V.
    block_size: longest context in tokens, T.
    n_embd, n_head, n_layer: width D, heads H and blocks L of the full model.
    nesting: dolls, each an int (a width: every head and layer, head size and feedforward in
        proportion) or a `Size`. The full size always belongs to them. None: the full size alone,
        which makes the model a plain GPT-2.
    n_inner: hidden units of the feedforward, an int or a tuple with one entry per layer. None: 4 * n_embd.
    head_size: width S of one head. None: n_embd // n_head.
    dropout: probability, on embeddings, attention weights and both residual branches.
    bias: whether linear layers and norms have one.

    After construction `n_inner` and `head_size` are filled in, and `nesting` holds Sizes, smallest first.
    Raises ValueError for a value out of range, naming it.
    """

    vocab_size: int
    block_size: int = 64
    n_embd: int = 128
    n_head: int = 4
    n_layer: int = 4
    nesting: tuple | None = None
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
        put("dropout", float(self.dropout))  # not a scalar of numpy, which JSON does not know
        put("bias", bool(self.bias))
        if self.head_size is None:
            if self.n_embd % self.n_head:
                raise ValueError(
                    f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}: it must be a multiple of it"
                )
            put("head_size", self.n_embd // self.n_head)
        put("head_size", positive("head_size", self.head_size))
        if (
            self.head_size > self.n_embd // self.n_head
        ):  # no doll, not even the full one, would read all of a head
            raise ValueError(
                f"head_size={self.head_size} does not fit: with n_embd={self.n_embd} and "
                f"n_head={self.n_head} it may be at most {self.n_embd // self.n_head}"
            )
        put("n_inner", _check_inner(4 * self.n_embd if self.n_inner is None else self.n_inner, self.n_layer))
        put("nesting", self._check_nesting())

    def _check_nesting(self):
        if self.nesting is None:
            return (self.full,)
        if isinstance(self.nesting, (str, Size)) or not hasattr(self.nesting, "__iter__"):
            raise ValueError(f"nesting={self.nesting!r} must be a sequence of widths and Sizes")
        nesting = tuple(self.nesting)
        sizes = [self.fit(s) if isinstance(s, Size) else self.width(s) for s in nesting]
        if not sizes:
            raise ValueError(
                "nesting=() is empty: name at least one width or Size, or None for the full size alone"
            )
        for i, size in enumerate(sizes):
            if size in sizes[:i]:
                raise ValueError(f"nesting={nesting!r} names {size!r} twice")
        # a total order, so that the sizes (and loss_weights with them) keep their places through save and load
        order = lambda s: (
            self.num_params(s),
            s.n_embd,
            s.n_head,
            s.n_layer,
            inner_sizes(s.n_inner, s.n_layer),
        )
        return tuple(sorted({*sizes, self.full}, key=order))

    @property
    def full(self):
        """The Size of the whole model."""
        return Size(self.n_embd, self.n_head, self.n_layer, self.n_inner)

    @property
    def sizes(self):
        """Every doll of the nesting, smallest first; the last is the full size."""
        return self.nesting

    def width(self, n_embd):
        """The doll cut along the width alone: every head and layer, the feedforward in proportion."""
        n_embd = positive("n_embd", n_embd)
        inner = tuple(max(1, f * n_embd // self.n_embd) for f in inner_sizes(self.n_inner, self.n_layer))
        return self.fit(Size(n_embd, self.n_head, self.n_layer, inner))

    def fit(self, size):
        """`size` itself, if the full model holds such a doll; else ValueError naming what does not fit."""
        for name in ("n_embd", "n_head", "n_layer"):
            if getattr(size, name) > getattr(self, name):
                raise ValueError(f"{size!r} does not fit: {name} may be at most {getattr(self, name)}")
        for i, (f, F) in enumerate(
            zip(inner_sizes(size.n_inner, size.n_layer), inner_sizes(self.n_inner, self.n_layer))
        ):
            if f > F:
                raise ValueError(f"{size!r} does not fit: n_inner of layer {i} may be at most {F}")
        if size.n_embd // size.n_head < self.head_size and size.n_embd % size.n_head:
            raise ValueError(
                f"{size!r} does not fit: n_embd={size.n_embd} is not divisible by n_head={size.n_head}"
            )
        return size

    def resolve(self, size=None):
        """The Size meant by None (the full one), a Size that fits, or the width of one doll of the nesting."""
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
        """Width of one head of that doll: whole heads where its width has room for them, else narrower ones."""
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
