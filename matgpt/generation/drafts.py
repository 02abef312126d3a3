"""Speculative decoding (2211.17192): a smaller doll proposes, the larger one keeps what it would write."""

import torch


def count(stats, tokens, proposed, accepted):
    """Add one step of the doll that writes to the totals in `stats`."""
    for name, n in dict(steps=1, tokens=tokens, proposed=proposed, accepted=accepted).items():
        stats[name] = stats.get(name, 0) + n
    stats["acceptance"] = stats["accepted"] / max(1, stats["proposed"])
    stats["tokens_per_step"] = stats["tokens"] / stats["steps"]


def check_draft(model, size, draft_size, draft_model):
    """ValueError unless the draft is a smaller doll, larger on no axis; or of a model that reads alike."""
    if draft_model is not None:
        if not hasattr(draft_model, "config"):
            raise ValueError(f"draft_model={draft_model!r:.60} must be a model, as `load` gives it")
        draft_model.config.resolve(draft_size)
        for name in ("vocab_size", "block_size"):
            theirs, ours = (getattr(m.config, name) for m in (draft_model, model))
            if theirs != ours:
                raise ValueError(f"draft_model has {name}={theirs}: it must be that of the model, {ours}")
        return
    size, draft = (model.config.resolve(s) for s in (size, draft_size))
    if not size.covers(draft) or draft == size:
        raise ValueError(f"draft_size={draft!r} is not smaller than the doll it drafts for, {size!r}")


def verify(logits, proposed, proposed_probs, sampling):
    """The tokens (B, n + 1) that one speculative step writes: n proposals kept, then one of the target's own.

    logits: (B, g + 1, V), the target's at the g proposals and behind the last one.
    proposed: (B, g) tokens, drawn from `proposed_probs` (B, g, V); the latter is not read if greedy.
    Algorithm 1 of 2211.17192: a proposal x is kept with probability min(1, p(x) / q(x)), else replaced by a
    draw from max(0, p - q). Rows of a batch stay in step: the first position at which any row replaces its
    token ends the step for all. Where a step ends depends on tokens up to there only, and everything behind
    is drawn anew, so each row keeps exactly the distribution p.
    """
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
        kept = tokens[:, :-1] == proposed
        return tokens[:, : int(kept.all(0).cumprod(0).sum()) + 1]
    p, q, generator = sampling.probabilities(logits), proposed_probs, sampling.generator
    p_x, q_x = (probs[:, : proposed.size(1)].gather(-1, proposed[..., None])[..., 0] for probs in (p, q))
    u = torch.rand(p_x.shape, device=p.device, generator=generator)
    kept = u * q_x < p_x  # (B, g)
    n = int(kept.all(0).cumprod(0).sum())
    weights = p[:, n]
    if n < proposed.size(1):
        rest = (weights - q[:, n]).clamp(min=0)
        weights = torch.where(rest.sum(-1, keepdim=True) > 0, rest, weights)  # p = q: nothing to replace
    last = torch.multinomial(weights, 1, generator=generator)
    if n < proposed.size(1):
        last = torch.where(kept[:, n : n + 1], proposed[:, n : n + 1], last)
    return torch.cat([proposed[:, :n], last], 1)
