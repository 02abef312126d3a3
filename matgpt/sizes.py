"""A doll is a `Size`: it reads the leading corner of that shape from every weight."""

import numbers
from contextlib import suppress
from dataclasses import dataclass


def positive(name, value, least=1):
    """Return `value` as an int; ValueError, naming it, unless it is a whole number of at least `least`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if whole and least <= value < 2**63:
        return int(value)
    limit = ", below 2**63" if whole and value > 0 else ""
    raise ValueError(f"{name}={value!r} must be a whole number of at least {least}{limit}")


def number(name, value, interval):
    """Return `value` as a float; ValueError, naming it, unless it lies in an interval such as "[0, 1)"."""
    low, high = map(float, interval[1:-1].split(", "))
    ends = [low] * (interval[0] == "(") + [high] * (interval[-1] == ")")  # those that are left out
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if real and low <= value <= high and value not in ends:
        with suppress(OverflowError):  # an int of 400 digits
            return float(value)
    raise ValueError(f"{name}={value!r} must be a number in {interval}")


@dataclass(frozen=True)
class Size:
    """The shape of one doll. Raises ValueError, naming the value, for anything but whole numbers from 1 on.

    `n_inner`, the hidden units of the feedforward, is an int or a tuple with one entry per layer
    (MatFormer's Mix'n'Match, 2310.07707 section 3.3). None: 4 * n_embd, as in GPT-2.
    """

    n_embd: int
    n_head: int
    n_layer: int
    n_inner: int | tuple[int, ...] | None = None

    def __post_init__(self):
        for name in ("n_embd", "n_head", "n_layer"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        inner = 4 * self.n_embd if self.n_inner is None else self.n_inner
        if isinstance(inner, (tuple, list)):
            if len(inner) != self.n_layer:
                raise ValueError(f"n_inner={inner!r} needs one entry for each of {self.n_layer} layers")
            inner = tuple(positive("n_inner", f) for f in inner)
            inner = inner[0] if len(set(inner)) == 1 else inner  # one number where all layers are alike
        else:
            inner = positive("n_inner", inner)
        object.__setattr__(self, "n_inner", inner)

    @property
    def inner(self):
        """The hidden units of each layer, as a tuple."""
        return self.n_inner if isinstance(self.n_inner, tuple) else (self.n_inner,) * self.n_layer

    def __str__(self):
        """Write it as `--nesting` takes it: "64,2,2", and n_inner after it unless that is 4 * n_embd."""
        inner = "/".join(map(str, self.n_inner)) if isinstance(self.n_inner, tuple) else self.n_inner
        shape = f"{self.n_embd},{self.n_head},{self.n_layer}"
        return shape if self.n_inner == 4 * self.n_embd else f"{shape},{inner}"

    @classmethod
    def parse(cls, text):
        """Read what `str` writes: "64,2,2", "64,2,2,128" or "64,2,2,128/256". ValueError for other text."""
        try:
            shape = [[int(number) for number in part.split("/")] for part in text.split(",")]
            (n_embd,), (n_head,), (n_layer,), inner = shape if len(shape) == 4 else (*shape, [None])
        except (ValueError, AttributeError):
            raise ValueError(f"{text!r} must be width,heads,layers or width,heads,layers,inner") from None
        return cls(n_embd, n_head, n_layer, inner if len(inner) > 1 else inner[0])

    def covers(self, other):
        """Say whether `other` is larger on no axis."""
        axes = [(getattr(self, name), getattr(other, name)) for name in ("n_embd", "n_head", "n_layer")]
        return all(mine >= theirs for mine, theirs in [*axes, *zip(self.inner, other.inner)])

    def begins(self, other):
        """Say whether the blocks of this size are the first blocks of `other`, at the same width."""
        first = other.inner[: self.n_layer]
        return (self.n_embd, self.n_head, self.inner) == (other.n_embd, other.n_head, first)


def heads_fit(n_embd, n_head, head_size):
    """Say whether the width has room for `n_head` whole heads, or divides into narrower ones."""
    return n_embd // n_head >= head_size or n_embd % n_head == 0
