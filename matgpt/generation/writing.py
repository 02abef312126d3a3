"""Text from any doll: sampled, with keys and values cached, drafted by a smaller doll, streamed."""

import codecs

import numpy as np
import torch

from ..config import positive
from .drafts import check_draft, count, verify
from .reader import Reader
from .sampling import Sampling


def prompt_with_room(model, idx, max_new_tokens):
    """The prompt (B, T0), checked, at the beginning of (B, T0 + max_new_tokens) int64."""
    positive("max_new_tokens", max_new_tokens, 0)
    if isinstance(idx, np.ndarray) and idx.dtype.kind in "iu":
        idx = torch.tensor(idx, device=model.embedding.token.device)
    if not isinstance(idx, torch.Tensor):
        raise ValueError(f"idx={idx!r:.60} must be a tensor of token ids, (B, T0)")
    whole = not (idx.is_floating_point() or idx.is_complex() or idx.dtype == torch.bool)
    if idx.dim() != 2 or idx.size(1) == 0 or not whole:
        found = f"idx has shape {tuple(idx.shape)}, {idx.dtype}"
        raise ValueError(f"{found}: a prompt is (B, T0) whole numbers with at least one token")
    idx = idx.long()  # a narrow type has no room for vocab_size
    model.check_ids(idx)
    try:
        out = idx.new_empty(len(idx), idx.size(1) + max_new_tokens)
    except (RuntimeError, TypeError):  # more than there is, or than 64 bits can count
        raise ValueError(f"max_new_tokens={max_new_tokens} is more than memory has room for") from None
    out[:, : idx.size(1)] = idx
    return out


def write(
    model,
    idx,
    max_new_tokens,
    size=None,
    use_cache=True,
    draft_size=None,
    draft_tokens=4,
    draft_model=None,
    stats=None,
    **draw,
):
    """What `generate` and `stream` share, checks first: (out, steps).

    out is (B, T0 + max_new_tokens); iterating over steps fills it and yields the end of what is written.
    """
    sampling, block_size = Sampling(**draw), model.config.block_size
    model.config.resolve(size)
    positive("draft_tokens", draft_tokens)
    drafted = draft_size is not None or draft_model is not None
    if drafted:
        check_draft(model, size, draft_size, draft_model)
    out = prompt_with_room(model, idx, max_new_tokens)

    @torch.no_grad()
    def steps():
        target = Reader(model, size, use_cache)
        draft = Reader(draft_model or model, draft_size, use_cache) if drafted else None
        t, end = out.size(1) - max_new_tokens, out.size(1)
        while t < end:
            g = 0 if draft is None else max(0, min(draft_tokens, block_size - t, end - t - 1))
            if g == 0:
                n = 0
                out[:, t] = sampling.draw(target(out, max(0, t - block_size), t)[:, -1])[0]
            else:
                probs = []
                for i in range(t, t + g):
                    out[:, i], q = sampling.draw(draft(out, 0, i)[:, -1])
                    probs.append(q)
                q = None if probs[0] is None else torch.stack(probs, 1)
                tokens = verify(target(out, 0, t + g, g + 1), out[:, t : t + g], q, sampling)
                n = tokens.size(1) - 1
                out[:, t : t + n + 1] = tokens
                for reader in (target, draft):
                    reader.length = min(reader.length, t + n)
            t += n + 1
            if stats is not None:
                count(stats, n + 1, g, n)
            yield t

    return out, steps()


def generate(
    model,
    idx,
    max_new_tokens,
    size=None,
    temperature=1.0,
    top_k=None,
    top_p=None,
    generator=None,
    use_cache=True,
    draft_size=None,
    draft_tokens=4,
    draft_model=None,
    stats=None,
):
    """Continue token ids (B, T0) by max_new_tokens: returns (B, T0 + max_new_tokens), int64.

    size: which doll writes; None is the full one.
    temperature, top_k, top_p: as usual; temperature=0 is greedy.
    generator: a torch.Generator for repeatable samples; without one they are drawn from the global one.
    use_cache: keep keys and values, so that a token costs one position. Past block_size tokens the window
        slides, every position changes and with it every key: from there on each token costs a whole window,
        with the cache or without. False runs the model from the start each time; the tokens are the same.
    draft_size: a smaller doll that proposes `draft_tokens` tokens at a time, which this one checks in a
        single pass (speculative decoding, 2211.17192). Greedy tokens are those of plain greedy (but for
        rounding, where two tokens tie), sampled ones have its distribution, though another draw of it.
        A draft pays where it costs a small part of this doll and they agree often: a doll that is small
        itself is bound by Python, not by arithmetic, and gains nothing. It pays less in a batch, whose rows
        wait for each other, not past block_size, and never in an output-only model (its dolls share a trunk).
    draft_model: another model that proposes, as what `nest` made of this one; draft_size is a doll of it.
    stats: a dict to which are added "steps" (passes of this doll), "tokens", "proposed" and "accepted"
        proposals, "acceptance" = accepted / proposed and "tokens_per_step".
    Raises ValueError, before any work, for an empty prompt, ids outside the vocabulary, settings out of
    range, or a draft that is not smaller.
    """
    out, steps = write(**locals())
    for _ in steps:
        pass
    return out


def stream(model, tokenizer, prompt, max_new_tokens, **options):
    """Yield the text that continues `prompt`, piece by piece as it is written; options as in `generate`.

    A character of several bytes comes whole, with its last byte. The pieces joined are what `generate` with
    a generator of the same state writes. Raises ValueError as `generate` does, at the call.
    """
    if not hasattr(tokenizer, "encode"):
        raise ValueError(f"tokenizer={tokenizer!r} must be the tokenizer that the model was trained with")
    idx = torch.tensor([tokenizer.encode(prompt)], dtype=torch.long, device=model.embedding.token.device)
    out, steps = write(model, idx, max_new_tokens, **options)

    def pieces():
        text, t = codecs.getincrementaldecoder("utf-8")(errors="replace"), idx.size(1)
        for end in steps:
            piece = text.decode(tokenizer.decode_bytes(out[0, t:end].tolist()), final=end == out.size(1))
            t = end
            if piece:
                yield piece

    return pieces()
