"""Text embeddings from the final residual of a model, whole or cut to fewer dimensions."""

from collections.abc import Iterable
from numbers import Number

import numpy as np
import torch
import torch.nn.functional as F

from ..config import positive


def as_texts(ids_or_texts, tokenizer=None):
    """What `embed` takes, or refuses, as a list of 1-D tensors of ids, one for each text."""
    if not isinstance(ids_or_texts, Iterable):
        raise ValueError(f"ids_or_texts={ids_or_texts!r} must be a text or several, or token ids")
    strings = str, bytes, bytearray
    texts = [ids_or_texts] if isinstance(ids_or_texts, strings) else list(ids_or_texts)
    if not texts:
        raise ValueError("ids_or_texts is empty: give at least one text")
    if all(isinstance(text, (Number, torch.Tensor)) and not np.ndim(text) for text in texts):
        texts = [texts]  # one text as a plain list of ids
    rows = []
    for i, text in enumerate(texts):
        if isinstance(text, (bytes, bytearray)):
            raise ValueError(f"text {i} is bytes, whose numbers are no token ids: decode it to a string")
        if isinstance(text, str):
            if tokenizer is None:
                raise ValueError(
                    f"text {i} is a string: give the tokenizer the model was trained with, or token ids"
                )
            text = tokenizer.encode(text)
        try:
            row = torch.as_tensor(text)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"text {i}, {text!r:.40}, is neither a string nor token ids") from None
        if row.dim() != 1 or len(row) == 0:
            raise ValueError(f"text {i} has shape {tuple(row.shape)}: a text is a row of at least one token")
        if row.is_floating_point():
            raise ValueError(f"text {i} has dtype {row.dtype}: token ids are whole numbers")
        rows.append(row.long())
    return rows


def pooled(model, rows, size=None):
    """The final residual of each of B rows of ids, summed over its tokens: (B, d).

    Rows are padded on the right: the model is causal, so no token before the padding sees it.
    """
    device = model.embedding.token.device
    idx = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)  # (B, T)
    length = torch.tensor([len(row) for row in rows], device=device)
    real = torch.arange(idx.size(1), device=device) < length[:, None]  # (B, T)
    return (model.features(idx, size).float() * real[..., None]).sum(1)


@torch.no_grad()
def embed(model, ids_or_texts, size=None, tokenizer=None, batch_size=64):
    """Embeddings (B, d) of B texts, each of length one: the mean of the final residual over all tokens.

    ids_or_texts: a string or several (which need the `tokenizer`), token ids (B, T), or rows of ids that may
        differ in length; padding changes nothing.
    size: None for all dimensions, a doll's width, or any Size, trained or not (`model.config.width(24)`).
    batch_size: windows that run at once.

    A text longer than block_size is read in windows of block_size tokens that do not see each other; the mean
    runs over the tokens of all of them. Several sizes of an output-only model need its trunk only once:
    `cut(embed(model, texts), d)` equals `embed(model, texts, size=d)`.
    Raises ValueError for no text, an empty text, a string without a tokenizer, ids outside the vocabulary or
    a size that does not fit.
    """
    T, device = model.config.block_size, model.embedding.token.device
    d, batch_size = model.config.resolve(size).n_embd, positive("batch_size", batch_size)
    texts = as_texts(ids_or_texts, tokenizer)
    model.check_ids(torch.cat(texts))
    windows, owner = zip(*((window, i) for i, text in enumerate(texts) for window in text.split(T)))
    owner = torch.tensor(owner, device=device)
    total = torch.zeros(len(texts), d, dtype=torch.float32, device=device)
    with model.mode(training=False):
        for start in range(0, len(windows), batch_size):
            part = slice(start, start + batch_size)
            total.index_add_(0, owner[part], pooled(model, windows[part], size))
    return F.normalize(total, dim=-1)  # the length goes, so the sum serves as the mean


def cut(embeddings, d):
    """The first d dimensions of embeddings (B, D), at length one: (B, d). ValueError for d outside 1..D."""
    if positive("d", d) > embeddings.size(-1):
        raise ValueError(f"d={d} must be at most {embeddings.size(-1)}, the dimensions there are")
    return F.normalize(embeddings[..., :d], dim=-1)
