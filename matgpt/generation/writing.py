"""Generate tokens and text with any doll: sampled, with cached keys and values, drafted, streamed."""

import codecs

import torch

from ..sizes import positive
from .checks import check_draft, check_vocabulary, checked_prompt
from .drafts import count, verify
from .reader import Reader
from .sampling import Sampling


def generate(
    model, idx, max_new_tokens, size=None, temperature=1.0, top_k=None, top_p=None, generator=None,
    use_cache=True, draft_size=None, draft_tokens=4, draft_model=None, stats=None,
):  # fmt: skip
    """Continue token ids (B, T0) by max_new_tokens: returns (B, T0 + max_new_tokens), int64.

    size: the doll that writes; None: the full one.
    temperature: divides the logits; 0 always takes the most probable token (greedy).
    top_k, top_p: draw from the top_k most probable tokens, or from the fewest whose probabilities reach top_p
        (nucleus sampling, 1904.09751).
    generator: a torch.Generator for repeatable samples; None: PyTorch's global one.
    use_cache: keep keys and values, so that each token costs one position. After block_size tokens the window
        slides and all positions change, so each token costs a whole window, with or without the cache. False
        runs the model on the whole window each time; the tokens are the same.
    draft_size: a smaller doll that proposes `draft_tokens` tokens at a time; `size` checks them in one pass
        (speculative decoding, 2211.17192). Greedy tokens are the same as without a draft, up to ties in
        rounding; samples have the same distribution. A draft helps where it costs a small part of this doll
        and they often agree. It helps less with a tiny doll, whose time is Python's, or in a batch, whose
        rows wait for each other, and not at all after block_size tokens or in an output-only model.
    draft_model: another model that proposes, such as one that `nest` made; draft_size is then a doll of it.
    stats: a dict, to which "steps" (passes of this doll), "tokens", "proposed", "accepted", "acceptance" =
        accepted / proposed and "tokens_per_step" are added.
    Raises ValueError, before any work, for an empty prompt, ids outside the vocabulary, a setting out of
    range, or a draft that is not smaller; and in any step whose logits are not finite.
    """
    drawing = temperature, top_k, top_p, generator
    drafting = draft_size, draft_tokens, draft_model
    out, steps = begin(model, idx, max_new_tokens, size, *drawing, use_cache, *drafting, stats)
    for _ in steps:
        pass
    return out


def stream(model, tokenizer, prompt, max_new_tokens, **options):
    """Yield the text after `prompt` piece by piece, as it is written; `options` are those of `generate`.

    Characters of several bytes are never cut. The joined pieces are the text of what `generate` returns.
    Raises ValueError, at the call, as `generate` does, and for a tokenizer of another vocabulary.
    """
    if not hasattr(model, "config"):
        raise ValueError(f"model={model!r:.60} must be a model, as `load` returns it")
    if not hasattr(tokenizer, "encode"):
        raise ValueError(f"tokenizer={tokenizer!r} must be the tokenizer that the model was trained with")
    check_vocabulary(model.config, tokenizer)
    idx = torch.tensor([tokenizer.encode(prompt)], dtype=torch.long, device=model.embedding.token.device)
    out, steps = begin(model, idx, max_new_tokens, **options)
    return pieces(tokenizer, out, idx.size(1), steps)


def write(model, tokenizer, prompt, max_new_tokens, size=None, seed=None, **options):
    """Return `prompt` and the max_new_tokens tokens that the doll `size` writes after it, as one text.

    seed: repeats the text; None: another one at each call. All other options are those of `generate`.
    Raises ValueError as `stream` does.
    """
    if seed is not None:
        if "generator" in options:
            raise ValueError(f"seed={seed!r} and a generator: give one of them")
        generator = torch.Generator(model.embedding.token.device)
        options["generator"] = generator.manual_seed(positive("seed", seed, 0))
    return prompt + "".join(stream(model, tokenizer, prompt, max_new_tokens, size=size, **options))


@torch.inference_mode(False)  # tensors made in inference mode cannot be changed outside it
def begin(
    model, idx, max_new_tokens, size=None, temperature=1.0, top_k=None, top_p=None, generator=None,
    use_cache=True, draft_size=None, draft_tokens=4, draft_model=None, stats=None,
):  # fmt: skip
    """Check the arguments of `generate`; return (out, steps): the iterator `steps` fills `out`."""
    sampling = Sampling(temperature, top_k, top_p, generator)
    model.config.resolve(size)
    positive("draft_tokens", draft_tokens)
    if not isinstance(stats, dict | None):
        raise ValueError(f"stats={stats!r:.60} must be a dict")
    drafted = draft_size is not None or draft_model is not None
    if drafted:
        check_draft(model, size, draft_size, draft_model)
    out = checked_prompt(model, idx, max_new_tokens)
    target, draft = Reader(model, size, use_cache), None
    if drafted:
        draft = Reader(model if draft_model is None else draft_model, draft_size, use_cache)
    return out, write_steps(out, out.size(1) - max_new_tokens, target, draft, draft_tokens, sampling, stats)


@torch.inference_mode(False)
@torch.no_grad()
def write_steps(out, t, target, draft, draft_tokens, sampling, stats):
    """Fill out (B, end) from position t on; yield, after each step, the end of what is written."""
    end, block_size = out.size(1), target.model.config.block_size
    while t < end:
        g = 0 if draft is None else max(0, min(draft_tokens, block_size - t, end - t - 1))  # proposals
        if g == 0:
            tokens = sampling.draw(target(out, max(0, t - block_size), t)[:, -1])[0][:, None]
        else:
            probs = []
            for i in range(t, t + g):
                out[:, i], q = sampling.draw(draft(out, 0, i)[:, -1])
                probs.append(q)
            q = None if probs[0] is None else torch.stack(probs, 1)
            tokens = verify(target(out, 0, t + g, g + 1), out[:, t : t + g], q, sampling)
        n = tokens.size(1)
        out[:, t : t + n] = tokens
        t += n
        if g:  # forget what was read of rejected proposals
            for reader in (target, draft):
                reader.length = min(reader.length, t - 1)
        if stats is not None:
            count(stats, n, g, n - 1)
        yield t


def pieces(tokenizer, out, start, steps):
    """Yield the text of out (1, T) from `start` on, step by step; bytes wait for their whole character."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for end in steps:
        piece = decoder.decode(tokenizer.decode_bytes(out[0, start:end].tolist()), final=end == out.size(1))
        start = end
        if piece:
            yield piece
