"""The two models. Both hold the same weights; they differ in what a smaller size cuts.

Shapes: B batch, T tokens, D width, H heads, S head size, V vocabulary; lower case for a doll's.
"""

import torch
from torch import nn

from .config import GPTConfig, inner_sizes
from .embedding import NestedEmbedding
from .generation.writing import generate
from .nested import NestedLinear, NestedNorm, corner
from .residual import NestedBlock


class NestedGPT(nn.Module):
    """What both variants share: GPT-2 (pre-norm, learned positions, tied readout) over nested layers."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.embedding = NestedEmbedding(config.vocab_size, config.block_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        inner = inner_sizes(config.n_inner, config.n_layer)
        self.blocks = nn.ModuleList(NestedBlock(config, n_inner) for n_inner in inner)
        self.norm = NestedNorm(config.n_embd, config.bias)

    @property
    def sizes(self):
        """The dolls that are trained, or a few of a range, smallest first; the last is the full size."""
        return self.config.sizes

    def forward(self, idx, size=None):
        """Token ids (B, T), T up to block_size -> logits (B, T, V) of one doll.

        size: a Size that fits, the width of one doll of the nesting, or None for the full size; or a list of
        such that share a trunk (one of `trunks`), which gives a list of logits for the price of the deepest.
        Raises ValueError for ids outside the vocabulary, a context too long, or a size that does not fit.
        """
        if isinstance(size, list):
            return [self.embedding.readout(x) for x in self._residuals(idx, size)]
        return self.embedding.readout(self.features(idx, size))

    def features(self, idx, size=None):
        """The final residual (B, T, d), after the last norm, that the readout turns into logits."""
        return self._residuals(idx, [size])[0]

    def trunk_size(self, size):
        """The size at which the blocks run for `size`: all that the variants' forward differs in."""
        return self.config.resolve(size)

    def trunks(self, sizes):
        """`sizes` in lists, the largest first, of which the first size runs the blocks of all the others.

        A shallow doll runs the first layers of a deep one of its width (2D Matryoshka, 2402.14776; LayerSkip,
        2404.16710), so one pass of the deep one reads out both.
        """
        trunks, run = [], self.trunk_size
        by_depth = sorted(sizes, key=lambda size: run(size).n_layer)
        for size in reversed(by_depth):
            trunk = next((t for t in trunks if run(size).begins(run(t[0]))), None)
            if trunk is None:
                trunks.append(trunk := [])
            trunk.append(size)
        return trunks

    def _residuals(self, idx, sizes):
        """The final residual (B, T, d) of each size of one trunk; the first one is the deepest."""
        self._check(idx)
        trunk, depths = self.trunk_size(sizes[0]), [self.trunk_size(size).n_layer for size in sizes]
        if not all(self.trunk_size(size).begins(trunk) for size in sizes):
            raise ValueError(f"sizes {sizes} share no trunk: the blocks of each must be the first of {trunk}")
        head_size = self.config.head_size_of(trunk)
        x, after = self.dropout(self.embedding(idx, trunk.n_embd)), {}
        inner = inner_sizes(trunk.n_inner, trunk.n_layer)
        for depth, (block, n_inner) in enumerate(zip(self.blocks, inner), 1):
            x = block(x, trunk.n_head, head_size, n_inner)
            if depth in depths:
                after[depth] = self.norm(x)
        return [after[depth][..., : self.config.resolve(size).n_embd] for size, depth in zip(sizes, depths)]

    def _check(self, idx):
        if not isinstance(idx, torch.Tensor):
            raise ValueError(f"idx must be a tensor of token ids, (B, T), not {type(idx).__name__}")
        T, most = idx.size(-1) if idx.dim() else 0, self.config.block_size
        if idx.dim() != 2 or idx.dtype not in (torch.int64, torch.int32) or T == 0:
            found = f"{tuple(idx.shape)} {idx.dtype}"
            raise ValueError(f"idx must be (B, T) int64 or int32 with T of at least 1, not {found}")
        if most < T:
            raise ValueError(f"context of {T} tokens is longer than block_size={most}")
        # on a GPU, looking would wait for it at every step; `generate`, `train` and `evaluate` look once
        if not (idx.is_cuda or torch.compiler.is_compiling()):
            self.check_ids(idx)

    def check_ids(self, idx):
        """ValueError, naming the first one, if any token id lies outside the vocabulary."""
        outside, last = (idx < 0) | (idx >= self.config.vocab_size), self.config.vocab_size - 1
        if outside.any():
            found = f"token id {idx[outside][0].item()} is outside the vocabulary"
            raise ValueError(f"{found}: allowed are 0 to {last}")

    def num_params(self, size=None):
        """Parameters that the doll reads (the tied embedding counts once)."""
        return self.config.num_params(self.trunk_size(size))

    @torch.no_grad()
    def token_embeddings(self, size=None):
        """Embedding of every token, cut to the doll's width: (V, d)."""
        return corner(self.embedding.token, self.config.vocab_size, self.config.resolve(size).n_embd).clone()

    generate = generate


class MatryoshkaGPT(NestedGPT):
    """Fully nested: a doll reads a corner of every weight and costs what a GPT of its size costs."""

    @torch.no_grad()
    def slice(self, size=None):
        """That doll as a MatryoshkaGPT of its own: one size, contiguous memory that it shares with nobody.

        A slice of a slice is the slice of the whole, unless its heads are wider than those of the first cut:
        that cut no longer has them, so there they stay as narrow.
        """
        size = self.config.resolve(size)
        # first weights are drawn only to be overwritten; the "meta" device would draw none, but its first use
        # costs seconds of imports
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            doll = MatryoshkaGPT(self.config.doll(size))
        weight = self.embedding.token
        doll = doll.to(weight.device, weight.dtype).train(self.training)
        for name, p in doll.named_parameters():
            p.copy_(corner(self.get_parameter(name), *p.shape))
        for name, layer in doll.named_modules():
            if isinstance(layer, NestedLinear):
                layer.weight *= self.get_submodule(name).scale(layer.in_shape)
        # the readout's weight is the tied embedding, so its scale goes into the norm before it
        for p in doll.norm.parameters():
            p *= (self.config.n_embd / size.n_embd) ** 0.5
        return doll


class MatryoshkaEmbeddingsGPT(NestedGPT):
    """Output only: trunk and final norm run at full size, then residual and readout are cut to n_embd.

    The other axes of a size have no meaning here. Every doll reads all weights, so `num_params` is the
    same for each; what is small is its embeddings (Matryoshka Representation Learning, 2205.13147).
    """

    def trunk_size(self, size):
        self.config.resolve(size)
        return self.config.full

    def slice(self, size=None):
        raise ValueError(
            f"size={size!r}: an output-only model has no dolls to slice out, since its trunk runs at "
            "full size; use token_embeddings(size), or train a MatryoshkaGPT"
        )
