"""A doll that reads one token after another, at little cost beyond the arithmetic."""
import math

import torch
import torch.nn.functional as F

from .attention import Cache


class Reader:
    """One doll that reads on from the `length` tokens whose keys and values it keeps.

    The layers' own forward serves every size and gradients; called for one token at a time it would spend
    most of its time in Python. This is the same arithmetic over the same memory as matrices, and the only
    place that repeats it: `use_cache=False` runs the model itself, which is how the two are kept in step.
    """

    def __init__(self, model, size, use_cache):
        self.doll, self.size = model.standalone(size)
        config, flat = self.doll.config, lambda layer: (
            layer.weight.reshape(math.prod(layer.out_shape), -1), None if layer.bias is None else layer.bias.flatten())
        self.qkv_shape = (3, config.n_head, config.head_size)
        self.cache = Cache(config.block_size) if use_cache else None
        self.start = self.length = 0
        self.blocks = [(b.norm1.weight, b.norm1.bias, *flat(b.attention.qkv), *flat(b.attention.proj),
                        b.norm2.weight, b.norm2.bias, *flat(b.feedforward.expand), *flat(b.feedforward.proj))
                       for b in self.doll.blocks]

    def __call__(self, out, start, end, last=1):
        """Logits (B, last, V) behind the last tokens of the window out[:, start:end]."""
        if start != self.start:  # the window slid: every position is another one
            self.start, self.length = start, 0
        if self.cache is None:
            x = self.doll.features(out[:, start:end], self.size)
        else:
            x = self.features(out[:, start + self.length:end])
        return self.doll.embedding.readout(x[:, -last:])

    def features(self, idx):
        """Token ids (B, T) behind those read so far -> final residual (B, T, d)."""
        doll, (B, T), self.cache.length = self.doll, idx.shape, self.length
        mask, seen = None, self.length + T
        if 1 < T < seen:  # several new tokens behind old ones: is_causal would align the corners
            mask = torch.ones(T, seen, dtype=torch.bool, device=idx.device).tril(self.length)
        x = doll.embedding(idx, doll.config.n_embd, self.length)
        width = x.shape[-1:]
        for i, (g1, b1, qkv, qkv_bias, proj, proj_bias, g2, b2, w1, c1, w2, c2) in enumerate(self.blocks):
            y = F.linear(F.layer_norm(x, width, g1, b1), qkv, qkv_bias).view(B, T, *self.qkv_shape)
            q, k, v = y.permute(2, 0, 3, 1, 4)  # each (B, h, T, s)
            y = F.scaled_dot_product_attention(q, *self.cache.append(i, k, v), mask, is_causal=mask is None and T > 1)
            x = x + F.linear(y.transpose(1, 2).flatten(2), proj, proj_bias)
            y = F.gelu(F.linear(F.layer_norm(x, width, g2, b2), w1, c1), approximate="tanh")
            x = x + F.linear(y, w2, c2)
        self.length = seen
        x = doll.norm(x)
        return x if self.size is None else x[..., :self.size.n_embd]
