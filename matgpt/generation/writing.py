"""Generate tokens and text with any doll: sampled, with cached keys and values, drafted, streamed."""

import codecs
import itertools

import torch
from torch.nn.functional import pad

from ..nested import check_finite
from ..sizes import positive
from .reader import Reader
from .sampling import Sampling, verify


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
    use_cache: store keys and values, so that a token costs one position. After block_size tokens the window
        slides and all positions change, so each token costs a whole window.
    draft_size: a smaller doll that proposes `draft_tokens` tokens at a time; `size` checks them in one pass
        (speculative decoding, 2211.17192). Greedy tokens are the same as without a draft, up to ties in
        rounding; samples have the same distribution. It pays if the draft is much cheaper and often agrees,
        less in a batch, and not at all after block_size tokens or in an output-only model.
    draft_model: another model that proposes, such as one that `nest` made; draft_size is then a doll of it.
    stats: a dict, to which "steps" (passes of this doll), "tokens", "proposed", "accepted", "acceptance" =
        accepted / proposed and "tokens_per_step" are added at each step.
    Raises ValueError, before any work, for an empty prompt, ids outside the vocabulary, a setting out of
    range, or a draft that is not smaller; and in any step whose logits are not finite.
    """
    sampling = dict(temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
    draft = dict(draft_size=draft_size, draft_tokens=draft_tokens, draft_model=draft_model)
    out, *_ = write_steps(model, idx, max_new_tokens, size, use_cache, stats, **draft, **sampling)
    return out


def check_vocabulary(config, tokenizer, where=""):
    """Raise ValueError, which `where` begins, unless the tokenizer, if any, has the model's vocabulary."""
    tokens, expected = getattr(tokenizer, "vocab_size", None), config.vocab_size
    if tokenizer is not None and tokens != expected:
        raise ValueError(f"{where}the tokenizer has {tokens} tokens, the model vocab_size={expected}")


def stream(model, tokenizer, prompt, max_new_tokens, size=None, seed=None, **options):
    """Yield the text that the doll `size` writes after `prompt`, piece by piece, as it is written.

    seed: repeats the text; None: another one at each call. `options` are those of `generate`.
    Characters of several bytes are never cut. Raises ValueError at the call, as `generate` does, and for a
    tokenizer of another vocabulary.
    """
    if not hasattr(model, "config") or not hasattr(tokenizer, "decode_bytes"):
        raise ValueError(f"model={model!r:.60} and tokenizer={tokenizer!r:.60} must be what `load` returns")
    check_vocabulary(model.config, tokenizer)
    if seed is not None:
        if options.get("generator") is not None:
            raise ValueError(f"seed={seed!r} and a generator: give one of them")
        seed, device = positive("seed", seed, 0), model.embedding.token.device
        options["generator"] = torch.Generator(device).manual_seed(seed)
    steps = write_steps(model, [tokenizer.encode(prompt)], max_new_tokens, size, **options)
    out = next(steps)
    ends = itertools.chain([out.size(1) - max_new_tokens], steps)
    written = (tokenizer.decode_bytes(out[0, start:end]) for start, end in itertools.pairwise(ends))
    return codecs.iterdecode(written, "utf-8", errors="replace")  # bytes wait for their whole character


def write(model, tokenizer, prompt, max_new_tokens, size=None, seed=None, **options):
    """Return `prompt` and the max_new_tokens tokens that the doll `size` writes after it, as one text.

    seed, options and errors are those of `stream`.
    """
    return prompt + "".join(stream(model, tokenizer, prompt, max_new_tokens, size, seed, **options))


def prompt_ids(model, idx):
    """Return a prompt (B, T0) as int64. Raises ValueError for anything but token ids, at least one a row."""
    try:
        ids = torch.as_tensor(idx).to(model.embedding.token.device)
    except (TypeError, ValueError, RuntimeError):
        ids = torch.empty(0)
    whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if ids.dim() != 2 or ids.numel() == 0 or not whole:
        raise ValueError(f"idx={idx!r:.60} must be a prompt, (B, T0) integers with at least one token")
    model.check_ids(ids.long())
    return ids.long()


@torch.inference_mode(False)  # tensors made in inference mode cannot be changed outside it
@torch.no_grad()
def write_steps(
    model, idx, max_new_tokens, size=None, use_cache=True, stats=None,
    draft_size=None, draft_tokens=4, draft_model=None, **sampling,
):  # fmt: skip
    """Check the arguments of `generate`, yield what it returns, then fill it; yield how far at each step."""
    sampling, own = Sampling(**sampling), model.config.resolve(size)
    max_new_tokens = positive("max_new_tokens", max_new_tokens, 0)
    positive("draft_tokens", draft_tokens)
    if not isinstance(stats, dict | None):
        raise ValueError(f"stats={stats!r:.60} must be a dict")
    drafter = model if draft_model is None else draft_model
    if not hasattr(drafter, "config"):
        raise ValueError(f"draft_model={draft_model!r:.60} must be a model")
    smaller = drafter.config.resolve(draft_size)
    if draft_model is None and draft_size is not None and (smaller == own or not own.covers(smaller)):
        raise ValueError(f"draft_size={smaller!r} is not smaller than the doll it drafts for, {own!r}")
    for name in ("vocab_size", "block_size"):
        if getattr(drafter.config, name) != getattr(model.config, name):
            raise ValueError(f"draft_model must have the {name} of the model, {getattr(model.config, name)}")
    for each in {model, drafter}:
        check_finite(dict(each.named_parameters()))
    idx = prompt_ids(model, idx)
    try:
        out = pad(idx, (0, max_new_tokens))
    except (RuntimeError, TypeError):  # too large for memory, or for 64 bits
        raise ValueError(f"max_new_tokens={max_new_tokens} does not fit into memory") from None
    yield out
    drafting = draft_size is not None or draft_model is not None
    target = Reader(model, own, use_cache)
    draft = Reader(drafter, smaller, use_cache) if drafting else target
    t, end, block_size = out.size(1) - max_new_tokens, out.size(1), model.config.block_size
    while t < end:
        g = max(0, min(draft_tokens if drafting else 0, block_size - t, end - t - 1))  # proposals
        q = []  # the draft's distributions, from which the proposals are drawn
        for i in range(t, t + g):
            q.append(sampling.probabilities(draft(out, i)[:, -1]))
            out[:, i] = sampling.draw(q[-1])[:, 0]
        p = sampling.probabilities(target(out, t + g, g + 1))
        tokens = verify(p, torch.stack(q, 1), out[:, t : t + g], sampling) if g else sampling.draw(p[:, 0])
        n = tokens.size(1)
        out[:, t : t + n] = tokens
        t += n
        if stats is not None:
            for name, number in dict(steps=1, tokens=n, proposed=g, accepted=n - 1).items():
                stats[name] = stats.get(name, 0) + number
            stats["acceptance"] = stats["accepted"] / max(1, stats["proposed"])
            stats["tokens_per_step"] = stats["tokens"] / stats["steps"]
        yield t
