"""Run a doll token by token, with cached keys and values, at little more than the cost of the arithmetic."""

from collections import namedtuple

import torch
import torch.nn.functional as F

# The weights of one block, cut to a doll: (gain, shift) of norms, (matrix, bias) of linear maps.
Layer = namedtuple("Layer", "norm1 qkv proj norm2 expand contract")


class Reader:
    """One doll, and the keys and values of the `length` tokens of the window that it has read.

    For one token at a time, the forward of the layers would mostly cut weights. So this class cuts them once,
    as matrices, and is the only place that repeats the arithmetic of the layers, without dropout.
    """

    def __init__(self, model, size, use_cache):
        self.model, self.size, self.use_cache = model, size, use_cache
        trunk = model.trunk_size(size)
        self.shape = d, h, s = trunk.n_embd, trunk.n_head, model.config.head_size_of(trunk)
        self.length, self.cache = 0, None  # keys and values (layers, 2, B, h, block_size, s)
        self.layers = [
            Layer(
                norm1=block.norm1.corner(d),
                qkv=block.attention.qkv.matrix((d,), (3, h, s)),
                proj=block.attention.proj.matrix((h, s), (d,)),
                norm2=block.norm2.corner(d),
                expand=block.feedforward.expand.matrix((d,), (f,)),
                contract=block.feedforward.proj.matrix((f,), (d,)),
            )
            for block, f in zip(model.blocks, trunk.inner)
        ]

    def __call__(self, out, end, last=1):
        """Return logits (B, last, V) after the last tokens of out[:, :end]. ValueError unless finite."""
        start = max(0, end - self.model.config.block_size)  # once it slides, all tokens have other positions
        # the last tokens are read again: those that were read there may be proposals, since rejected
        self.length = min(self.length, end - last) if self.use_cache and start == 0 else 0
        x = self.features(out[:, start + self.length : end])
        logits = self.model.embedding.readout(x[:, -last:])
        if not logits.amax().isfinite():
            raise ValueError(f"logits of {self.size!r} are not finite: are its weights, in {logits.dtype}?")
        return logits

    def features(self, idx):
        """Read token ids (B, T) after those read so far; return their final residual (B, T, d)."""
        (B, T), (d, h, s) = idx.shape, self.shape
        end, mask = self.length + T, None
        if 1 < T < end:  # several tokens after earlier ones: is_causal would mask as if there were none
            mask = torch.ones(T, end, dtype=torch.bool, device=idx.device).tril(self.length)
        x = self.model.embedding(idx, d, self.length)  # (B, T, d)
        if self.cache is None:
            self.cache = x.new_empty(len(self.layers), 2, B, h, self.model.config.block_size, s)
        for cache, layer in zip(self.cache, self.layers):
            y = F.layer_norm(x, x.shape[-1:], *layer.norm1)
            qkv = F.linear(y, *layer.qkv).view(B, T, 3, h, s).permute(2, 0, 3, 1, 4)  # (3, B, h, T, s)
            cache[..., self.length : end, :] = qkv[1:]
            k, v = cache[..., :end, :]
            y = F.scaled_dot_product_attention(qkv[0], k, v, mask, is_causal=mask is None and T > 1)
            x = x + F.linear(y.transpose(1, 2).flatten(2), *layer.proj)
            y = F.linear(F.layer_norm(x, x.shape[-1:], *layer.norm2), *layer.expand)
            x = x + F.linear(F.gelu(y, approximate="tanh"), *layer.contract)
        self.length = end
        return self.model.norm(x)[..., : self.size.n_embd]
