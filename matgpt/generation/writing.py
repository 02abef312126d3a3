"""Generate tokens and text with any doll: sampled, with cached keys and values, drafted, streamed."""

import codecs

import torch

from ..sizes import positive
from .reader import Reader
from .sampling import Sampling, propose, verify


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
        slides and all positions change, so each token costs a whole window, with or without the cache.
    draft_size: a smaller doll that proposes `draft_tokens` tokens at a time; `size` checks them in one pass
        (speculative decoding, 2211.17192). Greedy tokens are the same as without a draft, up to ties in
        rounding; samples have the same distribution. A draft pays if it is much cheaper and often agrees. It
        pays less in a batch, whose rows wait for each other, and not at all after block_size tokens or in an
        output-only model.
    draft_model: another model that proposes, such as one that `nest` made; draft_size is then a doll of it.
    stats: a dict, to which "steps" (passes of this doll), "tokens", "proposed", "accepted", "acceptance" =
        accepted / proposed and "tokens_per_step" are added.
    Raises ValueError, before any work, for an empty prompt, ids outside the vocabulary, a setting out of
    range, or a draft that is not smaller; and in any step whose logits are not finite.
    """
    sampling = dict(temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
    draft = draft_size, draft_tokens, draft_model
    steps = write_steps(model, idx, max_new_tokens, size, use_cache, *draft, stats, **sampling)
    out = next(steps)
    for _ in steps:
        pass
    return out


def check_model(name, model):
    """Raise ValueError unless `model` is one."""
    if not hasattr(model, "config"):
        raise ValueError(f"{name}={model!r:.60} must be a model, as `load` returns it")


def check_vocabulary(config, tokenizer, folder=None):
    """Raise ValueError unless the tokenizer, if there is one, has as many tokens as the model.

    folder: where the two come from, for the message.
    """
    tokens, expected = getattr(tokenizer, "vocab_size", None), config.vocab_size
    if tokenizer is not None and tokens != expected:
        where = "" if folder is None else f"{folder}: "
        raise ValueError(f"{where}the tokenizer has {tokens} tokens, the model vocab_size={expected}")


def stream(model, tokenizer, prompt, max_new_tokens, **options):
    """Yield the text after `prompt` piece by piece, as it is written; `options` are those of `generate`.

    Characters of several bytes are never cut. The joined pieces are the text of what `generate` returns.
    Raises ValueError, at the call, as `generate` does, and for a tokenizer of another vocabulary.
    """
    check_model("model", model)
    if not hasattr(tokenizer, "encode"):
        raise ValueError(f"tokenizer={tokenizer!r} must be the tokenizer that the model was trained with")
    check_vocabulary(model.config, tokenizer)
    idx = torch.tensor([tokenizer.encode(prompt)], dtype=torch.long, device=model.embedding.token.device)
    steps = write_steps(model, idx, max_new_tokens, **options)
    return pieces(tokenizer, next(steps), idx.size(1), steps)


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


def prepare(model, idx, max_new_tokens):
    """Return the prompt (B, T0) at the beginning of a new (B, T0 + max_new_tokens) int64 tensor."""
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


@torch.inference_mode(False)  # tensors made in inference mode cannot be changed outside it
@torch.no_grad()
def write_steps(
    model, idx, max_new_tokens, size=None,
    use_cache=True, draft_size=None, draft_tokens=4, draft_model=None, stats=None, **sampling,
):  # fmt: skip
    """Check the arguments of `generate` and yield the tensor that it returns; then fill it, step by step.

    Yields, after each step, the end of what is written.
    """
    sampling, own = Sampling(**sampling), model.config.resolve(size)
    positive("draft_tokens", draft_tokens)
    if not isinstance(stats, dict | None):
        raise ValueError(f"stats={stats!r:.60} must be a dict")
    drafter = model if draft_model is None else draft_model
    check_model("draft_model", drafter)
    smaller = drafter.config.resolve(draft_size)
    if draft_model is None and draft_size is not None and (smaller == own or not own.covers(smaller)):
        raise ValueError(f"draft_size={smaller!r} is not smaller than the doll it drafts for, {own!r}")
    for name in ("vocab_size", "block_size"):
        theirs, ours = getattr(drafter.config, name), getattr(model.config, name)
        if theirs != ours:
            raise ValueError(f"draft_model has {name}={theirs}: it must be that of the model, {ours}")
    out = prepare(model, idx, positive("max_new_tokens", max_new_tokens, 0))
    target = draft = Reader(model, own, use_cache)
    if (draft_size, draft_model) == (None, None):
        draft_tokens = 0
    else:
        draft = Reader(drafter, smaller, use_cache)
    yield out
    t, end, block_size = out.size(1) - max_new_tokens, out.size(1), model.config.block_size
    while t < end:
        g = max(0, min(draft_tokens, block_size - t, end - t - 1))  # proposals
        if g == 0:
            tokens = sampling.draw(sampling.probabilities(target(out, max(0, t - block_size), t)[:, -1]))
        else:
            q = propose(draft, out, t, g, sampling)
            p = sampling.probabilities(target(out, 0, t + g, g + 1))
            tokens = verify(p, q, out[:, t : t + g], sampling)
        n = tokens.size(1)
        out[:, t : t + n] = tokens
        t += n
        if g:  # forget what was read of rejected proposals
            for reader in (target, draft):
                reader.length = min(reader.length, t - 1)
        if stats is not None:
            for name, number in dict(steps=1, tokens=n, proposed=g, accepted=n - 1).items():
                stats[name] = stats.get(name, 0) + number
            stats["acceptance"] = stats["accepted"] / max(1, stats["proposed"])
            stats["tokens_per_step"] = stats["tokens"] / stats["steps"]
        yield t


def pieces(tokenizer, out, start, steps):
    """Yield the text of out (1, T) from `start` on, step by step; bytes wait for their whole character."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for end in steps:
        piece = decoder.decode(tokenizer.decode_bytes(out[0, start:end].tolist()), final=end == out.size(1))
        start = end
        if piece:
            yield piece
