"""Which dolls a step trains, and on how much text."""

import functools

import torch

from ..files.atomic import uninterrupted
from ..ranges import Between
from ..sizes import Size
from .cost import training_flops

# Of a step's passes, for all smaller dolls (LOG.md, "What share the smaller dolls need"); and where all of
# them only read out of the full one's blocks, which its own steps train (LOG.md, "Dolls that only read out").
SHARE, READOUTS = 0.15, 0.02
DEEPEN = 0.7  # of the budget; until then the full doll has fewer layers (LOG.md, "Fewer layers first")
DRAWN = 6  # Sizes of a range in each step; see LOG.md, "How many Sizes of a range a step reads"


class Schedule:
    """All dolls train from the first step to the last; `share` of a step's passes pays for the smaller ones.

    The largest doll reads a whole batch in each step. The others split the share evenly, in FLOPs, but none
    reads more than a batch: what a cheap one leaves goes to the dearer ones. Dolls of one trunk (one width,
    several depths) read the same sequences in one pass; each trunk reads text of its own.
    Until DEEPEN of the budget is spent, the largest doll of a new model runs only as many of its layers as
    the deepest smaller doll has: see `deepen`.
    Of a range, each step draws a few Sizes (1903.05134, section 3.2), and trains them with the smallest and
    the full one.
    """

    def __init__(self, model, share=None, sizes=None):
        self.model, self.sizes = model, list(model.sizes if sizes is None else sizes)
        usual = READOUTS if len(model.trunks(self.sizes)) == 1 else SHARE
        self.share = usual if share is None else share
        self.full = max(self.sizes, key=lambda size: training_flops(model, [size]))
        self.is_range = isinstance(model.config.nesting, Between)
        self.largest = self.full  # what reads whole batches: the full doll, or its first layers

    @functools.cached_property
    def depth(self):
        """How many layers the largest doll runs: all, if a step has trained the last one already."""
        n_layer, others = self.full.n_layer, [size for size in self.sizes if size != self.full]
        deepest = max((self.model.trunk_size(size).n_layer for size in others), default=n_layer)
        vectors = [p for p in self.model.blocks[n_layer - 1].parameters() if p.dim() == 1 and p.requires_grad]
        if not self.model.config.bias:  # in bfloat16 a gain of 1 may not move
            vectors = [p for p in vectors if p.dtype.itemsize > 2]
        is_new = vectors and all((p == p[0]).all() for p in vectors)  # norms begin as ones, biases as zeros
        return min(n_layer, deepest) if is_new and not self.is_range else n_layer

    @uninterrupted()
    @torch.no_grad()
    def deepen(self, progress):
        """Set how many layers the largest doll runs at `progress`, the share of the budget spent (0 to 1).

        What few layers learn also serves the deepest smaller doll. When the others join, they begin as copies
        of the last of these (stacking, 2405.15319).
        """
        full, blocks = self.full, self.model.blocks
        if progress >= DEEPEN:
            for i in range(self.depth, full.n_layer):
                source = blocks[self.depth - 1 - (full.n_layer - 1 - i) % self.depth]
                for p, q in zip(source.parameters(), blocks[i].parameters()):
                    if q.requires_grad and q.shape == p.shape:  # layers may differ in their hidden units
                        q.copy_(p)
            self.depth = full.n_layer
        self.largest = Size(full.n_embd, full.n_head, self.depth, full.inner[: self.depth])

    def draw(self, batch_size, rng):
        """Return what one step trains, [(sizes of one trunk, sequences that each reads)], and `fractions`.

        The first size of a trunk reads the most. A fraction of a sequence rounds up or down at random, and a
        trunk that reads none is left out.
        """
        largest, sizes = self.largest, self.sizes
        if self.is_range:
            sizes = [sizes[0], *(self.model.config.draw(rng) for _ in range(DRAWN)), self.full]
        sizes = dict.fromkeys(largest if size == self.full else size for size in sizes)  # each of them once
        trunks, passes = self.model.trunks(sizes), []
        fractions = self.fractions(trunks)
        for trunk in trunks:
            n = min(batch_size, int(fractions[trunk[0]] * batch_size + rng.random()))
            rows = [batch_size if size == largest else n for size in trunk]
            if max(rows):
                passes.append((trunk, rows))
        return passes, fractions

    def fractions(self, trunks):
        """Return the part of a batch that the smaller dolls of each trunk read, by its first size."""
        largest = training_flops(self.model, [self.largest])
        prices = {t[0]: training_flops(self.model, t) - largest * (self.largest in t) for t in trunks}
        smaller = sorted((size for size in prices if prices[size]), key=prices.get)
        fractions, left = dict.fromkeys(prices, 0.0), self.share / (1 - self.share) * largest
        for i, size in enumerate(smaller):  # the cheapest first: it may leave something to the others
            fractions[size] = min(1.0, left / (len(smaller) - i) / prices[size])
            left -= fractions[size] * prices[size]
        return fractions
