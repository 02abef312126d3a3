"""Token ids as the models read them: checked, cut into blocks, and counted in bytes of text."""

import math

import numpy as np
import torch

from .tokenizer import BPETokenizer


def as_ids(ids, block_size, vocab_size=None, name="ids"):
    """Return token ids (a list, tensor, array or memory map) as an array (N,), N > block_size, uncopied.

    Raises ValueError for anything else, and for an id outside the vocabulary, if `vocab_size` is given.
    """
    if isinstance(ids, str):
        raise ValueError(f"{name}={ids!r:.40} must be token ids: encode the text first")
    try:
        ids = np.asarray(ids.cpu() if isinstance(ids, torch.Tensor) else ids)
    except (TypeError, ValueError):  # rows of several lengths, or a type that numpy does not have
        raise ValueError(f"{name}={ids!r:.60} must be token ids") from None
    if ids.ndim != 1 or len(ids) <= block_size or ids.dtype.kind not in "iu":
        least = f"more than {block_size=}" if block_size else "at least 1"
        shape = f"{name} has shape {ids.shape} and dtype {ids.dtype}" if ids.size else f"{name} is empty"
        raise ValueError(f"{shape}: it must be one row of {least} whole numbers")
    if vocab_size is not None and not 0 <= ids.min() <= ids.max() < vocab_size:
        token = ids.min() if ids.min() < 0 else ids.max()
        allowed = f"allowed are 0 to {vocab_size - 1}"
        raise ValueError(f"{name} holds token id {token}, outside the vocabulary: {allowed}")
    return ids


def batch(ids, starts, block_size, device, vocab_size=None):
    """Return inputs and targets, each (*, T), of the blocks that begin at `starts` (*).

    Raises ValueError for an id outside the vocabulary, if `vocab_size` is given.
    """
    block = ids[starts[..., None] + np.arange(block_size + 1)]
    if vocab_size is not None:
        as_ids(block.reshape(-1), 0, vocab_size)
    block = torch.from_numpy(block.astype(np.int64))
    pinned = device.type == "cuda"
    block = (block.pin_memory() if pinned else block).to(device, non_blocking=pinned)
    return block[..., :-1], block[..., 1:]


def loss_unit(tokenizer, ids):
    """Return the unit of a loss on ids (N,) in words.

    For byte pairs it says the factor to bits per byte of the text, which compares different tokenizers.
    """
    if not isinstance(tokenizer, BPETokenizer):
        return "nats per token"
    sizes = np.array([len(tokenizer.decode_bytes([i])) for i in range(tokenizer.vocab_size)])
    ids = as_ids(ids, 0, tokenizer.vocab_size)
    n_bytes = sum(sizes[ids[i : i + 2**20]].sum() for i in range(0, len(ids), 2**20))  # a long memory map
    return f"nats per token (times {len(ids) / n_bytes / math.log(2):.4f}: bits per byte)"
