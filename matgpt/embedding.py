"""Token and position embedding, and the readout, which is tied to the token embedding."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .nested import corner


class NestedEmbedding(nn.Module):
    """Sum of token and learned position embedding, cut to the first n_embd dimensions.

    The readout reads the same tensor (V, D), so there is no second copy to keep in step.
    """

    def __init__(self, vocab_size, block_size, n_embd):
        super().__init__()
        self.token = nn.Parameter(torch.empty(vocab_size, n_embd))
        self.position = nn.Parameter(torch.empty(block_size, n_embd))
        for weight in (self.token, self.position):
            nn.init.normal_(weight, std=0.02)

    def forward(self, idx, n_embd, start=0):
        """Map token ids (B, T), the first at position `start`, to (B, T, n_embd)."""
        B, T = idx.shape
        position = corner(self.position[start:], T, n_embd)
        return F.embedding(idx, corner(self.token, len(self.token), n_embd)) + position

    def readout(self, x):
        """Map a residual (B, T, d) to logits (B, T, V), scaled for its width as in `NestedLinear`."""
        V, D = self.token.shape
        d = x.size(-1)
        x = x if d == D else x * math.sqrt(D / d)
        return F.linear(x, corner(self.token, V, d))

    def extra_repr(self):
        return f"{len(self.token)} tokens, {len(self.position)} positions, {self.token.size(1)} dimensions"
