"""Causal self-attention in which width, number of heads and head size can each be smaller."""

import torch.nn.functional as F
from torch import nn

from .nested import NestedLinear


class NestedAttention(nn.Module):
    """Multi-head attention, stored as (3, H, S, D) and (D, H, S).

    A doll with h heads of size s reads `[:, :h, :s, :d]` and `[:d, :h, :s]`. Heads and head size are axes of
    their own, so one slice also cuts the multi-head concatenation.
    """

    def __init__(self, n_embd, n_head, head_size, dropout, bias, proj_std):
        super().__init__()
        self.qkv = NestedLinear((n_embd,), (3, n_head, head_size), bias)
        self.proj = NestedLinear((n_head, head_size), (n_embd,), bias, proj_std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, n_head, head_size):
        """Map x (B, T, d) to (B, T, d), over n_head heads of head_size."""
        q, k, v = self.qkv(x, (3, n_head, head_size)).permute(2, 0, 3, 1, 4)  # each (B, h, T, s)
        dropout = self.dropout.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.dropout(self.proj(y.transpose(1, 2), x.shape[-1:]))  # (B, T, h, s) -> (B, T, d)
