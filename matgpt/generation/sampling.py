"""The distribution that a token is drawn from, alone or as the check of a draft (2211.17192)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..sizes import number, positive


@dataclass
class Sampling:
    """How tokens are drawn. Raises ValueError, naming the value, for a setting out of range."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    generator: torch.Generator | None = None

    def __post_init__(self):
        number("temperature", self.temperature, "[0, inf)")
        if self.top_k is not None:
            positive("top_k", self.top_k)
        if self.top_p is not None:
            number("top_p", self.top_p, "(0, 1]")
        if not isinstance(self.generator, torch.Generator | None):
            raise ValueError(f"generator={self.generator!r} must be a torch.Generator")

    def draw(self, probs):
        """Draw one token (B, 1) per row of probabilities (B, V)."""
        if self.temperature == 0:
            return probs.argmax(-1, keepdim=True)
        return torch.multinomial(probs, 1, generator=self.generator)

    def probabilities(self, logits):
        """Turn logits (..., V) into the probabilities (..., V) to draw from: a single 1 if greedy."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.temperature == 0:
            return F.one_hot(logits.argmax(-1), logits.size(-1)).to(logits.dtype)
        least = torch.finfo(logits.dtype).tiny  # in this type a smaller temperature would be 0: 0 / 0
        logits = (logits - logits.amax(-1, keepdim=True)) / max(float(self.temperature), least)
        if self.top_k is not None and self.top_k < logits.size(-1):
            values, tokens = logits.topk(self.top_k)
            logits = torch.full_like(logits, -torch.inf).scatter_(-1, tokens, values)
        probs = logits.softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            # nucleus sampling (1904.09751, section 3.1): the fewest tokens whose probabilities reach top_p
            values, order = probs.sort(-1, descending=True)
            before = values.cumsum(-1) - values
            values[..., 1:][before[..., 1:] >= self.top_p] = 0  # the first token always stays
            probs = torch.zeros_like(probs).scatter_(-1, order, values / values.sum(-1, keepdim=True))
        return probs


def verify(p, q, proposed, sampling):
    """Return the tokens (B, n + 1) of one speculative step: n accepted proposals, then one of the target.

    p: (B, g + 1, V), the target's distributions at the g proposals and after the last one.
    q: (B, g, V), those that the tokens `proposed` (B, g) were drawn from.
    Algorithm 1 of 2211.17192: accept a proposal x with probability min(1, p(x) / q(x)), else draw its
    replacement from max(0, p - q). The step ends at the first position where any row replaces its token. It
    depends only on the tokens before it, so each row has exactly the distribution p.
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
