"""Checks of what `generate`, `stream` and others are given: each raises a ValueError that names the value."""

import torch

from ..sizes import positive


def check_vocabulary(config, tokenizer, folder=None):
    """Raise ValueError unless the tokenizer, if there is one, has as many tokens as the model.

    folder: where the two come from, for the message.
    """
    tokens, expected = getattr(tokenizer, "vocab_size", None), config.vocab_size
    if tokenizer is not None and tokens != expected:
        where = "" if folder is None else f"{folder}: "
        raise ValueError(f"{where}the tokenizer has {tokens} tokens, the model vocab_size={expected}")


def check_draft(model, size, draft_size, draft_model):
    """Raise ValueError unless the draft is a smaller doll, or of a model with the same ids and window."""
    if draft_model is None:
        size, draft = model.config.resolve(size), model.config.resolve(draft_size)
        if not size.covers(draft) or draft == size:
            raise ValueError(f"draft_size={draft!r} is not smaller than the doll it drafts for, {size!r}")
        return
    if not hasattr(draft_model, "config"):
        raise ValueError(f"draft_model={draft_model!r:.60} must be a model, as `load` returns it")
    draft_model.config.resolve(draft_size)
    for name in ("vocab_size", "block_size"):
        draft, own = getattr(draft_model.config, name), getattr(model.config, name)
        if draft != own:
            raise ValueError(f"draft_model has {name}={draft}: it must be that of the model, {own}")


def checked_prompt(model, idx, max_new_tokens):
    """Return the prompt (B, T0) at the beginning of a new (B, T0 + max_new_tokens) int64 tensor."""
    positive("max_new_tokens", max_new_tokens, 0)
    try:
        idx = torch.as_tensor(idx).to(model.embedding.token.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"idx={idx!r:.60} must be token ids, (B, T0)") from None
    whole = not (idx.is_floating_point() or idx.is_complex() or idx.dtype == torch.bool)
    if idx.dim() != 2 or idx.numel() == 0 or not whole:
        shape = f"idx has shape {tuple(idx.shape)} and dtype {idx.dtype}"
        raise ValueError(f"{shape}: a prompt is (B, T0) integers with at least one token")
    idx = idx.long()  # a narrow type may not hold vocab_size
    model.check_ids(idx)
    try:
        out = idx.new_empty(len(idx), idx.size(1) + max_new_tokens)
    except (RuntimeError, TypeError):  # too large for memory, or for 64 bits
        raise ValueError(f"max_new_tokens={max_new_tokens} does not fit into memory") from None
    out[:, : idx.size(1)] = idx
    return out
