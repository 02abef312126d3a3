"""Losses of dolls on a text, how well they agree with the full one, what they cost, the best for a budget."""

import math

import pytest
import torch

import matgpt
from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, agreement, evaluate
from matgpt.measure import evaluation
from matgpt.measure.evaluation import BySize, evaluate_sizes
from matgpt.measure.shapes import Point, flops_per_token, mark_front

from .conftest import assert_refused, random_model

SIZES = (Size(8, 1, 1), Size(16, 2, 2))
TEXT = torch.randint(13, (8 * 21 + 5,), generator=torch.Generator().manual_seed(0))


def make(kind=MatryoshkaGPT, nesting=SIZES, dropout=0.0):
    return random_model(kind, GPTConfig(13, 8, 32, 4, 3, nesting=nesting, dropout=dropout)).float()


@torch.no_grad()
def test_agreement_by_its_definition(variant):
    model = make(variant, dropout=0.5)
    result = agreement(model, TEXT.tolist(), max_blocks=None)
    loss = evaluate(model, TEXT)
    assert model.training and list(result) == list(model.sizes)
    assert loss == evaluate(model.eval(), TEXT), "without dropout"
    idx = TEXT[: 8 * 21].view(21, 8)
    p = model(idx).softmax(-1)
    for size in model.sizes:
        q = model(idx, size).softmax(-1)
        assert result[size].same == pytest.approx((q.argmax(-1) == p.argmax(-1)).double().mean().item())
        assert result[size].kl == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), abs=1e-5)
    assert result[32] == (1.0, 0.0) and result[8].same < 1 and result[8].kl > 0.01


def test_max_blocks_reads_evenly_spaced_blocks_and_checks_no_others():
    model = make()
    first_and_last = torch.cat([TEXT[:8], TEXT[20 * 8 : 21 * 8 + 1]])
    assert agreement(model, TEXT, max_blocks=2)[8] == pytest.approx(agreement(model, first_and_last)[8])
    damaged = torch.cat([TEXT[:9], torch.full((100,), 13)])
    assert agreement(model, damaged, max_blocks=1) == agreement(model, TEXT[:9])


@pytest.mark.parametrize("function", [agreement, evaluate])
def test_bad_arguments_are_named(function):
    assert_refused("ids has shape", function, make(), TEXT[:8])
    assert_refused("token id 13", function, make(), [0] * 16 + [13])
    assert_refused("max_blocks=0", function, make(), TEXT, max_blocks=0)


def test_half_precision_is_measured_as_finely_as_single():
    """A mean over bfloat16 losses would be rounded to 1/64 nat."""
    model = make().bfloat16()
    logits = model.eval()(TEXT[: 8 * 21].view(21, 8)).flatten(0, 1)
    exact = torch.nn.functional.cross_entropy(logits.double(), TEXT[1 : 8 * 21 + 1]).item()
    assert evaluate(model, TEXT) == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("kind, batch", [(MatryoshkaGPT, 6), (MatryoshkaEmbeddingsGPT, 2)])
def test_dolls_of_a_trunk_share_its_pass_and_its_logits_fit_in_memory(kind, batch, monkeypatch):
    """The losses stay the same, with no more logits at once than allowed: here those of six blocks."""
    model, batches = make(kind, nesting=(8, 16)), []
    losses = [evaluate(model, TEXT, size) for size in model.sizes]
    monkeypatch.setattr(evaluation, "MOST_LOGITS", 6 * 8 * 13 + 1)
    model.register_forward_pre_hook(lambda model, args: batches.append(len(args[0])))
    assert list(evaluate_sizes(model, TEXT).values()) == pytest.approx(losses, abs=1e-6)
    assert max(batches) == batch and sum(batches) == 21 * (3 if kind is MatryoshkaGPT else 1)
    agreement(model, TEXT)
    assert max(batches) == batch


def test_by_size_takes_a_width_that_names_one_size():
    losses = BySize({Size(8, 1, 1): 3.0, Size(16, 1, 1): 2.0, Size(16, 2, 1): 1.0})
    assert losses[8] == losses.get(8) == losses.get(Size(8, 1, 1)) == 3.0 and 8 in losses
    assert losses.get(16) is None and losses.get(9, 0) == 0 and 16 not in losses and 9 not in losses
    with pytest.raises(KeyError, match="16 names 2 of"):
        losses[16]


# ---- what dolls cost, and which ones nothing beats
def test_lattice_has_every_width_depth_and_ratio_with_whole_heads():
    sizes = matgpt.lattice(n_embd=(32, 64), n_layer=(1, 2), head_size=16, n_inner_ratio=(1, 4))
    shapes = [(d, l, r) for d in (32, 64) for l in (1, 2) for r in (1, 4)]
    assert sizes == tuple(Size(d, d // 16, l, r * d) for d, l, r in shapes)
    assert_refused(r"n_embd=\(\) must be", matgpt.lattice, (), n_layer=(1,), head_size=8)
    assert_refused("n_embd=20 is not a multiple", matgpt.lattice, (20,), n_layer=(1,), head_size=8)


def test_an_output_only_model_always_pays_for_its_trunk():
    model = make(MatryoshkaEmbeddingsGPT, nesting=(8, 16))
    small, _, full = matgpt.frontier(model, TEXT)
    assert full.flops == flops_per_token(model.config)
    assert full.flops - small.flops == 2 * 13 * (32 - 8), "the readout alone is smaller"


def test_frontier_measures_what_evaluate_does():
    model = make().double()
    points = matgpt.frontier(model, TEXT)
    assert [p.size for p in points] == list(model.sizes)
    for point in points:
        assert point.loss == pytest.approx(matgpt.evaluate(model, TEXT, point.size))
        assert point.params == model.num_params(point.size) == point.bytes / 8
        assert point.flops == flops_per_token(model.config, point.size)
    lines = str(points).splitlines()
    assert len(lines) == 3 and lines[0].startswith("8,1,1 ") and "1,056 parameters" in lines[0]


@pytest.mark.filterwarnings("error")
def test_frontier_measures_sizes_that_no_step_trained_and_warns_of_none(variant):
    model = make(variant, nesting=(16, 32))
    (point,) = matgpt.frontier(model, TEXT, [Size(24, 3, 2, (10, 20))], latency=True)
    assert point.size == Size(24, 3, 2, (10, 20)) and point.ms > 0 and model.training


def test_front_and_best_size_by_hand():
    damaged, a, b, c, d = (Size(n, 1, 1) for n in (4, 8, 16, 24, 32))
    costs = {d: (400, 40, 1.0), a: (100, 10, 3.0), b: (200, 30, 2.0), c: (300, 30, 2.5)}
    costs[damaged] = 1, 1, math.nan
    points = [Point(size, *cost, ms=cost[1] / 10, bytes=4 * cost[0]) for size, cost in costs.items()]
    points = mark_front(points)
    assert [p.size for p in points] == [damaged, a, b, c, d]
    assert [p.size for p in points if p.on_front] == [a, b, d]
    assert matgpt.best_size(points) == d
    assert matgpt.best_size(points, max_bytes=4 * 350) == matgpt.best_size(points, max_params=350) == b
    assert matgpt.best_size(points, max_flops=29) == a and matgpt.best_size(points, max_ms=3) == b
    assert matgpt.best_size(points, max_params=150, max_flops=30) == a
    assert_refused("no doll fits max_flops=5: the least is 10", matgpt.best_size, points, max_flops=5)
    assert_refused("every loss is NaN", matgpt.best_size, points[:1])
    # what was not measured
    for points in (make(), None, [Size(8, 1, 1)], [], [Point(Size(8, 1, 1), 1, 1, 1.0)]):
        assert_refused("frontier", matgpt.best_size, points, max_ms=6)
