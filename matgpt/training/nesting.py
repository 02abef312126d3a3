"""Nest a GPT-2 that is trained already: what matters moves to the front, then dolls learn from the whole."""

import dataclasses

import numpy as np
import torch

from ..files.checkpoint import load, unwrapped
from ..files.gpt2 import import_gpt2, is_gpt2
from ..measure.evaluation import cross_entropy, precision
from ..measure.shapes import flops_per_token
from ..model import MatryoshkaGPT
from ..text.batches import as_ids, batch
from .loop import follow
from .optimizer import default_lr
from .price import price
from .run import Run
from .schedule import Schedule
from .settings import check

SHARE = 0.3  # of the FLOPs of a step of the full doll, for each doll
BATCHES = 16  # by which importance is measured, of 256 tokens or a block

AXES = {  # what each axis of a weight counts: d dimensions of the residual, h heads, f hidden units; . stays
    "embedding.token": ".D",  # a capital: where the weight reads them
    "embedding.position": ".d",
    "qkv.weight": ".h.D",
    "qkv.bias": ".h.",
    "attention.proj.weight": "dH.",
    "expand.weight": "fD",
    "expand.bias": "f",
    "feedforward.proj.weight": "dF",
}  # all else is a prefix of d


def axes(name):
    """(axis, key, whether it is read) for a parameter; keys of heads and units name their layer: "0.h"."""
    kinds = next((kinds for end, kinds in AXES.items() if name.endswith(end)), "d")
    of = lambda kind: kind if kind == "d" else f"{name.split('.')[1]}.{kind}"
    return [(i, of(kind.lower()), kind.isupper()) for i, kind in enumerate(kinds) if kind != "."]


def importance(model, ids, seed=0):
    """{"d": (D,), "0.h": (H,), "0.f": (F,), ...}: how the loss would move without each.

    The mean square, over small batches, of the first-order guess: the sum of weight x gradient over the
    weights that read that dimension of the residual, head, or hidden unit (1906.10771).
    """
    T, scores, rng = model.config.block_size, {}, np.random.default_rng(seed)
    batch_size = max(1, 256 // T)
    for _ in range(BATCHES):
        starts = rng.integers(len(ids) - T, size=batch_size)
        cross_entropy(model, *batch(ids, starts, T, model.embedding.token.device)).backward()
        moved = {}
        for name, p in model.named_parameters():
            for axis, key, reads in axes(name):
                if reads:
                    change = (p.detach() * p.grad).movedim(axis, 0).flatten(1).sum(1)
                    moved[key] = moved.get(key, 0) + change
        scores = {key: scores.get(key, 0) + change**2 / BATCHES for key, change in moved.items()}
        model.zero_grad()
    return scores


@torch.no_grad()
def reorder(model, scores):
    """Move what scores high to the front, in all weights at once: the full doll computes what it did."""
    orders = {key: score.argsort(descending=True, stable=True) for key, score in scores.items()}
    for name, p in model.named_parameters():
        for axis, key, _ in axes(name):
            p.copy_(p.index_select(axis, orders[key]))


class Turns(Schedule):
    """All dolls from the first step to the last, since the full one is grown.

    Each gets the same FLOPs, SHARE of a step of the full one, or less where that is a whole batch, which the
    cheapest always reads. From a range it draws as `train` does.
    """

    def share(self, trunk):
        """The share of a batch that a trunk reads."""
        return min(1, max(self.prices[0], SHARE * self.prices[-1]) / price(self.model, trunk))

    def draw(self, spent, rng):
        trunks = self.stand_in(rng) if self.of_range else self.trunks
        return [(trunk, self.share(trunk)) for trunk in reversed(trunks)]


class Lesson(Run):
    """A run in which all dolls of a step read one batch, and learn what the teacher foretells there."""

    def __init__(self, model, teacher, ids, settings):
        super().__init__(model, ids, settings)
        self.teacher, self.schedule = teacher, Turns(model, model.sizes)

    def weights(self, counts):
        """All dolls weigh alike, however much they read."""
        return {size: 1 / self.schedule.share(trunk) for trunk, _ in counts for size in trunk}

    def parts(self, counts, rng):
        most = max(n for _, n in counts)
        x, _ = self.read(most, rng)
        with torch.no_grad(), precision(self.device, self.settings["dtype"]):
            y = self.teacher(x).float().softmax(-1)
        self.history.spent += flops_per_token(self.model.config) * most * x.size(1)
        mine = [(trunk, len(range(self.rank, n, self.world))) for trunk, n in counts]
        return [(trunk, x[:n], y[:n]) for trunk, n in mine if n]


def nest(
    model_or_path,
    nesting,
    train_ids,
    val_ids,
    steps=None,
    *,
    flops=None,
    batch_size=6,
    lr=None,
    seed=0,
    dtype=None,
    eval_interval=None,
    eval_blocks=256,
    progress=True,
    on_evaluation=None,
):
    """A nested model whose full doll is the given GPT-2, nearly; its `history` is an attribute.

    model_or_path: a MatryoshkaGPT, which is left as it is; or a folder that `save` kept, or a GPT-2 of
        transformers, as `import_gpt2` reads it. It is the teacher: what all dolls learn are its predictions.
    nesting: the dolls, as in `GPTConfig`. They begin as corners of the model, once its heads, hidden units
        and dimensions stand in the order of their importance. Dropout is 0.
    steps, flops: the budget, as in `train`; the teacher's passes count.
    lr: peak learning rate of AdamW; None: a quarter of that of `train`.
    All else is as in `train`, and so are the errors.
    """
    teacher = model_or_path
    if not isinstance(teacher, torch.nn.Module):
        teacher = import_gpt2(teacher) if is_gpt2(teacher) else load(teacher)[0]
    teacher, weights = unwrapped(teacher)
    if not isinstance(teacher, MatryoshkaGPT):
        raise ValueError(f"model_or_path is a {type(teacher).__name__}: only a MatryoshkaGPT holds dolls")
    config = dataclasses.replace(teacher.config, nesting=nesting, dropout=0.0)
    T, V = config.block_size, config.vocab_size
    train_ids, val_ids = as_ids(train_ids, T, V, "train_ids"), as_ids(val_ids, T, V, "val_ids")
    model = MatryoshkaGPT(config).to(teacher.embedding.token)
    model.load_state_dict(weights)
    lr = default_lr(config) / 4 if lr is None else lr
    budget = dict(steps=steps, flops=flops, batch_size=batch_size, seed=seed)
    moves = dict(lr=lr, optimizer="adamw", dtype=dtype, warmup=0.05, weight_decay=0.0, grad_clip=1.0)
    looks = dict(loss_weights=None, eval_interval=eval_interval, eval_blocks=eval_blocks)
    settings = check(model, {**budget, **moves, **looks})
    reorder(model, importance(model, train_ids, seed))
    run = Lesson(model, teacher, train_ids, settings)
    run.history.spent = 3 * flops_per_token(config) * BATCHES * max(256 // T, 1) * T
    with teacher.mode(training=False):
        model.history = follow(run, val_ids, progress, on_evaluation)
    return model.eval()
