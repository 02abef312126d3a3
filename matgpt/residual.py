"""The residual block: pre-norm attention and feedforward, as in GPT-2."""

from torch import nn

from .attention import NestedAttention
from .feedforward import NestedFeedForward
from .nested import NestedNorm


class NestedBlock(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x)), at the width of x."""

    def __init__(self, config, n_inner):
        super().__init__()
        # GPT-2 (section 2.3): residual projections start smaller the deeper the model
        proj_std = 0.02 / (2 * config.n_layer) ** 0.5
        D, rest = config.n_embd, (config.dropout, config.bias, proj_std)
        self.norm1 = NestedNorm(D, bias=config.bias)
        self.attention = NestedAttention(D, config.n_head, config.full_head_size, *rest)
        self.norm2 = NestedNorm(D, bias=config.bias)
        self.feedforward = NestedFeedForward(D, n_inner, *rest)

    def forward(self, x, n_head, head_size, n_inner):
        """Map x (B, T, d) to (B, T, d)."""
        x = x + self.attention(self.norm1(x), n_head, head_size)
        return x + self.feedforward(self.norm2(x), n_inner)
