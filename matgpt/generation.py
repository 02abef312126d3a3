"""Text from any doll: sampled, with keys and values cached, drafted by a smaller doll, streamed."""
import codecs
import numbers

import torch

from .config import inner_sizes, positive
from .reader import Reader


def check_sampling(temperature, top_k, top_p):
    """ValueError, naming the value, for sampling settings out of range."""
    if not isinstance(temperature, numbers.Real) or not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature!r} must be at least 0 (0 is greedy)")
    if top_k is not None:
        positive("top_k", top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p!r} must lie in (0, 1]")


def probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """Logits (..., V) -> the distribution (..., V) that is sampled from; temperature 0 puts all on the best."""
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # a tiny temperature must not overflow
    if top_k is not None and top_k < logits.size(-1):
        kth = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    probs = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        # nucleus (1904.09751): the fewest tokens that hold top_p, so one counts if those before it do not
        values, order = probs.sort(-1, descending=True)
        values[values.cumsum(-1) - values >= top_p] = 0
        probs = torch.zeros_like(probs).scatter_(-1, order, values)
        probs = probs / probs.sum(-1, keepdim=True)
    return probs


def count(stats, tokens, proposed, accepted):
    """Add one step of the doll that writes to the totals in `stats`."""
    for name, n in dict(steps=1, tokens=tokens, proposed=proposed, accepted=accepted).items():
        stats[name] = stats.get(name, 0) + n
    stats["acceptance"] = stats["accepted"] / max(1, stats["proposed"])
    stats["tokens_per_step"] = stats["tokens"] / stats["steps"]


def check_draft(config, size, draft_size):
    """ValueError, naming both, unless the draft is smaller than the doll it drafts for and no axis is larger."""
    size, draft = config.resolve(size), config.resolve(draft_size)
    inner = zip(inner_sizes(draft.n_inner, draft.n_layer), inner_sizes(size.n_inner, size.n_layer))
    larger = (draft.n_embd > size.n_embd or draft.n_head > size.n_head or draft.n_layer > size.n_layer
              or any(f > F for f, F in inner))
    if larger or draft == size:
        raise ValueError(f"draft_size={draft!r} is not smaller than the doll it drafts for, {size!r}")


def verify(logits, proposed, proposed_probs, sampling, generator=None):
    """The tokens (B, n + 1) that one speculative step writes: n proposals kept, then one of the target's own.

    logits: (B, g + 1, V), the target's at the g proposals and behind the last one.
    proposed: (B, g) tokens, drawn from `proposed_probs` (B, g, V); the latter is not read if greedy.
    Algorithm 1 of 2211.17192: a proposal x is kept with probability min(1, p(x) / q(x)), else replaced by a
    draw from max(0, p - q). Rows of a batch stay in step: the first position at which any row replaces its
    token ends the step for all. Where a step ends depends on tokens up to there only, and everything behind
    is drawn anew, so each row keeps exactly the distribution p.
    """
    temperature, *_ = sampling
    if temperature == 0:
        tokens = logits.argmax(-1)
        kept = tokens[:, :-1] == proposed
        return tokens[:, :int(kept.all(0).cumprod(0).sum()) + 1]
    p, q = probabilities(logits, *sampling), proposed_probs
    p_x, q_x = (probs[:, :proposed.size(1)].gather(-1, proposed[..., None])[..., 0] for probs in (p, q))
    u = torch.rand(p_x.shape, device=p.device, generator=generator)
    kept = u * q_x < p_x  # (B, g)
    n = int(kept.all(0).cumprod(0).sum())
    weights = p[:, n]
    if n < proposed.size(1):
        rest = (weights - q[:, n]).clamp(min=0)
        weights = torch.where(rest.sum(-1, keepdim=True) > 0, rest, weights)  # p = q: nothing to replace
    last = torch.multinomial(weights, 1, generator=generator)
    if n < proposed.size(1):
        last = torch.where(kept[:, n:n + 1], proposed[:, n:n + 1], last)
    return torch.cat([proposed[:, :n], last], 1)


def write(model, idx, max_new_tokens, size=None, temperature=1.0, top_k=None, top_p=None, generator=None,
          use_cache=True, draft_size=None, draft_tokens=4, stats=None):
    """What `generate` and `stream` share, checks first: (out, steps).

    out is (B, T0 + max_new_tokens); iterating over steps fills it and yields the end of what is written.
    """
    check_sampling(temperature, top_k, top_p)
    if not isinstance(max_new_tokens, numbers.Integral) or max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens!r} must be a whole number of at least 0")
    if not isinstance(idx, torch.Tensor):
        raise ValueError(f"idx={idx!r} must be a tensor of token ids, (B, T0)")
    if idx.dim() != 2 or idx.size(1) == 0 or idx.is_floating_point() or idx.dtype == torch.bool:
        raise ValueError(f"idx has shape {tuple(idx.shape)}, {idx.dtype}: a prompt is (B, T0) whole numbers with "
                         "at least one token")
    model.check_ids(idx)
    model.config.resolve(size)
    positive("draft_tokens", draft_tokens)
    if draft_size is not None:
        check_draft(model.config, size, draft_size)
    out = torch.cat([idx, idx.new_empty(idx.size(0), max_new_tokens)], 1).long()
    sampling, block_size = (temperature, top_k, top_p), model.config.block_size

    def choose(logits):
        """Logits (B, V) -> a token each (B,), and the distribution it was drawn from (None if greedy)."""
        if temperature == 0:
            return logits.argmax(-1), None
        probs = probabilities(logits, *sampling)
        return torch.multinomial(probs, 1, generator=generator)[:, 0], probs

    @torch.no_grad()
    def steps():
        was_training = model.training
        model.eval()
        try:
            target = Reader(model, size, use_cache)
            draft = None if draft_size is None else Reader(model, draft_size, use_cache)
            t, end = idx.size(1), out.size(1)
            while t < end:
                start = max(0, t - block_size)
                g = 0 if draft is None else max(0, min(draft_tokens, block_size - t, end - t - 1))
                if g == 0:
                    out[:, t] = choose(target(out, start, t)[:, -1])[0]
                    n = 0
                else:
                    probs = []
                    for i in range(t, t + g):
                        out[:, i], q = choose(draft(out, 0, i)[:, -1])
                        probs.append(q)
                    q = None if temperature == 0 else torch.stack(probs, 1)
                    tokens = verify(target(out, 0, t + g, g + 1), out[:, t:t + g], q, sampling, generator)
                    n = tokens.size(1) - 1
                    out[:, t:t + n + 1] = tokens
                    for reader in (target, draft):
                        reader.length = min(reader.length, t + n)
                t += n + 1
                if stats is not None:
                    count(stats, n + 1, g, n)
                yield t
        finally:
            model.train(was_training)

    return out, steps()


def generate(model, idx, max_new_tokens, size=None, temperature=1.0, top_k=None, top_p=None, generator=None,
             use_cache=True, draft_size=None, draft_tokens=4, stats=None):
    """Continue token ids (B, T0) by max_new_tokens: returns (B, T0 + max_new_tokens).

    size: which doll writes; None is the full one.
    temperature, top_k, top_p: as usual; temperature=0 is greedy.
    generator: a torch.Generator for repeatable samples.
    use_cache: keep keys and values, so that a token costs one position. Past block_size tokens the window
        slides, every position changes and with it every key: from there on each token costs a whole window,
        with the cache or without. False runs the model from the start each time; the tokens are the same.
    draft_size: a smaller doll that proposes `draft_tokens` tokens at a time, which this one checks in a
        single pass (speculative decoding, 2211.17192). Greedy tokens are those of plain greedy (but for
        rounding, where two tokens tie), sampled ones have its distribution, though another draw of it.
        A draft pays where it costs a small part of this doll and they agree often: a doll that is small
        itself is bound by Python, not by arithmetic, and gains nothing. It pays less in a batch, whose rows
        wait for each other, not past block_size, and never in an output-only model, whose dolls share a trunk.
    stats: a dict to which are added "steps" (passes of this doll), "tokens", "proposed" and "accepted"
        proposals, "acceptance" = accepted / proposed and "tokens_per_step".
    Raises ValueError, before any work, for an empty prompt, ids outside the vocabulary, settings out of
    range, or a draft that is not smaller.
    """
    out, steps = write(model, idx, max_new_tokens, size, temperature, top_k, top_p, generator,
                       use_cache, draft_size, draft_tokens, stats)
    for _ in steps:
        pass
    return out


def stream(model, tokenizer, prompt, max_new_tokens, **options):
    """Yield the text that continues `prompt`, piece by piece as it is written; options as in `generate`.

    A character of several bytes comes whole, with its last byte. The pieces joined are what `generate` with
    a generator of the same state writes. Raises ValueError as `generate` does, at the call.
    """
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
