"""Speculative decoding (2211.17192): a small doll proposes tokens, the large one accepts or replaces them."""

import torch


def propose(draft, out, t, n, sampling):
    """Write n tokens of the draft into out (B, T) from t on; return their distributions (B, n, V)."""
    probs = []
    for i in range(t, t + n):
        probs.append(sampling.probabilities(draft(out, 0, i)[:, -1]))
        out[:, i] = sampling.draw(probs[-1])[:, 0]
    return torch.stack(probs, 1)


def verify(p, q, proposed, sampling):
    """Return the tokens (B, n + 1) of one speculative step: n accepted proposals, then one of the target.

    p: (B, g + 1, V), the target's distributions at the g proposals and after the last one.
    q: (B, g, V), those that the tokens `proposed` (B, g) were drawn from.
    Algorithm 1 of 2211.17192: accept a proposal x with probability min(1, p(x) / q(x)), else draw its
    replacement from max(0, p - q). All rows of a batch advance together: the step ends at the first position
    where any row replaces its token. That position depends only on the tokens before it, and all later
    tokens are drawn anew, so each row has exactly the distribution p.
    """
    g = proposed.size(1)
    p_x, q_x = (probs[:, :g].gather(-1, proposed[..., None])[..., 0] for probs in (p, q))
    u = torch.rand(p_x.shape, device=p.device, generator=sampling.generator)
    accepted = u * q_x < p_x  # (B, g)
    n = int(accepted.all(0).cumprod(0).sum())
    if n == g:
        return torch.cat([proposed, sampling.draw(p[:, n])], 1)
    rest = (p[:, n] - q[:, n]).clamp(min=0)
    # in a row where p = q nothing is rejected and the rest is 0: multinomial would raise
    replaced = sampling.draw(torch.where(rest.sum(-1, keepdim=True) > 0, rest, p[:, n]))
    return torch.cat([proposed[:, :n], torch.where(accepted[:, n, None], proposed[:, n, None], replaced)], 1)
