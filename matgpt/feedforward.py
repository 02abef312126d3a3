"""The feedforward layer, the one part that MatFormer (2310.07707) nests."""

import torch.nn.functional as F
from torch import nn

from .nested import NestedLinear


class NestedFeedForward(nn.Module):
    """GELU network; a doll reads its first n_inner hidden units.

    GELU is the tanh approximation ("gelu_new"), as in every published GPT-2.
    """

    def __init__(self, n_embd, n_inner, dropout, bias, proj_std):
        super().__init__()
        self.expand = NestedLinear((n_embd,), (n_inner,), bias)
        self.proj = NestedLinear((n_inner,), (n_embd,), bias, proj_std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, n_inner):
        """Map x (B, T, d) to (B, T, d), through n_inner hidden units."""
        hidden = F.gelu(self.expand(x, (n_inner,)), approximate="tanh")  # (B, T, f)
        return self.dropout(self.proj(hidden, x.shape[-1:]))
