"""Which dolls a step trains, and on how much text: one idea for families, for ranges, and for growing."""

from ..ranges import Between
from .price import price

FIRST, LAST = 0.04, 0.16  # of the largest doll's FLOPs, for each other doll: at the beginning, at the end
GROWTH = 0.08  # a doll joins once this share of the price of the one below it, in the full one's, is spent
DRAWN = 6  # Sizes of a range in a step, each for half of that share


class Schedule:
    """The trunks that a step trains: the largest that has joined on a whole batch, others on parts of one.

    Small dolls cost next to nothing, and teach the corner that the large ones start from: so the cheapest
    starts alone, and each next one joins a little later. From then on it reads as much as a share of the
    largest one's FLOPs pays for, at most a batch, a share that grows with the run: where the learning rate
    ends, the dolls settle. Once the full doll of a range has joined, Sizes drawn from all of it stand in for
    all but the smallest (1903.05134, section 3.2): of two drawn the cheaper one, since what small ones learn
    the large ones read.
    """

    def __init__(self, model, sizes):
        self.model, self.of_range = model, isinstance(model.config.nesting, Between)
        self.trunks = self.by_price(sizes)
        self.prices = [price(model, trunk) for trunk in self.trunks]
        self.joins = [GROWTH * below / self.prices[-1] for below in [0, *self.prices[:-1]]]

    def by_price(self, sizes):
        """Their trunks, cheapest first."""
        return sorted(self.model.trunks(sizes), key=lambda trunk: price(self.model, trunk))

    def stand_in(self, rng):
        """The trunks of the smallest doll of a range, of its full one, and of DRAWN Sizes between."""
        pairs = [[self.model.config.draw(rng) for _ in range(2)] for _ in range(DRAWN)]
        drawn = [min(pair, key=lambda size: price(self.model, [size])) for pair in pairs]
        return self.by_price(dict.fromkeys([*self.trunks[0], *self.trunks[-1], *drawn]))

    def draw(self, spent, rng):
        """[(trunk, share of a batch)], largest first, when the share `spent` of the budget is."""
        trunks = [trunk for trunk, join in zip(self.trunks, self.joins) if join <= spent]
        paid = (FIRST + (LAST - FIRST) * spent) * price(self.model, trunks[-1])
        if self.of_range and len(trunks) == len(self.trunks):
            trunks, paid = self.stand_in(rng), paid / 2
        *others, largest = trunks
        shares = [(trunk, min(1, paid / price(self.model, trunk))) for trunk in others]
        return [(largest, 1), *reversed(shares)]
