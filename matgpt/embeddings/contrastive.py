"""The stage that makes a language model an embedding model: a question lies nearer its own answer than all others."""

import math
import time

import numpy as np
import torch
import torch.nn.functional as F

from ..config import positive
from ..training.history import History
from ..training.loop import DivergedError
from ..training.optimizer import default_lr, learning_rate, make_optimizers
from ..training.progress import Progress
from ..training.state import uninterrupted
from .pooling import as_texts, cut

PART = 64  # texts of about one length that run together


def info_nce(queries, documents, alike, temperature):
    """Symmetric InfoNCE, nats, of B pairs (B, d) each: every question against all documents, and the other way round.

    alike (B, B): pairs that ask the same, which are no counterexamples to one another.
    """
    scores = cut(queries, queries.size(1)) @ cut(documents, documents.size(1)).T / temperature
    scores = scores.masked_fill(alike, -math.inf)
    right = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def matryoshka_info_nce(vectors, sizes, alike, temperature):
    """The loss at each size, a list. vectors: {trunk: sums over tokens (2 B, D), questions first}; see `pooled`."""
    halves = {trunk: x.chunk(2) for trunk, x in vectors.items()}
    return [
        info_nce(*(half[:, : size.n_embd] for half in halves[trunk]), alike, temperature)
        for size, trunk in sizes.items()
    ]


def pooled(model, rows, trunks):
    """{trunk: the final residual of each of B rows of ids, summed over its tokens (B, D)}."""
    device = model.embedding.token.device
    idx = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(
        device
    )  # (B, T), causal: padding is unseen
    length = torch.tensor([len(row) for row in rows], device=device)
    real = torch.arange(idx.size(1), device=device) < length[:, None]
    return {trunk: (model.features(idx, trunk).float() * real[..., None]).sum(1) for trunk in trunks}


def contrastive_backward(model, rows, alike, temperature, micro_batch=None, seed=0):
    """Add the gradient of the mean loss over the sizes of B pairs, and return the losses, one for each size.

    rows: 2 B rows of ids, questions first. micro_batch: gradient caching (2101.06983): vectors first without
    graphs, then the gradient of each, then so many texts at a time once more, which it goes into. None: at once.
    """
    sizes = {size: model.trunk_size(size) for size in model.sizes}
    trunks = list(dict.fromkeys(sizes.values()))
    order = torch.tensor(sorted(range(len(rows)), key=lambda i: len(rows[i])))
    parts = order.split(PART if micro_batch is None else micro_batch)

    def run(number):
        torch.manual_seed(seed + number)  # dropout is the same both times
        return pooled(model, [rows[i] for i in parts[number]], trunks)

    with torch.set_grad_enabled(micro_batch is None and torch.is_grad_enabled()):
        found = [run(number) for number in range(len(parts))]
    vectors = {trunk: torch.cat([x[trunk] for x in found])[order.argsort()] for trunk in trunks}
    if micro_batch is not None:
        vectors = {trunk: x.requires_grad_() for trunk, x in vectors.items()}
    losses = matryoshka_info_nce(vectors, sizes, alike, temperature)
    if torch.is_grad_enabled():
        torch.stack(losses).mean().backward()
        for number, part in enumerate(parts if micro_batch is not None else ()):
            sum((x * vectors[trunk].grad[part]).sum() for trunk, x in run(number).items()).backward()
    return [loss.detach() for loss in losses]


class Texts:
    """Pairs as rows of ids, of which batches are drawn: long texts are cropped to block_size tokens, at random."""

    def __init__(self, model, pairs, tokenizer):
        self.rows = [as_texts(texts, tokenizer) for texts in (pairs.queries, pairs.documents)]
        model.check_ids(torch.cat([row for rows in self.rows for row in rows]))
        asked = {query: i for i, query in enumerate(pairs.queries)}
        self.asks = torch.tensor([asked[query] for query in pairs.queries])
        self.longest, self.device = model.config.block_size, model.embedding.token.device

    def __len__(self):
        return len(self.asks)

    def ids(self):
        """All ids as one row, by which one corpus is told from another."""
        return torch.cat([row for rows in self.rows for row in rows]).numpy()

    def batch(self, positions, rng=None):
        """2 B rows of ids, questions first, and which pairs ask the same (B, B); without rng texts keep their start."""
        rows = [rows[i] for rows in self.rows for i in positions]
        start = lambda row: rng.integers(max(0, len(row) - self.longest) + 1) if rng else 0
        rows = [row[s : s + self.longest] for row in rows for s in [start(row)]]
        asks = self.asks[positions]
        alike = (asks[:, None] == asks) & ~torch.eye(len(asks), dtype=torch.bool)
        return rows, alike.to(self.device)


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
    weight_decay=0.1,
    grad_clip=1.0,
    warmup=20,
    eval_interval=None,
    progress=True,
    on_evaluation=None,
    checkpoint_dir=None,
    resume=False,
):
    """Teach every size which document answers which question; returns a `History` of losses in nats.

    The loss is the mean over the sizes (2205.13147) of the symmetric InfoNCE with the batch's other pairs as
    counterexamples (2201.10005), between means over tokens. Texts are read as they are: give `pairs.plain()` for
    words alone. One of more than block_size tokens is cropped at random, anew each time (2112.09118).

    val_pairs: pairs to measure on, as many as a batch of them; None: a batch (at most a tenth) of `pairs` is set
        aside, and nothing is learnt from it.
    micro_batch: texts that are differentiated at once (gradient caching), for batches that do not fit into memory.
    lr, optimizer, weight_decay, grad_clip, warmup, progress, on_evaluation, checkpoint_dir, resume, errors and
        Ctrl-C are as in `train`.
    """
    steps, batch_size = positive("steps", steps), positive("batch_size", batch_size)
    eval_interval = positive("eval_interval", max(1, steps // 10) if eval_interval is None else eval_interval)
    order = np.random.default_rng(seed).permutation(len(pairs))
    if val_pairs is None:
        n = min(batch_size, max(1, len(pairs) // 10))
        pairs, val_pairs = pairs.take(order[n:]), pairs.take(order[:n])
    train_texts, val_texts = (Texts(model, some, tokenizer) for some in (pairs, val_pairs))
    if not 2 <= batch_size <= len(train_texts):
        raise ValueError(
            f"batch_size={batch_size} must be from 2 to {len(train_texts)}, the pairs to learn from"
        )
    lr = default_lr(model.config) if lr is None else lr
    optimizers, history, done = (
        make_optimizers(optimizer, model, lr, weight_decay),
        History(model.sizes, lr=lr),
        0,
    )
    measured = [texts.batch(np.arange(len(texts))[:batch_size]) for texts in (train_texts, val_texts)]

    def record():
        model.eval()
        with torch.no_grad():
            losses = [contrastive_backward(model, *some, temperature) for some in measured]
        model.train()
        history.steps.append(done)
        for size, train_loss, val_loss in zip(model.sizes, *losses):
            history.train[size].append(train_loss.item())
            history.val[size].append(val_loss.item())
        bar.evaluated(history)
        if on_evaluation:
            on_evaluation(history)

    model.train()
    with Progress(steps, history, progress) as bar, torch.random.fork_rng():
        try:
            while True:
                if (done % eval_interval == 0 or done == steps) and done not in history.steps:
                    record()
                if done == steps:
                    break
                started = time.monotonic()
                rng = np.random.default_rng((seed, done))
                per = len(train_texts) // batch_size
                epoch = np.random.default_rng((seed, 1, done // per)).permutation(len(train_texts))
                b = epoch[done % per * batch_size :][:batch_size]
                for group in optimizers.groups():
                    group["lr"] = learning_rate(done, steps, lr, warmup)
                losses = contrastive_backward(
                    model, *train_texts.batch(b, rng), temperature, micro_batch, int(rng.integers(2**31))
                )
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip or math.inf)
                if not torch.stack([norm, *losses]).isfinite().all():
                    raise DivergedError(f"step {done}: the loss is not finite with lr={lr:g}", history)
                with uninterrupted():
                    optimizers.step()
                    done += 1
                optimizers.zero_grad()
                history.seconds += time.monotonic() - started
                bar.stepped(done)
        except KeyboardInterrupt:
            pass
        finally:
            optimizers.zero_grad()
            model.eval()
    return history
