"""Token ids as the models read them: checked, cut into blocks, and counted in bytes of text."""

import math

import numpy as np
import torch

from .tokenizer import BPETokenizer


def as_ids(ids, block_size, vocab_size=None, name="ids"):
    """Return token ids (a list, tensor, array or memory map) as an array (N,), N > block_size, uncopied.

    vocab_size: every id must be below it; a memory map is read for that, not loaded. None: not checked.
    Raises ValueError for another shape or type, for fewer ids, and for one outside the vocabulary.
    """
    if isinstance(ids, str):
        raise ValueError(f"{name}={ids!r:.40} must be token ids: encode the text first")
    try:
        ids = np.asarray(ids.cpu() if isinstance(ids, torch.Tensor) else ids)
    except (TypeError, ValueError):  # rows of several lengths, or a type that numpy does not have
        raise ValueError(f"{name}={ids!r:.60} must be token ids") from None
    if ids.ndim != 1 or len(ids) <= block_size or ids.dtype.kind not in "iu":
        least = f"more than {block_size=}" if block_size else "at least 1"
        shape = f"{name} has shape {ids.shape} and dtype {ids.dtype}"
        raise ValueError(f"{shape}: it must be one row of {least} whole numbers")
    if vocab_size is not None:
        check_range(ids, vocab_size, name)
    return ids


def check_range(ids, vocab_size, name="ids"):
    """Raise ValueError, naming the worst id, if one is outside the vocabulary."""
    lowest, highest = ids.min(), ids.max()
    if lowest < 0 or highest >= vocab_size:
        wrong = f"token id {lowest if lowest < 0 else highest}, outside the vocabulary"
        raise ValueError(f"{name} holds {wrong}: allowed are 0 to {vocab_size - 1}")


def batch(ids, starts, block_size, device, vocab_size=None):
    """Return inputs and targets, each (*, T), of the blocks that begin at `starts` (*).

    vocab_size: for unchecked ids: raises ValueError if one in these blocks is outside the vocabulary.
    """
    block = ids[starts[..., None] + np.arange(block_size + 1)]
    if vocab_size is not None:
        check_range(block, vocab_size)
    block = torch.from_numpy(block.astype(np.int64))
    pinned = device.type == "cuda"
    block = (block.pin_memory() if pinned else block).to(device, non_blocking=pinned)
    return block[..., :-1], block[..., 1:]


def bits_per_byte(nats_per_token, tokenizer, ids):
    """Convert a loss on ids (N,) to bits per byte of their text, which compares different tokenizers."""
    sizes = np.array([len(tokenizer.decode_bytes([i])) for i in range(tokenizer.vocab_size)])
    ids = as_ids(ids, 0, tokenizer.vocab_size)
    n_bytes = sum(int(sizes[ids[i : i + 2**20]].sum()) for i in range(0, len(ids), 2**20))  # maps are long
    return nats_per_token / math.log(2) * len(ids) / n_bytes


def loss_unit(tokenizer, ids):
    """Return the unit of a loss on ids (N,) in words; for byte pairs, with the factor to bits per byte."""
    if not isinstance(tokenizer, BPETokenizer):
        return "nats per token"
    return f"nats per token (times {bits_per_byte(1, tokenizer, ids):.4f}: bits per byte)"
