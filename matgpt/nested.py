"""Nested linear map and norm: the only place where a weight is sliced.

A doll reads the leading corner of every weight. Its input already has the doll's width, so the shape of `x`
tells a layer how many inputs to read; its caller says how many outputs.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def corner(weight, *shape):
    """Return the leading corner of `weight` with that shape, as a view."""
    return weight[tuple(slice(n) for n in shape)]


def check_finite(weights, where="the model"):
    """Raise ValueError, naming it, for one of {name: weight} without values, or with NaN or infinity."""
    for name, p in weights.items():
        if p.is_meta:
            raise ValueError(f"{where}: {name} is on the meta device, without values")
        if not all(x.isfinite() for x in p.aminmax()):  # attention may hide it
            raise ValueError(f"{where}: {name} contains NaN or infinity: did the training diverge?")


class NestedLinear(nn.Module):
    """Linear map from (..., *in_shape) to (..., *out_shape), stored as (*out_shape, *in_shape).

    A doll multiplies its corner by sqrt(full fan-in / own fan-in), so that a weight drawn for the full width
    acts at the scale of the doll's width. MatFormer (2310.07707) needs no such factor, since it changes the
    fan-in of one matrix; here the fan-in of every matrix changes.
    """

    def __init__(self, in_shape, out_shape, bias, std=0.02):
        super().__init__()
        self.in_shape, self.out_shape = in_shape, out_shape
        self.weight = nn.Parameter(torch.empty(*out_shape, *in_shape))
        self.bias = nn.Parameter(torch.zeros(*out_shape)) if bias else None
        nn.init.normal_(self.weight, std=std)

    def scale(self, in_shape):
        """Return sqrt(full fan-in / own fan-in), the factor for a doll that reads `in_shape` of them."""
        return math.sqrt(math.prod(self.in_shape) / math.prod(in_shape))

    def matrix(self, in_shape, out_shape):
        """Return the scaled corner as F.linear takes it: weight (out, in), and bias (out) or None."""
        weight, scale = corner(self.weight, *out_shape, *in_shape), self.scale(in_shape)
        weight = (weight if scale == 1 else weight * scale).reshape(math.prod(out_shape), -1)
        return weight, None if self.bias is None else corner(self.bias, *out_shape).flatten()

    def forward(self, x, out_shape):
        dims = len(self.in_shape)
        y = F.linear(x.flatten(-dims), *self.matrix(x.shape[-dims:], out_shape))
        return y.unflatten(-1, out_shape)

    def extra_repr(self):
        return f"{self.in_shape} -> {self.out_shape}, bias={self.bias is not None}"


class NestedNorm(nn.LayerNorm):
    """LayerNorm over the width of `x`, with the prefix of gain and shift."""

    def corner(self, d):
        """Return gain and shift, (d) each; None for one that is missing."""
        return [None if p is None else corner(p, d) for p in (self.weight, self.bias)]

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], *self.corner(x.size(-1)))

    def extra_repr(self):
        return f"{len(self.weight)}, bias={self.bias is not None}"
