"""Speculative decoding (2211.17192): a small doll proposes tokens, the large one accepts or replaces them."""

import torch


def count(stats, tokens, proposed, accepted):
    """Add one step of the writing doll to the totals in `stats`."""
    for name, n in dict(steps=1, tokens=tokens, proposed=proposed, accepted=accepted).items():
        stats[name] = stats.get(name, 0) + n
    stats["acceptance"] = stats["accepted"] / max(1, stats["proposed"])
    stats["tokens_per_step"] = stats["tokens"] / stats["steps"]


def verify(logits, proposed, proposed_probs, sampling):
    """Return the tokens (B, n + 1) of one speculative step: n accepted proposals, then one of the target.

    logits: (B, g + 1, V), the target's at the g proposals and after the last one.
    proposed: (B, g) tokens, drawn from `proposed_probs` (B, g, V), which is not read if greedy.
    Algorithm 1 of 2211.17192: accept a proposal x with probability min(1, p(x) / q(x)), else draw its
    replacement from max(0, p - q). All rows of a batch advance together: the step ends at the first position
    where any row replaces its token. That position depends only on the tokens before it, and all later
    tokens are drawn anew, so each row has exactly the distribution p.
    """
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
        accepted = tokens[:, :-1] == proposed
        return tokens[:, : int(accepted.all(0).cumprod(0).sum()) + 1]
    p, q, generator = sampling.probabilities(logits), proposed_probs, sampling.generator
    p_x, q_x = (probs[:, : proposed.size(1)].gather(-1, proposed[..., None])[..., 0] for probs in (p, q))
    u = torch.rand(p_x.shape, device=p.device, generator=generator)
    accepted = u * q_x < p_x  # (B, g)
    n = int(accepted.all(0).cumprod(0).sum())
    weights = p[:, n]
    if n < proposed.size(1):
        rest = (weights - q[:, n]).clamp(min=0)
        # in a row where p = q nothing is rejected and the rest is 0: multinomial would raise
        weights = torch.where(rest.sum(-1, keepdim=True) > 0, rest, weights)
    last = torch.multinomial(weights, 1, generator=generator)
    if n < proposed.size(1):
        last = torch.where(accepted[:, n : n + 1], proposed[:, n : n + 1], last)
    return torch.cat([proposed[:, :n], last], 1)
