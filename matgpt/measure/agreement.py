"""How often a smaller doll says what the full one says."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from .evaluation import BySize, blocks


class Agreement(NamedTuple):
    """`same`: fraction of positions whose likeliest next token is the full doll's. `kl`: nats per token."""

    same: float
    kl: float


@torch.no_grad()
def agreement(model, ids, max_blocks=256, batch_size=16):
    """{size: Agreement} of every doll with the full one, on a text (MatFormer, 2310.07707, section 4.1).

    `kl` is the mean of KL(full || doll), the nats by which the doll is worse at foretelling what the full one
    would write. Drafts are kept the more often, the smaller it is.
    Reads blocks of block_size tokens as `evaluate` does: `max_blocks` evenly spaced, or all of them (None).
    Raises ValueError for a text shorter than one block, or with ids outside the vocabulary.
    """
    total, read = {size: np.zeros(2) for size in model.sizes}, 0
    with model.mode(training=False):
        for idx, _ in blocks(model, ids, max_blocks, batch_size):
            full = model(idx).float().log_softmax(-1)  # (B, T, V)
            for size in model.sizes:
                doll = full if size == model.config.full else model(idx, size).float().log_softmax(-1)
                same = (doll.argmax(-1) == full.argmax(-1)).sum()
                kl = F.kl_div(doll, full, reduction="sum", log_target=True)
                total[size] += [same.item(), kl.item()]
            read += idx.numel()
    return BySize((size, Agreement(*(both / read).tolist())) for size, both in total.items())
