"""Nested linear map and norm: the only place where a weight is sliced.

A doll reads the leading corner of every weight. Its input already has the doll's width, so a layer
learns from the shape of `x` how much to read of its inputs, and from its caller how much of its outputs.
"""

import math
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


def corner(weight, *shape):
    """The leading corner of `weight` with that shape, as a view."""
    return weight[tuple(slice(n) for n in shape)]


def plain(name):
    """The name of a parameter without what torch.compile puts around a module."""
    return name.replace("_orig_mod.", "")


@contextmanager
def in_mode(model, training):
    """The model trains inside the block, or not; behind it every module is in the mode in which it was."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


evaluating = partial(in_mode, training=False)  # no dropout inside the block


class NestedLinear(nn.Module):
    """Linear map from (..., *in_shape) to (..., *out_shape), stored as (*out_shape, *in_shape).

    A doll multiplies its corner by sqrt(full fan-in / own fan-in), so that a weight drawn for the full
    width acts at the scale of the width that reads it. MatFormer (2310.07707) has no such factor: there
    the fan-in of only one matrix changes; here that of all of them does.
    """

    def __init__(self, in_shape, out_shape, bias, std=0.02):
        super().__init__()
        self.in_shape, self.out_shape = in_shape, out_shape
        self.weight = nn.Parameter(torch.empty(*out_shape, *in_shape))
        self.bias = nn.Parameter(torch.zeros(*out_shape)) if bias else None
        nn.init.normal_(self.weight, std=std)

    def scale(self, in_shape):
        """What a weight is multiplied by where only this much of its inputs is read."""
        return math.sqrt(math.prod(self.in_shape) / math.prod(in_shape))

    def matrix(self, in_shape, out_shape):
        """A corner at its own scale, as F.linear takes it: weight (out, in), and bias (out) or None."""
        weight, scale = corner(self.weight, *out_shape, *in_shape), self.scale(in_shape)
        weight = (weight if scale == 1 else weight * scale).reshape(math.prod(out_shape), -1)
        return weight, None if self.bias is None else corner(self.bias, *out_shape).flatten()

    def forward(self, x, out_shape):
        dims = len(self.in_shape)
        y = F.linear(x.flatten(-dims), *self.matrix(x.shape[-dims:], out_shape))
        return y.unflatten(-1, out_shape)


class NestedNorm(nn.Module):
    """LayerNorm over the width that `x` has, with the prefix of gain and shift."""

    def __init__(self, n_embd, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))
        self.bias = nn.Parameter(torch.zeros(n_embd)) if bias else None

    def corner(self, d):
        """Gain and shift (d), or None."""
        return [None if p is None else corner(p, d) for p in (self.weight, self.bias)]

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], *self.corner(x.size(-1)))
