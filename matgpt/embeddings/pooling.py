"""Text embeddings from the final residual of a model, at full width or cut to fewer dimensions."""

from numbers import Number

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from ..generation.writing import check_vocabulary
from ..nested import check_finite
from ..sizes import positive
from ..text.batches import as_ids

TEXT = str, bytes, bytearray  # the tokenizer says that it takes no bytes


def token_rows(model, texts, tokenizer=None):
    """Return the token ids of each text that `embed` is given, as a list of 1-D int64 tensors."""
    check_vocabulary(model.config, tokenizer)
    several = texts.tolist() if hasattr(texts, "tolist") else texts
    try:
        several = [several] if isinstance(several, TEXT) else list(several)
    except TypeError:  # nothing to iterate over
        several = []
    if not several:
        raise ValueError(f"ids_or_texts={texts!r:.60} must be a text, several texts, or token ids")
    if all(isinstance(text, Number) for text in several):
        several = [several]  # the ids of one text
    rows = []
    for i, text in enumerate(several):
        if isinstance(text, TEXT):
            if tokenizer is None:
                raise ValueError(f"text {i} is a string: give token ids, or the tokenizer of the model")
            text = tokenizer.encode(text)
        ids = as_ids(text, 0, model.config.vocab_size, f"text {i}")
        rows.append(torch.from_numpy(ids.astype(np.int64)))
    return rows


def pooled(model, rows, size=None):
    """Return the final residual of each of B rows of ids, summed over the tokens of the row: (B, d)."""
    idx = pad_sequence(rows, batch_first=True, padding_value=-1).to(model.embedding.token.device)  # (B, T)
    is_token = idx >= 0  # the model is causal, so none of these sees the padding after them
    return (model.features(idx.clamp(min=0), size).float() * is_token[..., None]).sum(1)


@torch.no_grad()
def embed(model, ids_or_texts, size=None, tokenizer=None, batch_size=64):
    """Return embeddings (B, d) of B texts: the mean of the final residual over all tokens, of norm 1.

    ids_or_texts: a string or several strings (which need the `tokenizer`), token ids (B, T), or rows of ids
        of any lengths. A text longer than block_size is read in windows that do not see each other.
    size: None for all dimensions, a doll's width, or any Size, trained or not (`model.config.width(24)`). Of
        an output-only model, `cut(embed(model, texts), d)` is the same as `embed(model, texts, d)`.
    batch_size: windows that run at once.
    Raises ValueError for no text or an empty one, a string without a tokenizer, a tokenizer of another
    vocabulary, ids outside the vocabulary, a size that does not fit, or weights that are NaN or infinite.
    """
    d, batch_size = model.config.resolve(size).n_embd, positive("batch_size", batch_size)
    check_finite(dict(model.named_parameters()))
    texts, device = token_rows(model, ids_or_texts, tokenizer), model.embedding.token.device
    windows = [(i, window) for i, text in enumerate(texts) for window in text.split(model.config.block_size)]
    total = torch.zeros(len(texts), d, dtype=torch.float32, device=device)
    with model.mode(training=False):
        for start in range(0, len(windows), batch_size):
            positions, rows = zip(*windows[start : start + batch_size])
            total.index_add_(0, torch.tensor(positions, device=device), pooled(model, rows, size))
    if not total.isfinite().all():
        raise ValueError("the embeddings are NaN or infinite, so the weights of the model are damaged")
    return F.normalize(total, dim=-1)  # the sum and the mean point in the same direction


def cut(embeddings, dims):
    """Return the first dimensions of embeddings (B, D), of norm 1. Raises ValueError unless dims <= D."""
    if positive("dims", dims) > embeddings.size(-1):
        raise ValueError(f"dims={dims} must be at most {embeddings.size(-1)}, those of the embeddings")
    return F.normalize(embeddings[..., :dims], dim=-1)
