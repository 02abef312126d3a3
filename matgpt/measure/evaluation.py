"""The loss of a doll over a text."""

from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F

from ..config import positive
from ..text.batches import as_row, batch

MOST_LOGITS = 2**26  # at once: a quarter of a gigabyte in float32


class BySize(dict):
    """A dict keyed by Size that also answers to a width that names one of them."""

    def __missing__(self, key):
        found = [s for s in self if s.n_embd == key]
        if len(found) != 1:
            raise KeyError(f"{key!r} names {len(found)} of {list(self)}")
        return self[found[0]]


def precision(device, dtype=None):
    """Matrix products of float32 in that dtype; None: in bfloat16 on a GPU that has it, else as they are."""
    gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if dtype is None and not gpu:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype != "float32")


def nats(logits, y):
    """Mean cross-entropy, taken in float32 where logits (B, T, V) are shorter; y: (B, T), or like logits."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(0, 1))


def cross_entropy(model, x, y, size=None):
    """Mean cross-entropy of one doll, nats per token."""
    with precision(x.device):
        return nats(model(x, size), y)


def blocks(model, ids, max_blocks, batch_size):
    """Inputs and targets (B, T), of blocks of `ids` that do not overlap: all, or some evenly spaced."""
    config, T = model.config, model.config.block_size
    ids = as_row(ids, T)
    starts = np.arange(0, len(ids) - T, T)
    if max_blocks is not None and positive("max_blocks", max_blocks) < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, max_blocks).astype(int)]
    # with a large vocabulary, logits of fewer texts at once
    B = min(positive("batch_size", batch_size), max(1, MOST_LOGITS // (T * config.vocab_size)))
    for some in np.split(starts, range(B, len(starts), B)):
        yield batch(ids, some, T, model.embedding.token.device, config.vocab_size)


@torch.no_grad()
def evaluate_sizes(model, ids, sizes=None, max_blocks=None, batch_size=64):
    """{size: mean cross-entropy} of several dolls (default: the nesting) over `ids`, in nats per token.

    Dolls that share a trunk are read out of one pass, so this is cheaper than `evaluate` for each.
    """
    sizes = [model.config.resolve(size) for size in (model.sizes if sizes is None else sizes)]
    totals, n_blocks = dict.fromkeys(sizes, 0.0), 0
    with model.mode(training=False):
        for x, y in blocks(model, ids, max_blocks, batch_size):
            for trunk in model.trunks(list(totals)):
                with precision(x.device):
                    logits = model(x, trunk)
                for size, each in zip(trunk, logits):
                    totals[size] += nats(each, y).item() * len(x)
            n_blocks += len(x)
    return BySize((size, totals[size] / n_blocks) for size in sizes)


def evaluate(model, ids, size=None, max_blocks=None, batch_size=64):
    """Mean cross-entropy of one doll over `ids`, in nats per token.

    Reads blocks of block_size tokens that do not overlap: all of them, or `max_blocks` evenly spaced.
    Raises ValueError for a text shorter than one block or a size that does not fit.
    """
    return evaluate_sizes(model, ids, [size], max_blocks, batch_size)[model.config.resolve(size)]
