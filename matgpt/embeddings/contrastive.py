"""What makes a language model an embedding model: a question comes to lie near its answer."""

import math
from numbers import Real

import numpy as np
import torch
import torch.nn.functional as F

from ..config import positive
from ..measure.shapes import flops_per_token
from ..training.loop import follow
from ..training.run import Run
from ..training.settings import check
from .pairs import Pairs
from .pooling import as_texts, pooled

PART = 64  # texts of about one length that run together


def info_nce(queries, documents, alike, temperature):
    """Symmetric InfoNCE, nats, of B pairs (B, d) each: each question against all documents, and the reverse.

    alike (B, B): pairs that ask the same, which are no counterexamples to one another.
    """
    scores = F.normalize(queries, dim=1) @ F.normalize(documents, dim=1).T / temperature
    scores = scores.masked_fill(alike, -math.inf)
    right = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def contrastive_backward(model, rows, alike, temperature, micro_batch=None, seed=0):
    """Add the gradient of the mean loss over the sizes of B pairs, and return {size: loss}.

    rows: 2 B rows of ids, questions first. micro_batch: gradient caching (2101.06983): all vectors without
    graphs, the gradient of each, then so many texts at a time again, for it to go into. None: at once.
    """
    trunks = list(dict.fromkeys(model.trunk_size(size) for size in model.sizes))
    learns = torch.is_grad_enabled()
    cached = learns and micro_batch is not None
    order = torch.tensor(sorted(range(len(rows)), key=lambda i: len(rows[i])))
    parts = order.split(micro_batch if cached else PART)

    def run(trunk, number):
        torch.manual_seed(seed + number)  # dropout is the same both times
        return pooled(model, [rows[i] for i in parts[number]], trunk)

    with torch.set_grad_enabled(learns and not cached):
        every = {t: torch.cat([run(t, n) for n in range(len(parts))])[order.argsort()] for t in trunks}
    if cached:
        every = {trunk: x.requires_grad_() for trunk, x in every.items()}
    halves = {trunk: x.chunk(2) for trunk, x in every.items()}  # questions and documents, (B, D) each
    losses = []
    for size in model.sizes:
        both = (x[:, : size.n_embd] for x in halves[model.trunk_size(size)])
        losses.append(info_nce(*both, alike, temperature))
    if learns:
        torch.stack(losses).mean().backward()
    for trunk in trunks if cached else ():
        for number, part in enumerate(parts):
            (run(trunk, number) * every[trunk].grad[part]).sum().backward()
    return {size: loss.detach() for size, loss in zip(model.sizes, losses)}


class Texts:
    """N pairs as rows of ids, of which batches are drawn."""

    def __init__(self, model, pairs, tokenizer):
        both = pairs.queries, pairs.documents
        self.queries, self.documents = (as_texts(texts, tokenizer) for texts in both)
        self.ids = torch.cat(self.queries + self.documents)
        model.check_ids(self.ids)
        first = {}  # the same number for the same question
        self.asks = torch.tensor([first.setdefault(query, i) for i, query in enumerate(pairs.queries)])
        self.longest, self.device = model.config.block_size, model.embedding.token.device

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, part):
        """Some of all ids, by which a run tells these texts from others."""
        return self.ids[part].numpy()

    def draw(self, step, batch_size, seed):
        """Positions of a batch: each pair occurs once in an epoch; its last, incomplete batch is left out."""
        per, n = len(self.asks) // batch_size, len(self.asks)
        order = np.random.default_rng((seed, step // per)).permutation(n)
        return order[step % per * batch_size :][:batch_size]

    def batch(self, positions, rng=None):
        """2 B rows of ids, questions first, and who asks the same (B, B). rng crops at random, None ends."""
        rows = [rows[i] for rows in (self.queries, self.documents) for i in positions]
        starts = [rng.integers(max(0, len(row) - self.longest) + 1) if rng else 0 for row in rows]
        rows = [row[start : start + self.longest] for row, start in zip(rows, starts)]
        asks = self.asks[positions]
        return rows, (asks[:, None] == asks).fill_diagonal_(False).to(self.device)


class ContrastiveRun(Run):
    """A run whose text is pairs, and whose loss is how well each question finds its document."""

    def backward(self, spent, rng):
        model, s = self.model, self.settings
        rows, alike = self.ids.batch(self.ids.draw(self.done, s["batch_size"], s["seed"]), rng)
        loss = dict(temperature=s["temperature"], micro_batch=s["micro_batch"])
        losses = contrastive_backward(model, rows, alike, seed=int(rng.integers(2**31)), **loss)
        trunks = {model.trunk_size(size) for size in model.sizes}
        passes = 3 if s["micro_batch"] is None else 4  # forward, and twice as much backward
        readout = 2 * model.config.vocab_size  # per dimension; no token is read out here
        blocks = sum(flops_per_token(model.config, trunk) - readout * trunk.n_embd for trunk in trunks)
        return losses, list(trunks), passes * blocks * sum(map(len, rows))

    @torch.no_grad()
    def losses(self, val_texts):
        """Of one batch each, always the same."""
        n, temperature = self.settings["batch_size"], self.settings["temperature"]
        some = [texts.batch(np.arange(len(texts.asks))[:n]) for texts in (self.ids, val_texts)]
        with self.model.mode(training=False):
            both = [contrastive_backward(self.model, *each, temperature) for each in some]
        return {size: [losses[size].item() for losses in both] for size in self.model.sizes}


def train_embeddings(
    model,
    pairs,
    tokenizer,
    steps=300,
    batch_size=256,
    lr=None,
    seed=0,
    *,
    val_pairs=None,
    temperature=0.05,
    micro_batch=None,
    optimizer="muon",
    eval_interval=None,
    progress=True,
    on_evaluation=None,
    checkpoint_dir=None,
    resume=False,
):
    """Teach every size which document answers which question; returns a `History` of losses in nats.

    The loss is the mean over the sizes (2205.13147) of the symmetric InfoNCE between means over tokens, with
    the batch's other pairs as counterexamples (2201.10005). Texts are read as they are: `pairs.plain()` is
    words alone. One of more than block_size tokens is cropped at random, anew each time (2112.09118).

    val_pairs: pairs to measure on, a batch of them; None: a batch of `pairs` (at most a tenth) is set aside.
    micro_batch: texts that are differentiated at once, for batches that do not fit in memory.
    All else, errors and Ctrl-C: as in `train`.
    """
    budget = dict(steps=positive("steps", steps), flops=None, batch_size=batch_size, seed=seed)
    moves = dict(lr=lr, optimizer=optimizer, dtype="float32", warmup=min(0.1, 20 / steps))
    moves |= dict(weight_decay=0.1, grad_clip=1.0)
    looks = dict(loss_weights=None, eval_interval=eval_interval, eval_blocks=1)
    settings = check(model, {**budget, **moves, **looks})
    if micro_batch is not None:
        micro_batch = positive("micro_batch", micro_batch)
    if not isinstance(temperature, Real) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature!r} must be a number above 0")
    given = {"pairs": pairs} if val_pairs is None else {"pairs": pairs, "val_pairs": val_pairs}
    for name, some in given.items():
        if not isinstance(some, Pairs):
            raise ValueError(f"{name}={some!r:.40} must be Pairs, as load_pairs makes them")
    settings |= dict(temperature=float(temperature), micro_batch=micro_batch)
    if val_pairs is None:
        pairs, val_pairs = pairs.set_aside(min(batch_size, len(pairs) // 10), seed)
    if not 2 <= batch_size <= len(pairs):
        raise ValueError(f"batch_size={batch_size} must be from 2 to {len(pairs)}, the pairs to learn from")
    run = ContrastiveRun(model, Texts(model, pairs, tokenizer), settings)
    val_texts = Texts(model, val_pairs, tokenizer)
    return follow(run, val_texts, progress, on_evaluation, checkpoint_dir, resume)
