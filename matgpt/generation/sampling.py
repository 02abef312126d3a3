"""The distribution that a token is drawn from."""

import numbers

import torch

from ..config import positive


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
