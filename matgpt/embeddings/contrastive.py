"""What makes a language model an embedding model: a question comes to lie near its answer."""

import math
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from ..measure.shapes import flops_per_token
from ..sizes import number, positive
from ..training.checkpoint import digest
from ..training.loop import Settings, loop, processes, without
from .pairs import as_pairs
from .pooling import pooled, token_rows

PART = 64  # texts of about one length that run together


def info_nce(queries, documents, alike, temperature):
    """Return the symmetric InfoNCE, in nats, of B questions and their documents, (B, d) each.

    alike (B, B): pairs that ask the same, so neither is a counterexample to the other.
    """
    scores = F.normalize(queries, dim=1) @ F.normalize(documents, dim=1).T / temperature
    scores = scores.masked_fill(alike.to(scores.device), -math.inf)
    right = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def contrastive_losses(model, rows, alike, temperature, micro_batch=None, seed=0):
    """Return {size: InfoNCE} of B pairs, as 2 B rows of ids, questions first. seed: of dropout.

    micro_batch: so many texts run at a time, and again in the backward pass, so that only their graph is in
        memory (as in gradient caching, 2101.06983). None: all graphs are.
    """
    by_length = torch.tensor(list(map(len, rows))).argsort(stable=True)
    parts = by_length.split(micro_batch or PART)

    def run(trunk, number):
        torch.manual_seed(seed + number)  # dropout is the same both times
        return pooled(model, [rows[i] for i in parts[number]], trunk)

    @cache
    def vectors(trunk):
        call = run if micro_batch is None else partial(checkpoint, run, use_reentrant=False)
        return torch.cat([call(trunk, i) for i in range(len(parts))])[by_length.argsort()]  # (2 B, D)

    losses = {}
    for size in model.sizes:
        queries, documents = vectors(model.trunk_size(size))[:, : size.n_embd].chunk(2)  # (B, d) each
        losses[size] = info_nce(queries, documents, alike, temperature)
    return losses


def batch_of(pairs, rows, positions, block_size, rng=None):
    """Return 2 B rows of ids, questions first, and which of the B pairs ask the same (B, B).

    rows: ids of all questions and then of all documents. rng: crops long ones at random; None: at the start.
    """
    batch = []
    for i in [*positions, *(len(pairs) + i for i in positions)]:
        start = rng.integers(max(0, len(rows[i]) - block_size) + 1) if rng else 0
        batch.append(rows[i][start : start + block_size])
    queries = np.array([pairs.queries[i] for i in positions], dtype=object)
    return batch, torch.from_numpy(queries[:, None] == queries).fill_diagonal_(False)


@torch.inference_mode(False)  # which enables gradients, too
def train_embeddings(
    model, pairs, tokenizer, steps=None, batch_size=256, lr=None, seed=0, *, val_pairs=None, temperature=0.05,
    micro_batch=None, **options,
):  # fmt: skip
    """Teach every size which document answers which question; returns a `History` of losses in nats.

    The loss is the mean over the sizes (2205.13147) of the symmetric InfoNCE between means over tokens; the
    other pairs of the batch are the counterexamples (2201.10005). Longer texts than block_size are cropped at
    random, anew each time (2112.09118).

    pairs: two lists of texts, (queries, documents), or what `load_pairs` returns; a step reads batch_size.
    val_pairs: pairs to measure on, a batch of them; None: a batch of `pairs` (a tenth, or two) is set aside.
    temperature: divides the cosines. micro_batch: texts that are differentiated at once, for batches that do
        not fit into memory; None: all.
    steps: None: 300, unless there is a budget of flops.
    options: those of `Settings` except share and loss_weights, such as optimizer, checkpoint_dir and resume.
    Raises ValueError for bad arguments, and under torchrun; DivergedError when a loss is not finite.
    """
    options = dict(dtype="float32", warmup=0.1) | without(options, "share", "loss_weights")
    steps = 300 if steps is None and options.get("flops") is None else steps
    settings = Settings(steps, batch_size, lr, seed, **options)
    if micro_batch is not None:
        micro_batch = positive("micro_batch", micro_batch)
    number("temperature", temperature, "(0, inf)")
    if processes()[1] > 1:
        raise ValueError("train_embeddings runs in one process: each batch is one set of counterexamples")
    pairs = as_pairs("pairs", pairs)
    if val_pairs is None:
        order = np.random.default_rng(seed).permutation(len(pairs))
        n = max(2, min(batch_size, len(pairs) // 10))
        pairs, val_pairs = pairs.take(order[n:]), pairs.take(order[:n])
    val_pairs = as_pairs("val_pairs", val_pairs)
    if len({*val_pairs.queries}) < 2:
        raise ValueError("val_pairs asks one question: without another its loss is always 0")
    if not 2 <= batch_size <= len(pairs):
        most = f"the number of pairs to learn from, {len(pairs)}"
        raise ValueError(f"batch_size={batch_size} must be from 2 to {most}")
    rows, val_rows = (token_rows(model, p.queries + p.documents, tokenizer) for p in (pairs, val_pairs))
    config, trunks = model.config, {model.trunk_size(size) for size in model.sizes}
    blocks = sum(flops_per_token(config, trunk) for trunk in trunks)
    blocks -= 2 * config.vocab_size * sum(trunk.n_embd for trunk in trunks)  # no token is read out here
    passes = 3 if micro_batch is None else 4  # forward, and twice as much backward

    def batch_loss(step, progress, rng):
        epoch, number = divmod(step, len(pairs) // batch_size)  # a pair occurs at most once in an epoch
        order = np.random.default_rng((seed, epoch)).permutation(len(pairs))
        positions = order[number * batch_size :][:batch_size]
        batch, alike = batch_of(pairs, rows, positions, config.block_size, rng)
        dropout_seed = int(rng.integers(2**31))
        losses = contrastive_losses(model, batch, alike, temperature, micro_batch, dropout_seed)
        yield torch.stack(list(losses.values())).mean(), passes * blocks * sum(map(len, batch))

    @torch.no_grad()
    def losses_of(pairs, rows):  # on one batch, always the same
        batch, alike = batch_of(pairs, rows, range(min(batch_size, len(pairs))), config.block_size)
        with model.mode(training=False):
            losses = contrastive_losses(model, batch, alike, temperature)
        return {size: loss.item() for size, loss in losses.items()}

    def evaluate():
        return losses_of(pairs, rows), losses_of(val_pairs, val_rows)

    def described(rows):  # also where each text ends
        return digest(torch.cat([*rows, torch.tensor([*map(len, rows)])]))

    data = dict(temperature=temperature, micro_batch=micro_batch)
    data |= dict(pairs=described(rows), val_pairs=described(val_rows))
    return loop(model, settings, batch_loss, evaluate, data)
