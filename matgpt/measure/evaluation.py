"""The loss of each doll on a text, and how often a smaller doll predicts what the full one predicts."""

from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..sizes import positive
from ..text.batches import as_ids, batch

MOST_LOGITS = 2**26  # at once: a quarter of a gigabyte in float32


class BySize(dict):
    """A dict whose keys are Sizes; the width of exactly one of them also works as a key."""

    def __missing__(self, key):
        sizes = [size for size in self if size.n_embd == key]
        if len(sizes) != 1:
            raise KeyError(f"{key!r} names {len(sizes)} of {list(self)}")
        return self[sizes[0]]

    def __contains__(self, key):
        return super().__contains__(key) or [size.n_embd for size in self].count(key) == 1

    def get(self, key, default=None):
        return self[key] if key in self else default  # noqa: SIM401, which would call this function again


def precision(device, dtype=None):
    """Return a context for float32 matrix products in `dtype`; None means bfloat16 on a GPU that has it."""
    gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if dtype is None and not gpu:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype != "float32")


def nats(logits, y):
    """Return the mean cross-entropy of logits (B, T, V) on targets (B, T), computed in float32 or finer."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(0, 1))


def cross_entropy(model, x, y, size=None):
    """Return the mean cross-entropy of one doll, in nats per token; x and y are (B, T)."""
    with precision(x.device):
        return nats(model(x, size), y)


def blocks(model, ids, max_blocks=None, n_sizes=1):
    """Yield inputs and targets (B, T) of blocks of `ids` that do not overlap: all, or some evenly spaced.

    B is at most 64, and less if the logits of n_sizes dolls would otherwise exceed MOST_LOGITS.
    """
    T, V = model.config.block_size, model.config.vocab_size
    ids = as_ids(ids, T)
    starts = np.arange(0, len(ids) - T, T)
    if max_blocks is not None and positive("max_blocks", max_blocks) < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, max_blocks).astype(int)]
    B = min(64, max(1, MOST_LOGITS // (n_sizes * T * V)))
    for i in range(0, len(starts), B):
        yield batch(ids, starts[i : i + B], T, model.embedding.token.device, V)


@torch.no_grad()
def averages(measure, model, ids, sizes, max_blocks):
    """Return {size: mean over all blocks of measure(logits (B, T, V), targets (B, T), first) -> (B, *)}.

    One pass without dropout serves all sizes that share a trunk. first: the logits of the largest size.
    """
    values = BySize((model.config.resolve(size), []) for size in sizes)
    trunks = model.trunks(values)
    with model.mode(training=False):
        for x, y in blocks(model, ids, max_blocks, max(map(len, trunks), default=1)):
            first = None
            for trunk in trunks:
                for size, logits in zip(trunk, model(x, trunk)):
                    first = logits if first is None else first
                    values[size].append(measure(logits, y, first))
    return BySize((size, torch.cat(each).mean(0).tolist()) for size, each in values.items())


def evaluate_sizes(model, ids, sizes=None, max_blocks=None):
    """Return {size: loss} of several dolls, by default those of the nesting, as `evaluate` measures them."""

    def loss(logits, y, _):
        return nats(logits, y).expand(len(y))

    with precision(model.embedding.token.device):
        return averages(loss, model, ids, model.sizes if sizes is None else sizes, max_blocks)


def evaluate(model, ids, size=None, max_blocks=None):
    """Return the mean cross-entropy of one doll on `ids`, in nats per token.

    Reads blocks of block_size tokens that do not overlap: all, or `max_blocks` evenly spaced. Raises
    ValueError for a text shorter than a block, an id outside the vocabulary, or a size that does not fit.
    """
    (loss,) = evaluate_sizes(model, ids, [size], max_blocks).values()
    return loss


class Agreement(NamedTuple):
    """`same`: share of positions where the likeliest token is the full doll's. `kl`: nats per token."""

    same: float
    kl: float


def agreement(model, ids, max_blocks=256):
    """Return {size: Agreement} of every doll with the full one on a text (MatFormer, 2310.07707, 4.1).

    `kl` is the mean of KL(full || doll): the smaller it is, the more tokens of a draft the full doll accepts.
    Reads blocks and raises errors as `evaluate` does.
    """

    def compare(logits, _, full):
        doll, full = logits.float().log_softmax(-1), full.float().log_softmax(-1)
        same = (doll.argmax(-1) == full.argmax(-1)).float()
        kl = F.kl_div(doll, full, reduction="none", log_target=True).sum(-1)
        return torch.stack([same, kl], -1).mean(1)  # (B, 2)

    result = averages(compare, model, ids, model.sizes, max_blocks)
    return BySize((size, Agreement(*pair)) for size, pair in result.items())
