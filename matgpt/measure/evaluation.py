"""The loss of a doll over a text."""

from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F

from ..config import positive
from ..text.batches import as_ids, batch


class BySize(dict):
    """A dict keyed by Size that also answers to a width that names one of them."""

    def __missing__(self, key):
        found = [s for s in self if s.n_embd == key]
        if len(found) != 1:
            raise KeyError(f"{key!r} names {len(found)} of {list(self)}")
        return self[found[0]]


def precision(x):
    """Products in bfloat16 on a GPU that has it, else as they are."""
    fast = x.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast("cuda", torch.bfloat16) if fast else nullcontext()


def cross_entropy(model, x, y, size=None):
    """Mean cross-entropy of one doll, nats per token."""
    with precision(x):
        return F.cross_entropy(model(x, size).flatten(0, 1), y.flatten())


@torch.no_grad()
def evaluate(model, ids, size=None, max_blocks=None, batch_size=64):
    """Mean cross-entropy of one doll over `ids`, in nats per token.

    Reads blocks of block_size tokens that do not overlap: all of them, or `max_blocks` evenly spaced.
    Raises ValueError for a text shorter than one block or a size that does not fit.
    """
    T, device = model.config.block_size, model.embedding.token.device
    ids, batch_size = as_ids(ids, T, model.config.vocab_size), positive("batch_size", batch_size)
    starts = np.arange(0, len(ids) - T, T)
    if max_blocks is not None and max_blocks < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, positive("max_blocks", max_blocks)).astype(int)]
    was_training = model.training
    model.eval()
    try:
        total = 0.0
        for some in np.split(starts, range(batch_size, len(starts), batch_size)):
            total += cross_entropy(model, *batch(ids, some, T, device), size).item() * len(some)
        return total / len(starts)
    finally:
        model.train(was_training)
