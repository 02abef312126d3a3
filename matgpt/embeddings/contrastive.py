"""What makes an embedding model of a language model: a question shall lie nearer its own answer than all others."""

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
from ..training.state import RunState, uninterrupted
from .pooling import as_texts, cut, pooled

PART = 64  # texts of about one length that run together


def info_nce(queries, documents, alike, temperature):
    """Symmetric InfoNCE, nats, of B pairs (B, d) each: each question against all documents, and the reverse.

    alike (B, B): pairs that ask the same, which are no counterexamples to one another.
    """
    scores = cut(queries, queries.size(1)) @ cut(documents, documents.size(1)).T / temperature
    scores = scores.masked_fill(alike, -math.inf)
    right = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def contrastive_backward(model, rows, alike, temperature, micro_batch=None, seed=0):
    """Add the gradient of the mean loss over the sizes of B pairs, and return the losses, one for each size.

    rows: 2 B rows of ids, questions first. micro_batch: gradient caching (2101.06983): all vectors without
    graphs, the gradient of each, then so many texts at a time once more, for it to go into. None: at once.
    """
    trunks = list(dict.fromkeys(model.trunk_size(size) for size in model.sizes))
    cached, learns = micro_batch is not None, torch.is_grad_enabled()
    order = torch.tensor(sorted(range(len(rows)), key=lambda i: len(rows[i])))
    parts = order.split(micro_batch if cached else PART)

    def run(trunk, number):
        torch.manual_seed(seed + number)  # dropout is the same both times
        return pooled(model, [rows[i] for i in parts[number]], trunk)

    with torch.set_grad_enabled(learns and not cached):
        every = {t: torch.cat([run(t, n) for n in range(len(parts))])[order.argsort()] for t in trunks}
    if learns and cached:
        every = {trunk: x.requires_grad_() for trunk, x in every.items()}
    halves = {trunk: x.chunk(2) for trunk, x in every.items()}  # questions and documents, (B, D) each
    losses = []
    for size in model.sizes:
        both = (x[:, : size.n_embd] for x in halves[model.trunk_size(size)])
        losses.append(info_nce(*both, alike, temperature))
    if learns:
        torch.stack(losses).mean().backward()
    for trunk in trunks if learns and cached else ():
        for number, part in enumerate(parts):
            (run(trunk, number) * every[trunk].grad[part]).sum().backward()
    return [loss.detach() for loss in losses]


class Texts:
    """N pairs as rows of ids, of which batches are drawn."""

    def __init__(self, model, pairs, tokenizer):
        self.queries, self.documents = (
            as_texts(texts, tokenizer) for texts in (pairs.queries, pairs.documents)
        )
        self.ids = torch.cat(
            self.queries + self.documents
        )  # all of them, by which texts are told from others
        model.check_ids(self.ids)
        first = {query: i for i, query in reversed(list(enumerate(pairs.queries)))}
        self.asks = torch.tensor([first[query] for query in pairs.queries])
        self.longest, self.device = model.config.block_size, model.embedding.token.device

    def draw(self, step, batch_size, seed):
        """Positions of a batch: each pair occurs once in an epoch, whose last, incomplete batch is left out."""
        per, n = len(self.asks) // batch_size, len(self.asks)
        order = np.random.default_rng((seed, step // per)).permutation(n)
        return order[step % per * batch_size :][:batch_size]

    def batch(self, positions, rng=None):
        """2 B rows of ids, questions first, and which ask the same (B, B). rng crops long texts; None: their start."""
        start = lambda row: rng.integers(max(0, len(row) - self.longest) + 1) if rng else 0
        rows = [rows[i] for rows in (self.queries, self.documents) for i in positions]
        rows = [row[s : s + self.longest] for row in rows for s in (start(row),)]
        asks = self.asks[positions]
        return rows, ((asks[:, None] == asks).fill_diagonal_(False)).to(self.device)


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

    The loss is the mean over the sizes (2205.13147) of the symmetric InfoNCE with the batch's other pairs as
    counterexamples (2201.10005), between means over tokens. Texts are read as they are: give `pairs.plain()` for
    words alone. One of more than block_size tokens is cropped at random, anew each time (2112.09118).

    val_pairs: pairs to measure on, as many as a batch of them; None: a batch (at most a tenth) of `pairs` is set
        aside, and nothing is learnt from it.
    micro_batch: texts that are differentiated at once (gradient caching), for batches that do not fit in memory.
    lr, optimizer, eval_interval, progress, on_evaluation, checkpoint_dir, resume, errors, Ctrl-C: as in `train`.
    """
    steps, batch_size = positive("steps", steps), positive("batch_size", batch_size)
    eval_interval = positive("eval_interval", max(1, steps // 10) if eval_interval is None else eval_interval)
    if micro_batch is not None:
        positive("micro_batch", micro_batch)
    if not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature!r} must be a number above 0")
    if resume and checkpoint_dir is None:
        raise ValueError("resume=True needs the checkpoint_dir to resume from")
    if val_pairs is None:
        order, n = (
            np.random.default_rng(seed).permutation(len(pairs)),
            min(batch_size, max(1, len(pairs) // 10)),
        )
        pairs, val_pairs = pairs.take(order[n:]), pairs.take(order[:n])
    if not 2 <= batch_size <= len(pairs):
        raise ValueError(f"batch_size={batch_size} must be from 2 to {len(pairs)}, the pairs to learn from")
    texts, val_texts = Texts(model, pairs, tokenizer), Texts(model, val_pairs, tokenizer)
    lr = default_lr(model.config) if lr is None else lr
    optimizers = make_optimizers(optimizer, model, lr, 0.1)
    history, done, run = History(model.sizes, lr=lr), 0, None
    if checkpoint_dir is not None:
        settings = dict(steps=steps, batch_size=batch_size, lr=lr, seed=seed, temperature=temperature)
        settings |= dict(micro_batch=micro_batch, optimizer=optimizer, eval_interval=eval_interval)
        run = RunState(checkpoint_dir, resume, model, texts.ids.numpy(), val_texts.ids.numpy(), **settings)
        if resume and (state := run.restore()):
            model.load_state_dict(state["model"])
            optimizers.load_state_dict(state["optimizer"])
            history, done = History.from_dict(state["history"]), state["step"]
    with Progress(steps, history, progress) as bar, torch.random.fork_rng():
        try:
            while True:
                measure = (done % eval_interval == 0 or done == steps) and done not in history.steps
                if measure:
                    record(model, history, done, [texts, val_texts], batch_size, temperature)
                    bar.evaluated(history)
                    if on_evaluation:
                        on_evaluation(history)
                if run and (measure or run.due()):
                    run.save(done, model, optimizers, history)
                if done == steps:
                    break
                started = time.monotonic()
                rng = np.random.default_rng((seed, done))
                rows = texts.batch(texts.draw(done, batch_size, seed), rng)
                for group in optimizers.groups():
                    group["lr"] = learning_rate(done, steps, lr, warmup=min(20, steps // 10))
                model.train()
                losses = contrastive_backward(
                    model, *rows, temperature, micro_batch, int(rng.integers(2**31))
                )
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                if not torch.stack([norm, *losses]).isfinite().all():
                    raise DivergedError(f"step {done}: the loss is not finite with lr={lr:g}", history)
                with uninterrupted():
                    optimizers.step()
                    done += 1
                optimizers.zero_grad()
                history.seconds += time.monotonic() - started
                bar.stepped(done)
        except KeyboardInterrupt:
            if run:
                run.save(done, model, optimizers, history)
        finally:
            optimizers.zero_grad()
            model.eval()
    return history


@torch.no_grad()
def record(model, history, step, texts, batch_size, temperature):
    """Append the losses of a batch of training and one of validation pairs, always the same, to the history."""
    model.eval()
    some = [each.batch(np.arange(len(each.asks))[:batch_size]) for each in texts]
    train_losses, val_losses = (
        [x.item() for x in contrastive_backward(model, *s, temperature)] for s in some
    )
    with uninterrupted():
        history.steps.append(step)
        for size, train_loss, val_loss in zip(model.sizes, train_losses, val_losses):
            history.train[size].append(train_loss)
            history.val[size].append(val_loss)
