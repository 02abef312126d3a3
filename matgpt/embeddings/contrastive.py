"""What makes a language model an embedding model: a question comes to lie near its answer."""

import math
from numbers import Real

import numpy as np
import torch
import torch.nn.functional as F

from ..measure.shapes import flops_per_token
from ..sizes import positive
from ..training.checkpoint import digest
from ..training.loop import Settings, loop, processes
from .pairs import as_pairs
from .pooling import pooled, token_rows

PART = 64  # texts of about one length that run together


def info_nce(queries, documents, alike, temperature):
    """Symmetric InfoNCE, nats, of B pairs (B, d) each: each question against all documents, and the reverse.

    alike (B, B): pairs that ask the same, which are no counterexamples to one another.
    """
    scores = F.normalize(queries, dim=1) @ F.normalize(documents, dim=1).T / temperature
    scores = scores.masked_fill(alike, -math.inf)
    right = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def contrastive_losses(model, rows, alike, temperature, micro_batch=None, seed=0):
    """Yield losses to differentiate that add up to the mean over sizes of the InfoNCE of B pairs.

    rows: 2 B rows of ids, questions first. micro_batch: gradient caching (2101.06983): compute all vectors
        without graphs, then the gradient of each vector, then run so many texts at a time again to pass these
        gradients on. None: everything at once.
    Each item is (loss, {size: InfoNCE} or None).
    """
    trunks = list(dict.fromkeys(model.trunk_size(size) for size in model.sizes))
    by_length = torch.tensor(sorted(range(len(rows)), key=lambda i: len(rows[i])))
    parts = by_length.split(micro_batch or PART)

    def run(trunk, number):
        torch.manual_seed(seed + number)  # dropout is the same both times
        return pooled(model, [rows[i] for i in parts[number]], trunk)

    with torch.set_grad_enabled(torch.is_grad_enabled() and micro_batch is None):
        vectors = {t: torch.cat([run(t, n) for n in range(len(parts))])[by_length.argsort()] for t in trunks}
    if micro_batch is not None:
        vectors = {trunk: x.requires_grad_() for trunk, x in vectors.items()}
    losses = {}
    for size in model.sizes:
        queries, documents = vectors[model.trunk_size(size)][:, : size.n_embd].chunk(2)  # (B, d) each
        losses[size] = info_nce(queries, documents, alike, temperature)
    mean = torch.stack(list(losses.values())).mean()
    yield mean, losses
    for trunk in trunks if micro_batch is not None else ():
        for number, part in enumerate(parts):
            yield (run(trunk, number) * vectors[trunk].grad[part]).sum(), None


class Texts:
    """N pairs as rows of token ids, from which batches are drawn."""

    def __init__(self, model, pairs, tokenizer):
        self.rows = token_rows(model, pairs.queries + pairs.documents, tokenizer)
        self.ids = torch.cat(self.rows).numpy()
        first = {}  # the same number for the same question
        self.asks = torch.tensor([first.setdefault(query, i) for i, query in enumerate(pairs.queries)])
        self.block_size, self.device = model.config.block_size, model.embedding.token.device

    def draw(self, step, batch_size, seed):
        """Positions of a batch: each pair occurs once in an epoch; its last, incomplete batch is left out."""
        n = len(self.asks)
        epoch, number = divmod(step, n // batch_size)
        order = np.random.default_rng((seed, epoch)).permutation(n)
        return order[number * batch_size :][:batch_size]

    def batch(self, positions, rng=None):
        """2 B rows of ids, questions first, and which pairs ask the same (B, B).

        rng: crops long texts at a random place; None: at the beginning.
        """
        rows = [self.rows[offset + i] for offset in (0, len(self.asks)) for i in positions]
        starts = [rng.integers(max(0, len(row) - self.block_size) + 1) if rng else 0 for row in rows]
        rows = [row[start : start + self.block_size] for row, start in zip(rows, starts)]
        asks = self.asks[positions]
        return rows, (asks[:, None] == asks).fill_diagonal_(False).to(self.device)


@torch.inference_mode(False)
@torch.enable_grad()
def train_embeddings(
    model, pairs, tokenizer, steps=300, batch_size=256, lr=None, seed=0, *, val_pairs=None, temperature=0.05,
    micro_batch=None, **options,
):  # fmt: skip
    """Teach every size which document answers which question; returns a `History` of losses in nats.

    The loss is the mean over the sizes (2205.13147) of the symmetric InfoNCE between means over tokens; the
    other pairs of the batch are the counterexamples (2201.10005). A text of more than block_size tokens is
    cropped at random, anew each time (2112.09118).

    pairs: two lists of texts, (queries, documents), or `Pairs` as `load_pairs` makes them.
    tokenizer: the one that the model was trained with. batch_size: pairs in a step.
    val_pairs: pairs to measure on, a batch of them; None: a batch of `pairs` (at most a tenth) is set aside.
    temperature: divides the cosines. micro_batch: texts that are differentiated at once, for batches that do
        not fit in memory; None: all.
    options: those of `Settings`, such as optimizer, progress, checkpoint_dir and resume.
    Raises ValueError for bad arguments, and under torchrun; DivergedError when a loss is not finite.
    """
    steps, config = positive("steps", steps), model.config
    warmup = min(0.1, 20 / steps)
    settings = Settings(steps, batch_size, lr, seed, **{"dtype": "float32", "warmup": warmup} | options)
    if micro_batch is not None:
        micro_batch = positive("micro_batch", micro_batch)
    if not isinstance(temperature, Real) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature!r} must be a number above 0")
    if processes()[1] > 1:
        raise ValueError("train_embeddings runs in one process: each batch is one set of counterexamples")
    pairs = as_pairs("pairs", pairs)
    if val_pairs is None:
        pairs, val_pairs = pairs.set_aside(min(batch_size, len(pairs) // 10), seed)
    val_pairs = as_pairs("val_pairs", val_pairs)
    if not 2 <= batch_size <= len(pairs):
        most = f"the number of pairs left to learn from, {len(pairs)}"
        raise ValueError(f"batch_size={batch_size} must be from 2 to {most}")
    texts, val_texts = Texts(model, pairs, tokenizer), Texts(model, val_pairs, tokenizer)
    trunks = {model.trunk_size(size) for size in model.sizes}
    readout = 2 * config.vocab_size  # FLOPs per dimension; no token is read out here
    blocks = sum(flops_per_token(config, trunk) - readout * trunk.n_embd for trunk in trunks)
    passes = 3 if micro_batch is None else 4  # forward, and twice as much backward

    def batch_loss(step, rng):
        rows, alike = texts.batch(texts.draw(step, batch_size, seed), rng)
        flops = passes * blocks * sum(map(len, rows))
        dropout_seed = int(rng.integers(2**31))
        for loss, _ in contrastive_losses(model, rows, alike, temperature, micro_batch, dropout_seed):
            yield loss, flops
            flops = 0

    @torch.no_grad()
    def evaluate():  # one batch of each, always the same
        with model.mode(training=False):
            both = []
            for some in (texts, val_texts):
                rows, alike = some.batch(np.arange(len(some.asks))[:batch_size])
                ((_, losses),) = contrastive_losses(model, rows, alike, temperature)
                both.append({size: loss.item() for size, loss in losses.items()})
            return both

    data = dict(pairs=digest(texts.ids), val_pairs=digest(val_texts.ids))
    data |= dict(temperature=temperature, micro_batch=micro_batch)
    return loop(model, settings, batch_loss, evaluate, data)
