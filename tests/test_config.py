"""Size and GPTConfig: what they fill in, how they count, what they refuse."""

import dataclasses
import json
import random
from collections import Counter

import numpy as np
import pytest

import matgpt
from matgpt import GPTConfig, MatryoshkaGPT, Size
from matgpt.ranges import pick

from .conftest import assert_refused


def config(**changes):
    return GPTConfig(**dict(vocab_size=65, block_size=8, n_embd=32, n_head=4, n_layer=2) | changes)


def test_size_fills_in_n_inner_and_is_one_value():
    assert Size(8, 2, 3).n_inner == 32
    assert Size(8, 2, 3, 5) == Size(8, 2, 3, (5, 5, 5)) == Size(8, 2, 3, [5, 5, 5]), "lists come from JSON"
    assert len({Size(8, 2, 3), Size(8, 2, 3, 32)}) == 1
    numbers = np.arange(1, 4)
    plain = vars(Size(numbers[2], numbers[1], numbers[2], tuple(numbers)))
    assert json.loads(json.dumps(plain)) == dict(n_embd=3, n_head=2, n_layer=3, n_inner=[1, 2, 3])


def test_size_as_text():
    sizes = Size(64, 2, 2), Size(64, 2, 2, 100), Size(64, 2, 2, (5, 7))
    assert list(map(str, sizes)) == ["64,2,2", "64,2,2,100", "64,2,2,5/7"]
    assert sizes == tuple(map(Size.parse, map(str, sizes)))


def test_a_width_keeps_heads_and_layers_and_cuts_the_feedforward_in_proportion():
    sizes = config(nesting=(8, 16), n_inner=(64, 32)).sizes
    assert sizes == (Size(8, 4, 2, (16, 8)), Size(16, 4, 2, (32, 16)), Size(32, 4, 2, (64, 32)))


@pytest.mark.parametrize("n_embd, n_head", [(10, 2), (2, 2), (7, 1), (1, 1), (8, 4), (9, 3)])
def test_a_width_keeps_the_most_heads_that_divide_it(n_embd, n_head):
    assert config(nesting=(n_embd,)).sizes[0].n_head == n_head
    assert config(n_inner=16).width(1).n_inner == 1


def test_full_size_always_belongs_and_comes_last():
    full = config().full
    assert config().sizes == (full,)
    assert config(nesting=(32,)).sizes == config(nesting=[full]).sizes == (full,)
    assert config(nesting=(16, 8)).sizes == config(nesting=np.array([8, 16, 32])).sizes
    assert config(nesting=(w for w in (8, 16))).sizes[-1] == full


def test_the_order_of_sizes_does_not_depend_on_how_they_were_given():
    """loss_weights go by place, so a saved and loaded nesting must come back in the same order."""
    sizes = [Size(16, 4, 2, n) for n in [(1, 6), (6, 1), (2, 5), (5, 2), (3, 4)]]  # all of the same price
    sizes += [Size(16, 2, 2), Size(32, 4, 1), Size(8, 2, 1)]
    sizes += [Size(12, 1, 1), Size(10, 1, 2)]  # the narrower one is larger
    expected = config(nesting=sizes).sizes
    assert list(expected) == sorted(expected, key=config(nesting=sizes).num_params)
    for seed in range(10):
        assert config(nesting=random.Random(seed).sample(sizes, len(sizes))).sizes == expected
    assert config(nesting=expected).sizes == expected


def test_resolve():
    c = config(nesting=(8, Size(16, 4, 1), 16))
    assert c.resolve() == c.resolve(32) == c.full
    assert c.resolve(8) == c.resolve(np.int64(8)) == Size(8, 4, 2)
    assert c.resolve(Size(5, 1, 1, 3)) == Size(5, 1, 1, 3), "a Size needs no place in the nesting"


def test_num_params_counts_the_parameters_of_the_slice(drawn):
    assert GPTConfig(50257, 1024, 768, 12, 12).num_params() == 124_439_808, "as published for GPT-2"
    model = MatryoshkaGPT(drawn.config)
    for size in (None, drawn.size, drawn.inner):
        assert model.num_params(size) == sum(p.numel() for p in model.slice(size).parameters())


def test_replace_derives_anew_what_was_not_given():
    base = GPTConfig(65)
    assert dataclasses.replace(base, n_layer=6).sizes == (Size(128, 4, 6),)
    wide = dataclasses.replace(GPTConfig(65, nesting=(32,)), n_embd=256)
    assert wide.full == Size(256, 4, 4, 1024) and wide.full_head_size == 64
    assert wide.sizes == (Size(32, 4, 4, 128), Size(256, 4, 4, 1024))
    assert dataclasses.replace(GPTConfig(65, n_inner=7), n_embd=256).full.n_inner == 7


def test_a_size_covers_those_that_are_larger_on_no_axis():
    large = Size(16, 2, 2, (17, 5))
    assert large.covers(large) and large.covers(Size(8, 2, 1, 17)) and large.covers(Size(8, 1, 2, 5))
    for small in (Size(17, 1, 1, 4), Size(8, 3, 1, 4), Size(8, 1, 3, 4), Size(8, 1, 1, 18), Size(8, 1, 2, 6)):
        assert not large.covers(small)


# ---- bad values
@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "8", None, 2**63])
@pytest.mark.parametrize("name", ["vocab_size", "block_size", "n_embd", "n_head", "n_layer"])
def test_a_number_of_the_shape_is_whole_and_positive(name, bad):
    message = f"{name}={bad!r} must be a whole number of at least 1"
    assert_refused(message, config, **{name: bad})
    if name in vars(Size(1, 1, 1)):
        assert_refused(message, Size, **{**dict(n_embd=8, n_head=1, n_layer=1), name: bad})


def test_bad_config():
    assert_refused("nesting=.*is empty.*at least one", config, nesting=())
    assert_refused(r"nesting=\(8, 16, 8\) names .*n_embd=8.* twice", config, nesting=(8, 16, 8))
    assert_refused("names .*n_embd=8.* twice", config, nesting=(8, Size(8, 4, 2)))
    assert_refused("n_embd=64.* does not fit: no axis may be larger", config, nesting=(64,))
    assert_refused("does not fit: its n_head must divide", config, nesting=(Size(10, 4, 2),))
    assert_refused("n_embd='8' must be a whole number of at least 1", config, nesting=("8",))
    assert_refused("nesting=16 must be a sequence", config, nesting=16)
    assert_refused("nesting='16' must be a sequence", config, nesting="16")
    assert_refused("n_embd=30 must be a multiple of n_head=4", config, n_embd=30)
    assert_refused(r"n_inner=\(64,\) needs one entry for each of 2 layers", config, n_inner=(64,))
    assert_refused(r"n_inner=\(\) needs one entry for each of 2 layers", config, n_inner=())
    assert_refused("n_inner=0 must be a whole number of at least 1", config, n_inner=(64, 0))
    assert_refused("head_size=0 must be a whole number of at least 1", config, head_size=0)
    assert_refused("head_size=9 may be at most .* 8", config, head_size=9)
    assert_refused(r"dropout=1.0 must be a number in \[0, 1\)", config, dropout=1.0)
    assert_refused(r"dropout=-0.1 must be a number in \[0, 1\)", config, dropout=-0.1)
    assert_refused("bias=None must be True or False", config, bias=None)


# ---- a range in the place of names

RANGES = {
    "every dimension": (Size(32, 1, 1), Size(128, 4, 4)),
    "width alone": (Size(8, 4, 4), Size(128, 4, 4)),
    "depth alone": (Size(128, 4, 1), Size(128, 4, 4)),
    "feedforward alone": (Size(128, 4, 4, 32), Size(128, 4, 4)),
    "a narrow feedforward": (Size(32, 1, 1, 64), Size(128, 4, 4, 320)),
    "not up to the full one": (Size(24, 1, 2, 24), Size(96, 3, 3), 12),
    "heads that seldom divide": (Size(24, 2, 1), Size(126, 3, 2), 3),
}


@pytest.fixture(params=RANGES.values(), ids=RANGES)
def ranged(request):
    """A config whose nesting is a range."""
    nesting = matgpt.between(*request.param)
    seldom = nesting.largest.n_embd == 126
    return GPTConfig(65, n_embd=126 if seldom else 128, n_head=3 if seldom else 4, nesting=nesting)


@pytest.mark.slow
def test_every_size_that_is_drawn_fits_and_all_of_the_range_is_drawn(ranged):
    rng, nesting = np.random.default_rng(0), ranged.nesting
    low, high, least, most = nesting.smallest, nesting.largest, *nesting.inner_ratios
    drawn = [ranged.draw(rng) for _ in range(3000)]
    for size in drawn:
        assert ranged.fit(size) is size and high.covers(size)
        assert round(least * size.n_embd) <= size.n_inner <= round(most * size.n_embd)
    widths, heads, depths = ({getattr(s, axis) for s in drawn} for axis in ("n_embd", "n_head", "n_layer"))
    every_width = range(low.n_embd, high.n_embd + 1, nesting.multiple_of)
    assert {low.n_embd, high.n_embd} <= widths <= {*every_width}
    assert widths == {*every_width} or ranged.n_head == 3, "three heads do not divide every width"
    assert heads == {*range(low.n_head, high.n_head + 1)}
    assert depths == {*range(low.n_layer, high.n_layer + 1)}


def test_every_width_and_depth_and_number_of_heads_is_drawn_as_often():
    c, rng = GPTConfig(65, nesting=matgpt.between(*RANGES["every dimension"])), np.random.default_rng(0)
    drawn = [c.draw(rng) for _ in range(4000)]
    for axis, values in (("n_embd", range(32, 129, 8)), ("n_layer", range(1, 5))):
        counts = [sum(getattr(size, axis) == value for size in drawn) for value in values]
        assert max(counts) < 1.4 * 4000 / len(values) and min(counts) > 0.6 * 4000 / len(values)
    assert Counter(pick([1, 2, 4], share) for share in np.linspace(0, 1, 301)) == {1: 100, 2: 100, 4: 101}


def test_a_feedforward_has_a_hidden_unit_at_least():
    """Where that of the largest is so narrow that its ratio rounds to none at a small width."""
    nesting = matgpt.between(Size(8, 1, 1, 4), Size(128, 4, 4, 4))
    assert nesting.at(32, 0, 0, 0, nesting.inner_ratios[0]).n_inner == 1


def test_landmarks_spread_in_cost_from_the_smallest_to_the_full_one(ranged):
    sizes, nesting = ranged.sizes, ranged.nesting
    costs = [ranged.num_params(size) for size in sizes]
    assert sizes[0] == nesting.smallest and sizes[-1] == ranged.full and nesting.largest in sizes
    assert 4 <= len(sizes) <= 6 and costs == sorted(set(costs))
    steps = np.diff(np.log([cost for cost in costs if cost <= ranged.num_params(nesting.largest)]))
    assert steps.max() < 2.5 * steps.mean()


def test_bad_range():
    least, most = Size(8, 1, 1), Size(32, 4, 2)

    def nested(*ends):
        return config(nesting=matgpt.between(*ends))

    assert_refused("smallest=.*n_embd=12.* multiple of multiple_of=8", nested, Size(12, 1, 1), most)
    assert_refused("largest=.*n_embd=20.* multiple of multiple_of=8", nested, least, Size(20, 4, 2))
    assert_refused("smallest=.* may have at most n_embd=16", nested, Size(32, 1, 1), Size(16, 4, 2))
    assert_refused("may have at most n_head=1", nested, Size(8, 2, 1), Size(32, 1, 2))
    assert_refused("n_inner=200.* may have at most n_inner=128", nested, Size(8, 1, 1, 200), most)
    assert_refused("smallest=8 must be a Size", nested, 8, most)
    assert_refused("largest=.* one number for all layers", nested, least, Size(32, 4, 2, (64, 128)))
    assert_refused("multiple_of=0 must be a whole number of at least 1", nested, least, most, 0)
    assert_refused("n_embd=64.* does not fit: no axis may be larger", nested, least, Size(64, 4, 2))
    assert_refused("does not fit: its n_head must divide", nested, Size(8, 3, 1), most)


def test_a_range_can_be_sampled_and_names_can_not():
    nested = config(nesting=matgpt.between(Size(8, 1, 1), Size(32, 4, 2)))
    sizes = nested.sample(20)
    assert sizes == nested.sample(20) != nested.sample(20, seed=1) and sizes[-1] == nested.full
    assert 10 < len(sizes) <= 21 and all(nested.fit(size) for size in sizes)
    assert_refused("nesting=.*8.* is not a range", config(nesting=(8,)).draw, np.random.default_rng(0))
