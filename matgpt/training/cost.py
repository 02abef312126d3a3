"""What training costs, in FLOPs."""

from ..files.checkpoint import on_meta
from ..measure.shapes import flops_per_token
from ..model import MatryoshkaGPT
from .optimizer import ITERATIONS, as_matrices, muon_layers


def training_flops(model, trunk, rows=None):
    """Return the FLOPs of training the sizes of one trunk on one token of each sequence that they read.

    A backward pass costs two forward passes (2001.08361, section 2.1). The first size runs the blocks; each
    other size only reads out. rows: how many sequences each size reads (default: one).
    """
    rows = [1] * len(trunk) if rows is None else rows
    readouts = [2 * model.config.vocab_size * size.n_embd for size in trunk]
    blocks = flops_per_token(model.config, trunk[0], model.trunk_size(trunk[0])) - readouts[0]
    return 3 * (max(rows) * blocks + sum(n * readout for n, readout in zip(rows, readouts)))


def optimizer_flops(model, kind):
    """Return the FLOPs of one step: about 15 for each number that AdamW moves, and the products of Muon.

    Of a matrix with sides r <= c, Muon makes two products with the matrix itself, and others r by r.
    """
    numbers, flops = sum(p.numel() for p in model.parameters() if p.requires_grad), 0
    for layer in muon_layers(model) if kind == "muon" else ():
        n, *sides = as_matrices(layer)
        r, c = sorted(sides)
        flops += n * (4 * r * r * c + (8 * ITERATIONS - 6) * r**3)
        numbers -= layer.weight.numel()
    return 15 * numbers + flops


def step_flops(config, batch_size, optimizer="muon", size=None):
    """Return the FLOPs of one training step of a model of that size alone, optimizer included."""
    model = on_meta(MatryoshkaGPT, config.doll(size))  # takes no memory and draws no random numbers
    passes = training_flops(model, [model.config.full]) * batch_size * config.block_size
    return passes + optimizer_flops(model, optimizer)
