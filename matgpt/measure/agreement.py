"""How often a smaller doll says what the full one says."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..config import positive
from ..text.batches import as_ids, batch
from .evaluation import BySize


class Agreement(NamedTuple):
    """`same`: fraction of positions whose likeliest next token is the full doll's. `kl`: nats per token."""

    same: float
    kl: float


@torch.no_grad()
def agreement(model, ids, max_blocks=256, batch_size=16):
    """{size: Agreement} of every doll with the full one, on the text `ids` (MatFormer, 2310.07707, section 4.1).

    `kl` is the mean of KL(full || doll), the nats by which the doll is worse at foretelling what the full one
    would write. Drafts are kept the more often, the smaller it is.
    Reads blocks of block_size tokens as `evaluate` does: `max_blocks` evenly spaced, or all of them (None).
    Raises ValueError for a text shorter than one block, or with ids outside the vocabulary.
    """
    T, device = model.config.block_size, model.embedding.token.device
    ids = as_ids(ids, T, model.config.vocab_size)
    starts = np.arange(0, len(ids) - T, T)
    if max_blocks is not None and positive("max_blocks", max_blocks) < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, max_blocks).astype(int)]
    total = {size: torch.zeros(2, dtype=torch.float64, device=device) for size in model.sizes}
    was_training = model.training
    model.eval()
    try:
        for some in np.split(starts, range(batch_size, len(starts), batch_size)):
            idx, _ = batch(ids, some, T, device)
            full = model(idx).float().log_softmax(-1)  # (B, T, V)
            for size in model.sizes:
                doll = full if size == model.config.full else model(idx, size).float().log_softmax(-1)
                same = (doll.argmax(-1) == full.argmax(-1)).sum()
                kl = F.kl_div(doll, full, reduction="sum", log_target=True)
                total[size] += torch.stack([same, kl])
        return BySize((size, Agreement(*(both / (len(starts) * T)).tolist())) for size, both in total.items())
    finally:
        model.train(was_training)
