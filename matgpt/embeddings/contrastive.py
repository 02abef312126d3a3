"""What makes a language model an embedding model: a question comes to lie near its answer."""

import math
import time

import numpy as np
import torch
import torch.nn.functional as F

from ..config import positive
from ..training.history import History
from ..training.optimizer import default_lr, learning_rate, make_optimizers
from ..training.price import corners
from ..training.progress import Progress
from ..training.run import DivergedError
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
    graphs, the gradient of each, then so many texts at a time again, for it to go into. None: at once.
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
        """Positions of a batch: each pair occurs once in an epoch; its last, incomplete batch is left out."""
        per, n = len(self.asks) // batch_size, len(self.asks)
        order = np.random.default_rng((seed, step // per)).permutation(n)
        return order[step % per * batch_size :][:batch_size]

    def batch(self, positions, rng=None):
        """2 B rows of ids, questions first, and who asks the same (B, B). rng crops at random, None ends."""
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

    The loss is the mean over the sizes (2205.13147) of the symmetric InfoNCE between means over tokens, with
    the batch's other pairs as counterexamples (2201.10005). Texts are read as they are: `pairs.plain()` is
    words alone. One of more than block_size tokens is cropped at random, anew each time (2112.09118).

    val_pairs: pairs to measure on, a batch of them; None: a batch of `pairs` (at most a tenth) is set aside.
    micro_batch: texts that are differentiated at once, for batches that do not fit in memory.
    All else, errors and Ctrl-C: as in `train`.
    """
    eval_interval = max(1, steps // 10) if eval_interval is None else eval_interval
    _check(steps, batch_size, eval_interval, micro_batch, temperature)
    if val_pairs is None:
        pairs, val_pairs = pairs.set_aside(min(batch_size, len(pairs) // 10), seed)
    if not 2 <= batch_size <= len(pairs):
        raise ValueError(f"batch_size={batch_size} must be from 2 to {len(pairs)}, the pairs to learn from")
    texts, val_texts = Texts(model, pairs, tokenizer), Texts(model, val_pairs, tokenizer)
    lr = default_lr(model.config) if lr is None else lr
    optimizers, history, done = make_optimizers(optimizer, model, lr, 0.1), History(model.sizes, lr=lr), 0
    loss = dict(temperature=temperature, micro_batch=micro_batch)
    run = None
    if checkpoint_dir is not None:
        settings = dict(steps=steps, batch_size=batch_size, lr=lr, seed=seed, optimizer=optimizer, **loss)
        settings["eval_interval"] = eval_interval
        run = RunState(checkpoint_dir, resume, model, texts.ids.numpy(), val_texts.ids.numpy(), **settings)
        if resume and (state := run.restore()):
            model.load_state_dict(state["model"])
            optimizers.load_state_dict(state["optimizer"])
            history, done = History.from_dict(state["history"]), state["step"]
    elif resume:
        raise ValueError("resume=True needs the checkpoint_dir to resume from")
    mode, read = model.training, corners(model.config, model.config.full)
    with Progress(steps, progress) as bar, torch.random.fork_rng():
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
                optimizers.set_lr(learning_rate(done / steps, lr, warmup=min(0.1, 20 / steps)))
                if not learn(model, texts, done, batch_size, seed, **loss):
                    raise DivergedError(f"step {done}: the loss is not finite with lr={lr:g}", history)
                with uninterrupted():
                    optimizers.step(read)
                    done += 1
                optimizers.zero_grad()
                history.seconds += time.monotonic() - started
                bar.reached(done)
        except KeyboardInterrupt:
            if run:
                run.save(done, model, optimizers, history)
        finally:
            optimizers.zero_grad()
            model.train(mode)
            if run:
                run.close()
    return history


def _check(steps, batch_size, eval_interval, micro_batch, temperature):
    numbers = dict(steps=steps, batch_size=batch_size, eval_interval=eval_interval, micro_batch=micro_batch)
    for name, value in numbers.items():
        if (name, value) != ("micro_batch", None):
            positive(name, value)
    if not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature!r} must be a number above 0")


def learn(model, texts, step, batch_size, seed, **loss):
    """The gradient of one step, which follows from seed and step alone; whether it is finite."""
    rng = np.random.default_rng((seed, step))
    rows, alike = texts.batch(texts.draw(step, batch_size, seed), rng)
    model.train()
    losses = contrastive_backward(model, rows, alike, seed=int(rng.integers(2**31)), **loss)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return torch.stack([norm, *losses]).isfinite().all()


@torch.no_grad()
def record(model, history, step, texts, batch_size, temperature):
    """Append the losses of a batch of training and one of validation pairs, always the same."""
    model.eval()
    some = [each.batch(np.arange(len(each.asks))[:batch_size]) for each in texts]
    train_losses, val_losses = (
        [x.item() for x in contrastive_backward(model, *s, temperature)] for s in some
    )
    with uninterrupted():
        history.add(step, dict(zip(model.sizes, zip(train_losses, val_losses))))
