"""The Matryoshka loss and the training loop."""
import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from .config import Size, positive
from .progress import Progress


class BySize(dict):
    """A dict keyed by Size that also answers to a width that names one of them."""

    def __missing__(self, key):
        found = [s for s in self if s.n_embd == key]
        if len(found) != 1:
            raise KeyError(f"{key!r} names {len(found)} of {list(self)}")
        return self[found[0]]


@dataclass
class History:
    """What `train` measured: one entry an evaluation in `steps` and in each list of `train` and `val`.

    Losses are mean cross-entropies in nats per token, by Size (or by a width that names one).
    """

    sizes: tuple[Size, ...]
    steps: list[int] = field(default_factory=list)
    train: dict[Size, list[float]] = None
    val: dict[Size, list[float]] = None
    lr: float = None
    seconds: float = 0.0

    def __post_init__(self):
        for name in ("train", "val"):
            if getattr(self, name) is None:
                setattr(self, name, BySize((size, []) for size in self.sizes))


class DivergedError(FloatingPointError):
    """A loss was not finite; `history` holds what was measured until then."""

    def __init__(self, message, history):
        super().__init__(message)
        self.history = history


def as_ids(ids, block_size, vocab_size=None, name="ids"):
    """Token ids (a list, tensor, array or memory map) as a 1-D numpy array, checked; a map is not loaded."""
    ids = np.asarray(ids)
    if ids.ndim != 1 or len(ids) <= block_size:
        raise ValueError(f"{name} has shape {ids.shape}: it must be one row of more than block_size={block_size} tokens")
    if vocab_size is not None and not 0 <= ids.min() <= ids.max() < vocab_size:
        worst = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"{name} holds token id {worst}, outside the vocabulary: allowed are 0 to {vocab_size - 1}")
    return ids


def batch(ids, starts, block_size, device):
    """Inputs and targets, each (B, T), of the blocks that begin at `starts` (B,)."""
    block = ids[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)
    block = torch.from_numpy(block)
    if device.type == "cuda":
        block = block.pin_memory().to(device, non_blocking=True)
    return block[:, :-1], block[:, 1:]


def cross_entropy(model, x, y, size=None):
    """Mean cross-entropy of one doll, nats per token."""
    return F.cross_entropy(model(x, size).flatten(0, 1), y.flatten())


def check_weights(loss_weights, sizes):
    """The weight of each size, summing to one. ValueError for a wrong number or sign."""
    weights = [1.0] * len(sizes) if loss_weights is None else [float(w) for w in loss_weights]
    if len(weights) != len(sizes) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ValueError(f"loss_weights={loss_weights!r} must be {len(sizes)} numbers of at least 0, not all 0: "
                         "one for each size")
    return [w / sum(weights) for w in weights]


def matryoshka_loss(model, x, y, loss_weights=None):
    """Weighted mean of the sizes' cross-entropies (2205.13147 equation 1), as one scalar to differentiate.

    For reading and for tests: `train` runs the sizes one by one, which has the same gradient and less memory.
    """
    weights = check_weights(loss_weights, model.sizes)
    return sum(w * cross_entropy(model, x, y, size) for w, size in zip(weights, model.sizes))


def matryoshka_backward(model, x, y, sizes, weights):
    """Add the gradient of the weighted mean loss; each size's graph is freed before the next is built.

    Peak memory is that of the largest doll alone. Returns the losses, one for each size.
    """
    losses = []
    for size, weight in zip(sizes, weights):
        loss = cross_entropy(model, x, y, size)
        (weight * loss).backward()
        losses.append(loss.detach())
    return losses


@torch.no_grad()
def evaluate(model, ids, size=None, max_blocks=None, batch_size=64):
    """Mean cross-entropy of one doll over `ids`, in nats per token.

    Reads blocks of block_size tokens that do not overlap: all of them, or `max_blocks` evenly spaced.
    Raises ValueError for a text shorter than one block or a size that does not fit.
    """
    T, device = model.config.block_size, model.embedding.token.device
    ids = as_ids(ids, T)
    starts = np.arange(0, len(ids) - T, T)
    if max_blocks is not None and max_blocks < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, positive("max_blocks", max_blocks)).astype(int)]
    was_training = model.training
    model.eval()
    try:
        total = 0.0
        for some in np.split(starts, range(batch_size, len(starts), batch_size)):
            total += cross_entropy(model, *batch(ids, some, T, device), size).item() * len(some)
        return total / len(starts)
    finally:
        model.train(was_training)


def make_optimizer(model, lr, weight_decay):
    """AdamW with nanoGPT's betas; matrices and embeddings decay, biases and norms do not."""
    decay = [p for name, p in model.named_parameters() if p.dim() >= 2 and not name.endswith("bias")]
    rest = [p for name, p in model.named_parameters() if p.dim() < 2 or name.endswith("bias")]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), fused=True)


def learning_rate(step, steps, lr, warmup):
    """Linear warm-up, then half a cosine down to a tenth."""
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    return lr * (0.55 + 0.45 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def default_lr(config):
    """Peak learning rate: 8e-3 at 128 wide was measured; wider models take less, in proportion."""
    return 1.024 / config.n_embd


def draw_sizes(sizes, weights, random_sizes, rng):
    """The sizes of one step: all, or smallest, largest and `random_sizes` others (1903.05134, section 3.2)."""
    if random_sizes is None or random_sizes >= len(sizes) - 2:
        return sizes, weights
    middle = rng.choice(np.arange(1, len(sizes) - 1), random_sizes, replace=False)
    drawn = [0, *sorted(middle), len(sizes) - 1]
    total = sum(weights[i] for i in drawn)
    return [sizes[i] for i in drawn], [weights[i] / total for i in drawn]


def train(model, train_ids, val_ids, steps=2000, batch_size=12, lr=None, seed=0, *, loss_weights=None,
          random_sizes=None, warmup=100, weight_decay=0.1, grad_clip=1.0, eval_interval=None, eval_blocks=256,
          progress=True, on_evaluation=None):
    """Train every doll of the nesting at once; returns a `History`.

    One step is the mean over the sizes of their cross-entropies on the same batch (batch_size x block_size
    tokens). Interrupting (Ctrl-C, or the notebook's stop button) returns the history so far.

    lr: peak learning rate, after `warmup` steps and before a cosine to a tenth; None: 1.024 / n_embd.
    seed: of batches and dropout; a run with the same seed repeats bit for bit on the same machine.
    loss_weights: a number for each size, smallest first; uniform if left out.
    random_sizes: a step trains the smallest, the largest and this many others drawn at random; None: all.
    eval_interval: steps between evaluations (default: a tenth of the run); each reads `eval_blocks` blocks
        of train and val, always the same.
    on_evaluation: called with the history after each evaluation.
    Raises ValueError for bad arguments before any work, DivergedError when a loss is not finite.
    """
    config, device, sizes = model.config, model.embedding.token.device, model.sizes
    steps, batch_size = positive("steps", steps), positive("batch_size", batch_size)
    eval_interval = positive("eval_interval", max(1, steps // 10) if eval_interval is None else eval_interval)
    weights = check_weights(loss_weights, sizes)
    train_ids = as_ids(train_ids, config.block_size, config.vocab_size, "train_ids")
    val_ids = as_ids(val_ids, config.block_size, config.vocab_size, "val_ids")
    lr = default_lr(config) if lr is None else lr
    optimizer = make_optimizer(model, lr, weight_decay)
    history = History(sizes, lr=lr)

    def record(step):
        history.steps.append(step)
        for size in sizes:
            history.train[size].append(evaluate(model, train_ids, size, eval_blocks))
            history.val[size].append(evaluate(model, val_ids, size, eval_blocks))
        bar.evaluated(history)
        if on_evaluation:
            on_evaluation(history)

    model.train()
    with Progress(steps, history, progress) as bar, torch.random.fork_rng():
        try:
            record(0)
            for step in range(steps):
                # all that is random in a step follows from seed and step alone
                rng = np.random.default_rng((seed, step))
                torch.manual_seed(int(rng.integers(2**31)))
                starts = rng.integers(len(train_ids) - config.block_size, size=batch_size)
                x, y = batch(train_ids, starts, config.block_size, device)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, steps, lr, warmup)
                losses = matryoshka_backward(model, x, y, *draw_sizes(sizes, weights, random_sizes, rng))
                if not all(loss.isfinite() for loss in losses):
                    raise DivergedError(f"step {step}: the loss is not finite with lr={lr:g}; try a smaller one", history)
                torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
                optimizer.step()
                optimizer.zero_grad()
                bar.stepped(step + 1)
                if (step + 1) % eval_interval == 0 or step + 1 == steps:
                    record(step + 1)
        except KeyboardInterrupt:
            optimizer.zero_grad()
    model.eval()
    return history
