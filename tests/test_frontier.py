"""What dolls cost, which ones nothing beats, and the best for a budget."""

import math

import pytest
import torch

import matgpt
from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size
from matgpt.measure.shapes import Point, flops_per_token, mark_front

from .conftest import assert_refused

IDS = torch.arange(400) * 7 % 11


def tiny(nesting, variant=MatryoshkaGPT):
    torch.manual_seed(0)
    return variant(GPTConfig(11, block_size=8, n_embd=32, n_head=4, n_layer=3, nesting=nesting))


def test_lattice_has_every_width_depth_and_ratio_with_whole_heads():
    sizes = matgpt.lattice(n_embd=(32, 64), n_layer=(1, 2), head_size=16, n_inner_ratio=(1, 4))
    shapes = [(d, l, r) for d in (32, 64) for l in (1, 2) for r in (1, 4)]
    assert sizes == tuple(Size(d, d // 16, l, r * d) for d, l, r in shapes)
    assert_refused(r"n_embd=\(\) must be", matgpt.lattice, (), n_layer=(1,), head_size=8)
    assert_refused("n_embd=20 is not a multiple", matgpt.lattice, (20,), n_layer=(1,), head_size=8)


def test_an_output_only_model_always_pays_for_its_trunk():
    model = tiny((8, 16), MatryoshkaEmbeddingsGPT)
    small, _, full = matgpt.frontier(model, IDS)
    assert full.flops == flops_per_token(model.config)
    assert full.flops - small.flops == 2 * 11 * (32 - 8), "the readout alone is smaller"


def test_frontier_measures_what_evaluate_does():
    model = tiny((Size(8, 1, 1), Size(16, 2, 2))).double()
    points = matgpt.frontier(model, IDS)
    assert [p.size for p in points] == list(model.sizes)
    for point in points:
        assert point.loss == pytest.approx(matgpt.evaluate(model, IDS, point.size))
        assert point.params == model.num_params(point.size) == point.bytes / 8
        assert point.flops == flops_per_token(model.config, point.size)
    lines = str(points).splitlines()
    assert len(lines) == 3 and lines[0].startswith("8,1,1 ") and "1,040 parameters" in lines[0]


@pytest.mark.filterwarnings("error")
def test_frontier_measures_sizes_that_no_step_trained_and_warns_of_none(variant):
    model = tiny((16, 32), variant)
    (point,) = matgpt.frontier(model, IDS, [Size(24, 3, 2, (10, 20))], latency=True)
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


def test_best_size_says_to_measure_first():
    for points in (tiny(None), None, [Size(8, 1, 1)], [], [Point(Size(8, 1, 1), 1, 1, 1.0)]):
        assert_refused("frontier", matgpt.best_size, points, max_ms=6)
