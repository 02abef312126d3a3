"""Causal self-attention in which width, number of heads and head size can each be smaller."""
import torch
import torch.nn.functional as F
from torch import nn

from .nested import NestedLinear


class Cache:
    """Keys and values of the tokens read so far, `length` of them, for each layer of one doll.

    Setting `length` back forgets the tokens behind it.
    """

    def __init__(self, block_size):
        self.block_size, self.length, self.layers = block_size, 0, {}

    def append(self, layer, k, v):
        """Keep k, v (B, h, T, s) of new tokens; returns those of all tokens (B, h, length + T, s)."""
        if layer not in self.layers:
            B, h, _, s = k.shape
            self.layers[layer] = [x.new_empty(B, h, self.block_size, s) for x in (k, v)]
        end = self.length + k.size(2)
        for kept, new in zip(self.layers[layer], (k, v)):
            kept[:, :, self.length:end] = new
        return [kept[:, :, :end] for kept in self.layers[layer]]


class NestedAttention(nn.Module):
    """Multi-head attention, stored as (3, H, S, D) and (D, H, S).

    A doll with h heads of size s reads `[:, :h, :s, :d]` and `[:d, :h, :s]`: with one axis for the heads
    and one for the size of a head, the multi-head concatenation needs no care of its own.
    """

    def __init__(self, n_embd, n_head, head_size, dropout, bias, proj_std):
        super().__init__()
        self.qkv = NestedLinear((n_embd,), (3, n_head, head_size), bias)
        self.proj = NestedLinear((n_head, head_size), (n_embd,), bias, proj_std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, n_head, head_size, cache=None, layer=0):
        """x (B, T, d) -> (B, T, d); with a cache, also over the tokens that it holds."""
        q, k, v = self.qkv(x, (3, n_head, head_size)).permute(2, 0, 3, 1, 4)  # each (B, h, T, s)
        mask, T = None, q.size(2)
        if cache is not None:
            k, v = cache.append(layer, k, v)
            if 1 < T < k.size(2):  # several new tokens behind old ones: is_causal would align the corners
                mask = torch.ones(T, k.size(2), dtype=torch.bool, device=x.device).tril(k.size(2) - T)
        y = F.scaled_dot_product_attention(
            q, k, v, mask, self.dropout.p if self.training else 0.0, is_causal=mask is None and T > 1)
        return self.dropout(self.proj(y.transpose(1, 2), x.shape[-1:]))  # (B, T, h, s) -> (B, T, d)
