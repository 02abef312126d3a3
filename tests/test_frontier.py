import numpy as np
import pytest
import torch

import matgpt
from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, plot
from matgpt.measure import shapes
from matgpt.measure.shapes import Point, flops_per_token, mark_front, widest


def tiny(nesting, **kw):
    torch.manual_seed(0)
    return MatryoshkaGPT(
        GPTConfig(vocab_size=11, block_size=8, n_embd=32, n_head=4, n_layer=3, nesting=nesting, **kw)
    )


def ids(n=400):
    return torch.arange(n) * 7 % 11


def test_lattice_has_every_width_depth_and_ratio_with_whole_heads():
    sizes = matgpt.lattice(n_embd=(32, 64, 128), n_layer=(1, 2, 4), head_size=32)
    assert len(set(sizes)) == 9
    assert all(s.n_head * 32 == s.n_embd and s.n_inner == 4 * s.n_embd for s in sizes)
    wide = matgpt.lattice(n_embd=(32, 64), n_layer=(2,), head_size=16, n_inner_ratio=(1, 2, 4))
    assert {(s.n_embd, s.n_head, s.n_inner) for s in wide} == {
        (d, d // 16, r * d) for d in (32, 64) for r in (1, 2, 4)
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(n_embd=(), n_layer=(1,), head_size=8), r"n_embd=\(\) is empty"),
        (dict(n_embd=(20,), n_layer=(1,), head_size=8), "n_embd=20"),
        (dict(n_embd=(16,), n_layer=(0,), head_size=8), "n_layer=0"),
        (dict(n_embd=(16,), n_layer=(1,), head_size=8, n_inner_ratio=()), r"n_inner_ratio=\(\) is empty"),
    ],
)
def test_lattice_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        matgpt.lattice(**arguments)


@pytest.mark.parametrize("size", [Size(32, 4, 3), Size(16, 2, 1), Size(16, 4, 2, (5, 9)), Size(32, 1, 3, 7)])
def test_flops_are_those_that_torch_counts(size):
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny(None)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids(8)[None], size)
    counted = counter.get_total_flops()
    if torch.ops.aten._scaled_dot_product_flash_attention_for_cpu not in counter.get_flop_counts()["Global"]:
        # this counter does not know the fused CPU attention: 2 products of (T, T, s) for each head
        counted += size.n_layer * size.n_head * 4 * 8 * 8 * model.config.head_size_of(size)
    assert flops_per_token(model.config, size) * 8 == counted


def test_frontier_measures_what_evaluate_does_and_marks_the_front():
    model = tiny((Size(8, 1, 1), Size(16, 2, 2)))
    points = matgpt.frontier(model, ids())
    assert [p.size for p in points] == list(model.sizes)
    for point in points:
        assert point.loss == matgpt.evaluate(model, ids(), point.size)
        assert point.params == model.slice(point.size).num_params()
        rivals = [
            p for p in points if p.params <= point.params and p.flops <= point.flops and p.loss <= point.loss
        ]
        assert point.on_front == (rivals == [point])


def test_frontier_takes_sizes_that_were_never_trained():
    model = tiny((16, 32))
    odd = Size(24, 3, 2, (10, 20))
    assert matgpt.frontier(model, ids(), [odd])[0].size == odd
    with pytest.raises(ValueError, match="n_embd may be at most 32"):
        matgpt.frontier(model, ids(), [Size(64, 4, 2)])


def test_front_and_best_size_by_hand():
    a, b, c, d = (Size(n, 1, 1) for n in (8, 16, 24, 32))
    points = mark_front(
        [Point(d, 400, 40, 1.0), Point(a, 100, 10, 3.0), Point(b, 200, 30, 2.0), Point(c, 300, 30, 2.5)]
    )
    assert [(p.size, p.on_front) for p in points] == [(a, True), (b, True), (c, False), (d, True)]
    assert matgpt.best_size(points) == d
    assert matgpt.best_size(points, max_params=350) == b
    assert matgpt.best_size(points, max_flops=29) == a
    assert matgpt.best_size(points, max_params=250, max_flops=10) == a
    with pytest.raises(ValueError, match="no doll fits max_params=99.*100 parameters"):
        matgpt.best_size(points, max_params=99)
    with pytest.raises(ValueError, match="points is empty"):
        matgpt.best_size([])


SYSTEMS = {
    "the seed: width, every head and layer": (8, 16, 32),
    "MatFormer: feedforward alone": tuple(Size(32, 4, 3, f) for f in (16, 32, 64, 128)),
    "HydraViT: width and heads": tuple(Size(8 * h, h, 3) for h in (1, 2, 4)),
    "2D Matryoshka: depth": tuple(Size(32, 4, l) for l in (1, 2, 3)),
    "ours: every dimension": (Size(8, 1, 1), Size(16, 2, 2), Size(32, 4, 3)),
    "ours: a range": matgpt.between(Size(8, 1, 1), Size(32, 4, 3)),
    "ours: a lattice": matgpt.lattice(n_embd=(8, 16, 32), n_layer=(1, 2, 3), head_size=8),
}


@pytest.mark.slow
@pytest.mark.parametrize("nesting", SYSTEMS.values(), ids=SYSTEMS.keys())
def test_each_system_is_one_nesting_and_every_doll_of_it_learns(nesting):
    model = tiny(nesting)
    history = matgpt.train(model, ids(), ids(), steps=40, batch_size=4, progress=False)
    assert all(history.val[s][-1] < history.val[s][0] - 0.3 for s in model.sizes)


@pytest.mark.slow
def test_mix_n_match_dolls_run_though_none_was_trained():
    model = tiny(SYSTEMS["MatFormer: feedforward alone"])
    matgpt.train(model, ids(), ids(), steps=40, batch_size=4, progress=False)
    mixed = Size(32, 4, 3, (16, 64, 128))
    assert mixed not in model.sizes
    assert matgpt.evaluate(model, ids(), mixed) < 2.0 < torch.tensor(11.0).log()


@pytest.mark.slow
def test_an_output_only_model_always_pays_for_its_trunk():
    model = MatryoshkaEmbeddingsGPT(GPTConfig(11, 8, 32, 4, 3, nesting=(8, 16)))
    small, middle, full = matgpt.frontier(model, ids())
    assert full.flops == flops_per_token(model.config)
    assert full.flops - small.flops == 2 * 11 * (32 - 8), "the readout alone is smaller"
    assert small.params == middle.params == full.params


def test_the_picture_holds_every_family_however_many():
    """As many families as there are axes to cut, and more: none may be left out."""
    families = {
        f"family {i}": mark_front(
            [Point(Size(8, h, h), 100 * h, 200 * h, loss + i) for h, loss in ((1, 2.0), (2, 3.0), (3, 1.0))]
        )
        for i in range(12)
    }
    for x, cheapest in (("params", 100), ("flops", 200)):
        figure = plot.frontier(families, x, twins=families["family 0"])
        (ax,) = figure.axes
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [*families, "twins trained alone"]
        assert len(ax.lines[0].get_xdata()) == 2 and len(ax.lines[1].get_xdata()) == 3, (
            "a line along the front"
        )
        assert len(ax.lines) == 2 * len(families) + 1 and all(
            line.get_xdata()[0] == cheapest for line in ax.lines
        )


# ---- the best size of a range


def ranged(variant=MatryoshkaGPT):
    torch.manual_seed(0)
    return variant(
        GPTConfig(11, 8, 32, 4, 3, nesting=matgpt.between(Size(8, 1, 1, 16), Size(32, 4, 3), multiple_of=4))
    )


@pytest.fixture
def known_loss(monkeypatch):
    """In the place of evaluating: a loss that falls along every axis, and what was measured."""
    measured = []

    def evaluate(model, ids, size, max_blocks=None):
        measured.append(size)
        return 9 - size.n_embd**0.5 - size.n_layer**0.4 - 0.01 * size.n_inner**0.5

    monkeypatch.setattr(shapes, "evaluate", evaluate)
    return measured


@pytest.mark.parametrize("name, share", [("params", 0.1), ("flops", 0.3), ("bytes", 0.5), ("params", 1)])
def test_best_size_follows_the_front_of_a_range(known_loss, name, share):
    model = ranged()
    most = share * shapes.costs(model, model.config.full)[name]
    best = matgpt.best_size(model, val_ids=ids(), **{f"max_{name}": most})
    tried, rng = len(set(known_loss)), np.random.default_rng(0)
    assert shapes.costs(model, best)[name] <= most and tried <= 12
    assert share < 1 or best == model.config.full
    for size in {model.config.draw(rng) for _ in range(1000)}:
        if shapes.costs(model, size)[name] <= most:
            assert shapes.evaluate(model, None, best) < shapes.evaluate(model, None, size) + 0.35


def test_best_size_keeps_all_budgets_at_once(known_loss):
    model = ranged()
    best = matgpt.best_size(model, max_params=9000, max_flops=12000, max_bytes=30000, val_ids=ids())
    found = shapes.costs(model, best)
    assert found["params"] <= 9000 and found["flops"] <= 12000 and found["bytes"] <= 30000
    assert found["bytes"] == sum(p.nbytes for p in model.slice(best).parameters())


def test_best_size_by_latency(known_loss, monkeypatch):
    """As if a layer took 2 ms, and a dimension 0.1."""
    monkeypatch.setattr(shapes, "milliseconds", lambda model, size: 2 * size.n_layer + 0.1 * size.n_embd)
    model = ranged()
    assert matgpt.best_size(model, max_ms=5.3, val_ids=ids()) == Size(32, 4, 1)
    assert matgpt.best_size(model, max_ms=7.3, val_ids=ids()) == Size(32, 4, 2)
    with pytest.raises(ValueError, match="no doll fits max_ms=2.7: the least is 2.8 milliseconds"):
        matgpt.best_size(model, max_ms=2.7, val_ids=ids())
    named = tiny((Size(8, 1, 1), Size(16, 2, 2)))
    points = matgpt.frontier(named, ids(), latency=True)
    assert [p.ms for p in points] == pytest.approx([2.8, 5.6, 9.2])
    assert (
        matgpt.best_size(points, max_ms=6)
        == matgpt.best_size(named, max_ms=6, val_ids=ids())
        == Size(16, 2, 2)
    )
    with pytest.raises(ValueError, match="max_ms=6: points hold no ms"):
        matgpt.best_size(matgpt.frontier(named, ids()), max_ms=6)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [MatryoshkaGPT, MatryoshkaEmbeddingsGPT])
def test_best_size_of_a_model_without_a_stub(variant):
    model = ranged(variant).train()
    most = 0.6 * shapes.costs(model, model.config.full)["flops"] if variant is MatryoshkaGPT else None
    best = matgpt.best_size(model, max_flops=most, max_ms=1e6, val_ids=ids())
    assert model.config.fit(best) and model.training
    assert most is None or shapes.costs(model, best)["flops"] <= most
    assert shapes.milliseconds(model, best) > 0


def test_a_budget_too_small_for_a_range_names_the_least():
    least = shapes.costs(ranged(), Size(8, 1, 1, 16))["params"]
    with pytest.raises(ValueError, match=f"no doll fits max_params=10: the least is {least} parameters"):
        matgpt.best_size(ranged(), max_params=10, val_ids=ids())


def test_a_loss_that_is_no_number_is_never_best():
    nan, good = (Point(Size(n, 1, 1), n, n, loss) for n, loss in ((8, float("nan")), (16, 3.0)))
    assert matgpt.best_size([nan, good]) == matgpt.best_size([good, nan]) == good.size
    assert [p.on_front for p in mark_front([nan, good])] == [False, True]
    with pytest.raises(ValueError, match="no loss is a number"):
        matgpt.best_size([nan])


def test_a_range_is_trained_and_resumed(tmp_path):
    whole, interrupted = ranged(), ranged()
    options = dict(batch_size=2, progress=False, eval_blocks=2, checkpoint_dir=tmp_path)

    def stop(history):
        if history.steps[-1]:
            raise KeyboardInterrupt

    matgpt.train(interrupted, ids(), ids(), 6, **options, eval_interval=3, on_evaluation=stop)
    matgpt.train(interrupted, ids(), ids(), 6, **options, eval_interval=3, resume=True)
    del options["checkpoint_dir"]
    history = matgpt.train(whole, ids(), ids(), 6, **options, eval_interval=3)
    assert history.steps == [0, 3, 6] and list(history.val) == list(whole.sizes)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), interrupted.parameters()))


@pytest.mark.parametrize("smallest", [Size(16, 1, 1), Size(16, 1, 2)])
def test_a_range_of_heads_is_searched_to_both_its_ends(smallest):
    """A range of one width: its dolls differ in heads, depth and feedforward alone."""
    config = GPTConfig(11, 7, 16, 4, 2, nesting=matgpt.between(smallest, Size(16, 4, 2)))
    ways = [set(widest(config, lambda _, fits=fits: fits)) for fits in (True, False)]
    assert {size.n_head for size in ways[0] - {smallest}} == {4}
    assert Size(16, 1, smallest.n_layer, 32) in ways[1] and Size(16, 4, 2) in ways[0] & ways[1]


def test_the_full_doll_of_a_range_is_looked_at(known_loss):
    """Also where the range ends below it."""
    model = MatryoshkaGPT(GPTConfig(11, 7, 32, 4, 2, nesting=matgpt.between(Size(8, 1, 1), Size(16, 2, 1))))
    assert matgpt.best_size(model, val_ids=ids()) == model.config.full
    assert matgpt.best_size(torch.compile(model, backend="eager"), val_ids=ids()) == model.config.full
