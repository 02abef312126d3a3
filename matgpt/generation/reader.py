"""A doll that reads one token after another, at little cost beyond the arithmetic."""

import torch
import torch.nn.functional as F

from ..config import inner_sizes


class Reader:
    """One doll, with the keys and values of the `length` tokens of its window that it has read.

    Setting `length` back forgets the tokens behind it.

    The layers' own forward serves every size and gradients; called for one token at a time it would spend
    most of its time in Python, and cut the weights anew for each. Here they are cut once, as matrices, and
    the same arithmetic, without dropout, is written out: the only place that repeats it. With
    `use_cache=False` the model itself runs, from the start of the window each time, which is how tests keep
    the two in step.
    """

    def __init__(self, model, size, use_cache=True):
        config = model.config
        self.model, self.size = model, config.resolve(size)
        trunk = model.trunk_size(self.size)
        width, heads = (trunk.n_embd,), (trunk.n_head, config.head_size_of(trunk))
        self.n_embd, self.qkv_shape = trunk.n_embd, (3, *heads)
        self.use_cache, self.kept = use_cache, None  # keys and values (layers, 2, B, h, block_size, s)
        self.start = self.length = 0
        self.blocks = [
            (
                *b.norm1.corner(trunk.n_embd),
                *b.attention.qkv.matrix(width, self.qkv_shape),
                *b.attention.proj.matrix(heads, width),
                *b.norm2.corner(trunk.n_embd),
                *b.feedforward.expand.matrix(width, (f,)),
                *b.feedforward.proj.matrix((f,), width),
            )
            for b, f in zip(model.blocks, inner_sizes(trunk.n_inner, trunk.n_layer))
        ]

    def __call__(self, out, start, end, last=1):
        """Logits (B, last, V) behind the last tokens of the window out[:, start:end]."""
        if start != self.start:  # the window slid: every position is another one
            self.start, self.length = start, 0
        if not self.use_cache:
            with self.model.mode(training=False):
                x = self.model.features(out[:, start:end], self.size)
        else:
            x = self.features(out[:, start + self.length : end])
        return self.model.embedding.readout(x[:, -last:])

    def features(self, idx):
        """Token ids (B, T) behind those read so far -> final residual (B, T, d)."""
        (B, T), mask = idx.shape, None
        seen = self.length + T  # seen: tokens of the window with these
        if 1 < T < seen:  # several new tokens behind old ones: is_causal would align the corners
            mask = torch.ones(T, seen, dtype=torch.bool, device=idx.device).tril(self.length)
        x = self.model.embedding(idx, self.n_embd, self.length)
        width, (_, h, s) = x.shape[-1:], self.qkv_shape
        if self.kept is None:
            self.kept = x.new_empty(len(self.blocks), 2, B, h, self.model.config.block_size, s)
        for kept, (g1, s1, qkv, b_qkv, proj, b_proj, g2, s2, w1, b1, w2, b2) in zip(self.kept, self.blocks):
            y = F.linear(F.layer_norm(x, width, g1, s1), qkv, b_qkv)
            new = y.view(B, T, 3, h, s).permute(2, 0, 3, 1, 4)
            kept[..., self.length : seen, :] = new[1:]
            q, (k, v) = new[0], kept[..., :seen, :]  # k, v: (B, h, seen, s)
            y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None and T > 1)
            x = x + F.linear(y.transpose(1, 2).flatten(2), proj, b_proj)
            y = F.linear(F.layer_norm(x, width, g2, s2), w1, b1)
            x = x + F.linear(F.gelu(y, approximate="tanh"), w2, b2)
        self.length = seen
        return self.model.norm(x)[..., : self.size.n_embd]
