"""What a doll is: a `Size`, the leading corner that it reads of every weight."""

import numbers
from dataclasses import dataclass


def positive(name, value, least=1):
    """`value` as an int; ValueError, naming it, unless it is a whole number of at least `least`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if whole and least <= value < 2**63:
        return int(value)
    most = ", below 2**63" if whole and value > 0 else ""
    raise ValueError(f"{name}={value!r} must be a whole number of at least {least}{most}")


def inner_sizes(n_inner, n_layer):
    """Feedforward widths, one int or one per layer, as a tuple with one entry per layer."""
    return n_inner if isinstance(n_inner, tuple) else (n_inner,) * n_layer


@dataclass(frozen=True)
class Size:
    """The shape of one doll.

    `n_inner`, the hidden units of the feedforward, is an int or a tuple with one entry per layer
    (MatFormer's Mix'n'Match, 2310.07707 section 3.3); left out it is 4 * n_embd, as in GPT-2.
    """

    n_embd: int
    n_head: int
    n_layer: int
    n_inner: int | tuple[int, ...] | None = None

    def __post_init__(self):
        put = lambda name, value: object.__setattr__(self, name, value)
        for name in ("n_embd", "n_head", "n_layer"):
            put(name, positive(name, getattr(self, name)))
        inner = 4 * self.n_embd if self.n_inner is None else self.n_inner
        if not isinstance(inner, (tuple, list)):  # no tuple of n_layer, which a damaged file may have huge
            put("n_inner", positive("n_inner", inner))
            return
        if len(inner) != self.n_layer:
            found = f"n_inner={inner!r} has {len(inner)} entries"
            raise ValueError(f"{found}; it needs one for each of {self.n_layer} layers")
        inner = tuple(positive("n_inner", f) for f in inner)
        put("n_inner", inner[0] if len(set(inner)) == 1 else inner)  # one number where all are alike

    def __str__(self):
        """As `--nesting` and `--size` take it: "64,2,2", with n_inner behind it if that is not 4 * n_embd."""
        inner = "/".join(map(str, inner_sizes(self.n_inner, 1)))
        shape = f"{self.n_embd},{self.n_head},{self.n_layer}"
        return shape if self.n_inner == 4 * self.n_embd else f"{shape},{inner}"

    @classmethod
    def parse(cls, text):
        """The Size that `str` writes: "64,2,2", "64,2,2,128" or "64,2,2,128/256"; else ValueError."""
        try:
            shape = [[int(number) for number in part.split("/")] for part in text.split(",")]
            (n_embd,), (n_head,), (n_layer,), inner = shape if len(shape) == 4 else (*shape, [None])
        except (ValueError, AttributeError):
            form = "width,heads,layers or width,heads,layers,inner"
            raise ValueError(f"{text!r} is no size: write {form}") from None
        return cls(n_embd, n_head, n_layer, inner if len(inner) > 1 else inner[0])

    def covers(self, other):
        """Whether the `other` is no larger on any axis."""
        axes = lambda s: (s.n_embd, s.n_head, s.n_layer, *inner_sizes(s.n_inner, s.n_layer))
        return all(mine >= theirs for mine, theirs in zip(axes(self), axes(other)))

    def begins(self, other):
        """Whether the blocks of this size are the first blocks of the `other`, at the same width."""
        mine, theirs = (inner_sizes(s.n_inner, s.n_layer) for s in (self, other))
        return (self.n_embd, self.n_head) == (other.n_embd, other.n_head) and mine == theirs[: self.n_layer]


def heads_fit(n_embd, n_head, head_size):
    """Whether heads are whole, or else narrower ones that divide the width."""
    return n_embd // n_head >= head_size or n_embd % n_head == 0
