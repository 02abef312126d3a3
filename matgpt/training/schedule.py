"""Which dolls a step trains, and on how much text."""

from ..ranges import Between
from ..sizes import Size
from .cost import training_flops

# Of the price, for all smaller dolls together (LOG.md, "A simpler schedule"); and where all of them only read
# out of the full one's blocks, which its own steps train (LOG.md, "Dolls that only read out").
SHARE, READOUTS = 0.2, 0.02
DEEPEN = 0.3  # of the budget; until then the full doll has fewer layers (LOG.md, "Fewer layers first")
DRAWN = 6  # Sizes of a range in each step; see LOG.md, "How many Sizes of a range a step reads"


class Schedule:
    """All dolls train from the first step to the last; `share` of the price pays for the smaller ones.

    The largest doll reads a whole batch in each step. The others split the share evenly, in FLOPs, but none
    reads more than a batch: what a cheap one leaves goes to the dearer ones. Dolls of one trunk (one width,
    several depths) read the same sequences in one pass; each trunk reads text of its own.
    Until DEEPEN of the budget is spent, the largest doll runs only as many of its layers as the deepest
    smaller doll has, so that this doll, too, has what is learnt there.
    Of a range, each step draws a few Sizes (1903.05134, section 3.2), and trains them beside the smallest and
    the full one.
    """

    def __init__(self, model, share=None, sizes=None):
        self.model, self.sizes = model, list(model.sizes if sizes is None else sizes)
        usual = READOUTS if len(model.trunks(self.sizes)) == 1 else SHARE
        self.share = usual if share is None else share
        self.full = max(self.sizes, key=lambda size: training_flops(model, [size]))
        self.is_range = isinstance(model.config.nesting, Between)
        layers = [size.n_layer for size in self.sizes if size != self.full]
        self.depth = max(layers, default=self.full.n_layer)  # of the deepest smaller doll

    def largest(self, progress):
        """Return what reads whole batches once so much of the budget (0 to 1) is spent."""
        full, grown = self.full, self.is_range or progress >= DEEPEN
        depth = full.n_layer if grown else min(self.depth, full.n_layer)
        return Size(full.n_embd, full.n_head, depth, full.inner[:depth])

    def draw(self, batch_size, rng, progress=1.0):
        """Return what one step trains, [(sizes of one trunk, sequences that each reads)], and `fractions`.

        The first size of a trunk reads the most. A fraction of a sequence is one by chance, and a trunk that
        reads none is left out. progress: how much of the budget is spent, from 0 to 1.
        """
        largest, sizes = self.largest(progress), self.sizes
        if self.is_range:
            sizes = [sizes[0], *(self.model.config.draw(rng) for _ in range(DRAWN)), self.full]
        sizes = dict.fromkeys(largest if size == self.full else size for size in sizes)  # each of them once
        trunks, passes = self.model.trunks(sizes), []
        fractions = self.fractions(trunks, largest)
        for trunk in trunks:
            n = min(batch_size, int(fractions[trunk[0]] * batch_size + rng.random()))
            rows = [batch_size if size == largest else n for size in trunk]
            if max(rows):
                passes.append((trunk, rows))
        return passes, fractions

    def fractions(self, trunks, largest):
        """Return the part of a batch that the smaller dolls of each trunk read, by its first size."""
        full, first = (training_flops(self.model, [size]) for size in (self.full, largest))
        prices = {t[0]: training_flops(self.model, t) - first * (largest in t) for t in trunks}
        smaller = sorted((size for size in prices if prices[size]), key=prices.get)
        fractions, left = dict.fromkeys(prices, 0.0), self.share / (1 - self.share) * full
        for i, size in enumerate(smaller):  # the cheapest first: it may leave something to the others
            fractions[size] = min(1.0, left / (len(smaller) - i) / prices[size])
            left -= fractions[size] * prices[size]
        return fractions
