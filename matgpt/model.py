"""The two models. They hold the same weights and differ in what a smaller size cuts.

Shapes: B batch, T tokens, D width, H heads, S head size, V vocabulary; lower case for a doll's.
"""

import warnings
from contextlib import contextmanager

import torch
from torch import nn

from .config import GPTConfig
from .embedding import NestedEmbedding
from .generation.writing import generate
from .nested import NestedLinear, NestedNorm, corner
from .ranges import Between
from .residual import NestedBlock


class NestedGPT(nn.Module):
    """What both variants share: GPT-2 (pre-norm, learned positions, tied readout) over nested layers."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        if not isinstance(config, GPTConfig):
            raise ValueError(f"config={config!r:.60} must be a GPTConfig")
        self.config = config
        self.embedding = NestedEmbedding(config.vocab_size, config.block_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(NestedBlock(config, n_inner) for n_inner in config.full.inner)
        self.norm = NestedNorm(config.n_embd, bias=config.bias)

    @property
    def sizes(self):
        """The dolls that are trained, or a few of a range, smallest first; the last is the full size."""
        return self.config.sizes

    def forward(self, idx, size=None, rows=None):
        """Map token ids (B, T), T up to block_size, to logits (B, T, V) of one doll.

        size: a Size that fits, the width of one doll of the nesting, or None for the full size. A list of
            sizes that share a trunk (see `trunks`) gives a list of logits; the blocks run once for all.
        rows: how many sequences each size of the list reads out, the first ones; None: all B.
        Raises ValueError for ids outside the vocabulary, a context too long, or a size that does not fit. On
        a GPU the ids are not checked here, since that would wait for the device at every step.
        """
        if isinstance(size, list):
            rows = [len(idx)] * len(size) if rows is None else rows
            return [self.embedding.readout(x[:n]) for x, n in zip(self._residuals(idx, size), rows)]
        return self.embedding.readout(self.features(idx, size))

    @contextmanager
    def mode(self, training):
        """Train (dropout is on) or evaluate inside the block; afterwards every module is as it was before."""
        modes = {module: module.training for module in self.modules()}
        self.train(training)
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def features(self, idx, size=None):
        """Return the final residual (B, T, d), after the last norm, that the readout turns into logits."""
        return self._residuals(idx, [size])[0]

    def trunk_size(self, size):
        """Return the Size at which the blocks run for `size`: the variants' forward differs in this only."""
        return self.config.resolve(size)

    def trunks(self, sizes):
        """Return `sizes` in lists, the largest first, such that one pass of the first size serves its list.

        A shallow doll runs the first layers of a deep one of its width (2D Matryoshka, 2402.14776; LayerSkip,
        2404.16710), so a pass of the deep one can read out both.
        """
        trunks = {}  # the shape at which the blocks run: the sizes that this pass serves
        by_depth = sorted(sizes, key=lambda size: self.trunk_size(size).n_layer)
        for size in reversed(by_depth):
            shape = self.trunk_size(size)
            deepest = next((trunk for trunk in trunks if shape.begins(trunk)), shape)
            trunks.setdefault(deepest, []).append(size)
        return list(trunks.values())

    def _residuals(self, idx, sizes):
        """Return the final residual (B, T, d) of each size of one trunk; the first size is the deepest."""
        self._check(idx)
        if not sizes:
            raise ValueError("size=[] names no doll: give at least one size")
        trunk, depths = self.trunk_size(sizes[0]), [self.trunk_size(size).n_layer for size in sizes]
        if not all(self.trunk_size(size).begins(trunk) for size in sizes):
            raise ValueError(f"sizes {sizes} share no trunk: each must run the first blocks of {trunk}")
        head_size = self.config.head_size_of(trunk)
        x, after = self.dropout(self.embedding(idx, trunk.n_embd)), {}
        for depth, (block, n_inner) in enumerate(zip(self.blocks, trunk.inner), 1):
            x = block(x, trunk.n_head, head_size, n_inner)
            if depth in depths:
                after[depth] = self.norm(x)
        return [after[depth][..., : self.config.resolve(size).n_embd] for size, depth in zip(sizes, depths)]

    def _check(self, idx):
        if not isinstance(idx, torch.Tensor):
            raise ValueError(f"idx must be a tensor of token ids, (B, T), not {type(idx).__name__}")
        if idx.dim() != 2 or idx.dtype not in (torch.int64, torch.int32) or idx.size(1) == 0:
            raise ValueError(
                f"idx must be (B, T) int64 or int32 with T of at least 1, not {tuple(idx.shape)} {idx.dtype}"
            )
        if idx.size(1) > (most := self.config.block_size):
            raise ValueError(f"context of {idx.size(1)} tokens is longer than block_size={most}")
        # a check on a GPU would wait for it at every step; `generate`, `train` and `evaluate` check once
        if not (idx.is_cuda or torch.compiler.is_compiling()):
            self.check_ids(idx)

    def check_ids(self, idx):
        """Raise ValueError, naming the first one, if any token id lies outside the vocabulary."""
        outside = (idx < 0) | (idx >= self.config.vocab_size)
        if outside.any():
            allowed = f"allowed are 0 to {self.config.vocab_size - 1}"
            raise ValueError(f"token id {idx[outside][0].item()} is outside the vocabulary: {allowed}")

    def num_params(self, size=None):
        """Count the parameters that the doll reads (the tied embedding counts once)."""
        return self.config.num_params(self.trunk_size(size))

    @torch.no_grad()
    def token_embeddings(self, size=None):
        """Return the embedding of every token, cut to the doll's width: (V, d)."""
        return corner(self.embedding.token, self.config.vocab_size, self.config.resolve(size).n_embd).clone()

    generate = generate


class MatryoshkaGPT(NestedGPT):
    """Fully nested: a doll reads a corner of every weight and costs what a GPT of its size costs."""

    @torch.inference_mode(False)  # weights made in inference mode could not be trained outside it
    @torch.no_grad()
    def slice(self, size=None):
        """Return the doll as a MatryoshkaGPT of its own, with a single size and memory of its own.

        A slice of a slice equals the slice of the whole, except that heads that the first slice made
        narrower stay so. Warns if `size` lies outside the nesting, since no step trained it.
        Raises ValueError for a size that does not fit.
        """
        size, nesting = self.config.resolve(size), self.config.nesting
        if size not in self.sizes and not (isinstance(nesting, Between) and nesting.holds(size)):
            warnings.warn(f"no step trained {size!r}: it is outside the nesting", stacklevel=4)
        # the first weights are drawn only to be overwritten: the first use of the "meta" device, which would
        # not draw any, takes seconds of imports
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

    The other axes of a size have no meaning here. Every doll reads all weights, so `num_params` is the same
    for each; only its embeddings are small (Matryoshka Representation Learning, 2205.13147).
    """

    def trunk_size(self, size):
        self.config.resolve(size)
        return self.config.full

    def slice(self, size=None):
        problem = "an output-only model has no dolls to slice out, since its trunk runs at full size"
        raise ValueError(f"size={size!r}: {problem}; use token_embeddings(size), or train a MatryoshkaGPT")
