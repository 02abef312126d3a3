"""Text from any doll: sampling, with keys and values cached."""
import torch

from .attention import Cache
from .config import positive


def check_sampling(temperature, top_k, top_p):
    """ValueError, naming the value, for sampling settings out of range."""
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature!r} must be at least 0 (0 is greedy)")
    if top_k is not None:
        positive("top_k", top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p!r} must lie in (0, 1]")


def probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """Logits (..., V) -> the distribution (..., V) that is sampled from; temperature 0 puts all on the best."""
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits / temperature
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


@torch.no_grad()
def generate(model, idx, max_new_tokens, size=None, temperature=1.0, top_k=None, top_p=None, generator=None,
             use_cache=True):
    """Continue token ids (B, T0) by `max_new_tokens` each: (B, T0 + max_new_tokens).

    size: which doll writes; None is the full one.
    temperature, top_k, top_p: as usual; temperature=0 is greedy.
    generator: a torch.Generator for repeatable samples.
    use_cache: keep keys and values, so that a token costs one position. Past block_size tokens the window
        slides, every position changes and with it every key: from there on each token costs a whole window,
        with the cache or without. False recomputes from the start; the tokens are the same.
    Raises ValueError for an empty prompt, ids outside the vocabulary or settings out of range.
    """
    check_sampling(temperature, top_k, top_p)
    if max_new_tokens != 0:
        positive("max_new_tokens", max_new_tokens)
    if idx.dim() != 2 or idx.size(1) == 0:
        raise ValueError(f"idx has shape {tuple(idx.shape)}: a prompt is (B, T0) with at least one token")
    model.check_ids(idx)
    was_training = model.training
    model.eval()
    try:
        doll, size = model.standalone(size)
        block_size, start = model.config.block_size, idx.size(1)
        out = torch.cat([idx, idx.new_empty(idx.size(0), max_new_tokens)], 1)
        cache = Cache(block_size) if use_cache else None
        for t in range(start, out.size(1)):
            if cache is None or t > block_size:
                x = doll.features(out[:, max(0, t - block_size):t], size)
            else:
                x = doll.features(out[:, cache.length:t], size, cache)
            logits = doll.embedding.readout(x[:, -1])  # (B, V)
            if temperature == 0:
                out[:, t] = logits.argmax(-1)
            else:
                probs = probabilities(logits, temperature, top_k, top_p)
                out[:, t] = torch.multinomial(probs, 1, generator=generator)[:, 0]
        return out
    finally:
        model.train(was_training)
