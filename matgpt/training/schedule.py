"""Which dolls a step trains: one idea for families, for ranges, and for growing."""

from ..measure.shapes import flops_per_token

SHARE = 0.25  # of the steps in which a doll that is not the largest takes part
GROWTH = 0.1  # see Schedule


def price(model, trunks):
    """FLOPs per token of a training step: forward, and twice as much backward (2001.08361, section 2.1).

    trunks: lists of sizes, of which the first runs the blocks of the others; these cost their readout alone.
    """
    config = model.config
    readouts = sum(2 * config.vocab_size * size.n_embd for _, *others in trunks for size in others)
    return 3 * (readouts + sum(flops_per_token(config, t[0], model.trunk_size(t[0])) for t in trunks))


class Schedule:
    """The trunks that a step trains: always the largest that has joined, and others by chance.

    Small dolls cost next to nothing, and teach the corner that the large ones start from: so the cheapest
    starts alone, and another joins once GROWTH times the share that the one below it has of the full doll's
    price is spent.
    """

    def __init__(self, model, sizes):
        self.trunks = sorted(model.trunks(sizes), key=lambda trunk: price(model, [trunk]))
        prices = [price(model, [trunk]) for trunk in self.trunks]
        self.joins = [GROWTH * p / prices[-1] for p in [0, *prices[:-1]]]

    def draw(self, spent, rng):
        """The trunks of a step, largest first, when the share `spent` of the budget is."""
        *others, largest = [trunk for trunk, join in zip(self.trunks, self.joins) if join <= spent]
        return [largest, *(trunk for trunk in reversed(others) if rng.random() < SHARE)]
