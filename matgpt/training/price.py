"""What a step reads and what it costs."""

from functools import lru_cache

import torch

from ..measure.shapes import flops_per_token
from ..model import MatryoshkaGPT


def price(model, trunk):
    """FLOPs per token of training: forward, and twice as much backward (2001.08361, section 2.1).

    trunk: sizes, of which the first runs the blocks of the others; these cost their readout alone.
    """
    config, (first, *others) = model.config, trunk
    readouts = sum(2 * config.vocab_size * size.n_embd for size in others)
    return 3 * (readouts + flops_per_token(config, first, model.trunk_size(first)))


@lru_cache
def corners(config, size):
    """{parameter: shape of the corner that this doll reads}, without those of which it reads nothing."""
    with torch.device("meta"):
        return {name: p.shape for name, p in MatryoshkaGPT(config.doll(size)).named_parameters()}


def union(config, sizes):
    """The corners that several dolls read together, axis by axis the longest of theirs."""
    if config.full in sizes:
        return corners(config, config.full)
    found = {}
    for size in sizes:
        for name, shape in corners(config, size).items():
            found[name] = tuple(map(max, shape, found.get(name, shape)))
    return found
