"""The Matryoshka loss, and the loop that lowers it."""

import math
import pickle
import weakref
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import matgpt
from matgpt import (
    DivergedError,
    GPTConfig,
    MatryoshkaEmbeddingsGPT,
    MatryoshkaGPT,
    Size,
    evaluate,
    matryoshka_loss,
    train,
)
from matgpt.measure.evaluation import precision
from matgpt.training import optimizer, schedule
from matgpt.training import run as training
from matgpt.training.optimizer import learning_rate
from matgpt.training.price import price
from matgpt.training.schedule import Schedule

TEXT = [0, 1, 2, 3, 4, 5, 6, 3] * 40  # after a 3 comes a 4 or a 0: only context tells
VAL = [0, 1, 2, 3, 4, 5, 6, 3, 0, 1, 2, 3] * 9  # the same, in another order
CONFIG = GPTConfig(7, 8, 16, 2, 2, nesting=(8, Size(8, 1, 1)))
LATTICE = [Size(d, h, l) for d, h in ((4, 1), (8, 1), (16, 2)) for l in (1, 2)]


def make(variant, seed=0, **changes):
    torch.manual_seed(seed)
    return variant(GPTConfig(**{**vars(CONFIG), **changes}))


def run(model, **settings):
    return train(
        model,
        TEXT,
        VAL,
        **{
            "steps": 40,
            "batch_size": 4,
            "lr": 1e-2,
            "warmup": 0.1,
            "eval_blocks": 8,
            "progress": False,
            **settings,
        },
    )


def assert_equal_lengths(history):
    for size in history.sizes:
        assert len(history.val[size]) == len(history.train[size]) == len(history.steps)


@pytest.fixture
def model(variant):
    return make(variant)


@pytest.fixture
def xy():
    block = torch.randint(7, (3, 9), generator=torch.Generator().manual_seed(0))
    return block[:, :-1], block[:, 1:]


def backward(model, xy, weights=None):
    """`matryoshka_backward` of all sizes with the same batch for every trunk, the largest trunk first."""
    trunks = model.trunks(model.sizes)
    weights = dict(zip(model.sizes, weights or [1] * len(model.sizes)))
    return training.matryoshka_backward(model, [(trunk, *xy) for trunk in trunks], weights)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


# ---- the loss


@pytest.mark.parametrize("loss_weights", [None, (1, 2, 5), (0, 1, 0)])
def test_loss_is_the_weighted_mean(variant, xy, loss_weights):
    model = make(variant).double()
    weights = loss_weights or (1, 1, 1)
    expected = 0
    for weight, size in zip(weights, model.sizes):
        log_probs = model(xy[0], size).log_softmax(-1)
        nats = [-log_probs[b, t, xy[1][b, t]] for b in range(3) for t in range(8)]
        expected = expected + weight / sum(weights) * sum(nats) / len(nats)
    loss = matryoshka_loss(model, *xy, loss_weights)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)

    expected.backward()
    direct = gradients(model)
    model.zero_grad()
    loss.backward()
    torch.testing.assert_close(gradients(model), direct, rtol=1e-9, atol=1e-12)

    model.zero_grad()
    losses = backward(model, xy, weights)
    torch.testing.assert_close(gradients(model), direct, rtol=1e-9, atol=1e-12)
    mean = sum(w * losses[size].item() for w, size in zip(weights, model.sizes)) / sum(weights)
    assert mean == pytest.approx(loss.item())


def test_one_graph_at_a_time(xy):
    """Peak memory is that of one size: nothing that a backward pass needs outlives it."""
    model = make(MatryoshkaGPT)

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor
            alive.add(self)

    alive, at_start, at_end = weakref.WeakSet(), [], []
    model.register_forward_pre_hook(lambda *_: at_start.append(len(alive)))
    model.register_forward_hook(lambda *_: at_end.append(len(alive)))
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        losses = backward(model, xy)
    assert at_start == [0, 0, 0] and min(at_end) > 0
    assert not any(loss.requires_grad for loss in losses.values())

    at_start.clear()
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        loss = matryoshka_loss(model, *xy)
    assert 0 == at_start[0] < at_start[1] < at_start[2] and loss.requires_grad, (
        "the plain loss keeps all graphs"
    )


def test_the_trunk_of_an_output_only_model_runs_once_a_step(xy):
    model, ran = make(MatryoshkaEmbeddingsGPT), []
    model.blocks[0].register_forward_pre_hook(lambda *_: ran.append(1))
    losses = backward(model, xy)
    assert len(ran) == 1 and set(losses) == set(model.sizes)


def test_learning_rate_warms_up_and_falls():
    rates = [learning_rate(step / 100, 1.0, 0.1) for step in range(101)]
    assert 0 < rates[0] < 0.1 and rates[10] == max(rates) == pytest.approx(1)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5) and rates[100] == 0
    assert learning_rate(0, 2.0, 0.0) == 2.0, "no warm-up"


# ---- evaluation


def test_evaluate_is_the_mean_over_blocks_that_do_not_overlap(variant):
    model = make(variant, dropout=0.5)
    ids = torch.randint(7, (8 * 5 + 3,), generator=torch.Generator().manual_seed(0))
    model.eval()
    for size in model.sizes:
        with torch.no_grad():
            losses = [
                F.cross_entropy(model(ids[None, i : i + 8], size)[0], ids[i + 1 : i + 9]).item()
                for i in range(0, 40, 8)
            ]
        model.train()  # evaluation turns dropout off, and on again behind it
        assert evaluate(model, ids, size) == pytest.approx(sum(losses) / 5)
        assert evaluate(model, ids, size, batch_size=2) == pytest.approx(sum(losses) / 5)
        assert evaluate(model, ids.tolist(), size, max_blocks=2) == pytest.approx((losses[0] + losses[4]) / 2)
        assert model.training
        model.eval()


def test_every_evaluation_reads_the_same_blocks(model):
    read, passes = [], []
    model.register_forward_pre_hook(
        lambda model, args: None if model.training else read.append(args[0].tolist())
    )

    def on_evaluation(history):
        passes.append(read.copy())
        read.clear()

    run(model, steps=4, eval_interval=2, on_evaluation=on_evaluation)
    assert len(passes) == 3 and passes[0] == passes[1] == passes[2] and len(passes[0]) >= 2 * len(model.sizes)


# ---- the loop


@pytest.mark.slow
def test_every_size_learns(model):
    history = run(model, eval_interval=15)
    assert history.steps == [0, 15, 30, 40] and history.lr == 1e-2
    assert_equal_lengths(history)
    for size in model.sizes:
        assert abs(history.val[size][0] - math.log(7)) < 0.1
        assert history.val[size][-1] < 0.6 * history.val[size][0]
        assert history.train[size][-1] < 0.6 * history.train[size][0]
        for ids, found in ((TEXT, history.train), (VAL, history.val)):
            assert evaluate(model, ids, size, max_blocks=8) == pytest.approx(found[size][-1])


def test_history_by_width(variant):
    history = run(make(variant), steps=1)
    assert history.val[16] is history.val[CONFIG.full] and history.train[16] is history.train[CONFIG.full]
    with pytest.raises(KeyError, match="8 names 2 of"):
        history.val[8]
    with pytest.raises(KeyError, match="5 names 0 of"):
        history.val[5]


@pytest.mark.slow
def test_a_seed_repeats_bit_for_bit(variant):
    def losses_and_weights(seed):
        model = make(variant, dropout=0.1)
        torch.manual_seed(torch.seed() if seed == 1 else 5)  # whatever the state outside
        history = run(model, steps=10, seed=seed, eval_interval=5)
        return history.val, history.train, [p.detach() for p in model.parameters()]

    first, again, other = losses_and_weights(1), losses_and_weights(1), losses_and_weights(2)
    assert first[:2] == again[:2] and all(map(torch.equal, first[2], again[2]))
    assert first[0] != other[0] and not any(map(torch.equal, first[2], other[2]))


def test_a_trunk_runs_once_for_all_its_depths(xy):
    model, ran = make(MatryoshkaGPT, nesting=LATTICE), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, x: ran.append(x[0].shape[-1]))
    backward(model, xy)
    assert ran == [16, 16, 8, 8, 4, 4], "each width once, the largest first"


def test_a_trunk_holds_the_sizes_whose_blocks_are_its_first():
    model = make(MatryoshkaGPT)
    deep, other, first, narrow = Size(8, 1, 2, (4, 8)), Size(8, 1, 1, 8), Size(8, 1, 1, 4), Size(4, 1, 1, 4)
    assert sorted(model.trunks([narrow, first, other, deep]), key=len) == [[other], [narrow], [deep, first]]


@pytest.mark.parametrize("nesting", [(4, 8), LATTICE])
def test_every_trunk_learns_from_text_of_its_own(variant, nesting):
    """The largest trunk reads most; sizes that run together read the same, and each token counts alike."""
    model, full = make(variant, nesting=nesting).double(), 0
    weights = {size: i for i, size in enumerate(model.sizes, 1)}
    trunks = model.trunks(model.sizes)
    assert len(trunks) == (1 if variant is MatryoshkaEmbeddingsGPT else 3)
    assert trunks[0][0] == model.config.full
    blocks = torch.randint(7, (len(trunks), 3, 9), generator=torch.Generator().manual_seed(0))
    parts = [(t, block[: 3 - i, :-1], block[: 3 - i, 1:]) for i, (t, block) in enumerate(zip(trunks, blocks))]
    total = sum(weights[size] * len(x) for trunk, x, _ in parts for size in trunk)
    expected = {}
    for sizes, tokens, targets in parts:
        for size in sizes:
            expected[size] = F.cross_entropy(model(tokens, size).flatten(0, 1), targets.flatten())
            full = full + weights[size] * len(tokens) / total * expected[size]
    full.backward()
    direct = gradients(model)
    model.zero_grad()
    losses = training.matryoshka_backward(model, parts, weights)
    torch.testing.assert_close(gradients(model), direct, rtol=1e-6, atol=1e-9)
    assert {size: loss.item() for size, loss in losses.items()} == pytest.approx(
        {size: loss.item() for size, loss in expected.items()}
    )


def test_a_step_of_some_trunks_is_the_weighted_mean_of_theirs(xy):
    """Weights count among the dolls of the step, so that a step of small dolls is as large as one of all."""
    model = make(MatryoshkaGPT).double()
    weights = dict(zip(model.sizes, (1, 3, 12)))
    parts = [([size], *xy) for size in (model.sizes[1], model.sizes[0])]
    training.matryoshka_backward(model, parts, weights)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    matryoshka_loss(model, *xy, (1, 3, 0)).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found.get(name, torch.zeros_like(p)), p.grad, msg=name)


class Spy:
    """Every step of a run as it was: the trunks that it trained, its inputs, gradients, learning rates."""

    def __init__(self):
        self.trunks, self.inputs, self.targets, self.norms, self.rates = [], [], [], [], []

    def __enter__(self):
        real, make = training.matryoshka_backward, training.make_optimizers

        def backward(model, parts, *more):
            for seen, found in zip((self.trunks, self.inputs, self.targets), zip(*parts)):
                seen.append(list(found))
            return real(model, parts, *more)

        def make_optimizers(kind, model, *settings):
            optimizers = make(kind, model, *settings)
            step = optimizers.step

            def looked_at(read):
                grads = [p.grad.norm() for p in model.parameters() if p.grad is not None]
                self.norms.append(torch.stack(grads).norm().item())
                self.rates.append([group["lr"] for some in optimizers for group in some.param_groups])
                step(read)

            optimizers.step = looked_at
            return optimizers

        self.patches = [
            patch.object(training, "matryoshka_backward", backward),
            patch.object(training, "make_optimizers", make_optimizers),
        ]
        for some in self.patches:
            some.start()
        return self

    def __exit__(self, *error):
        for some in self.patches:
            some.stop()

    def steps(self):
        """[(trunk, tokens that it read)] of each step."""
        for trunks, inputs in zip(self.trunks, self.inputs):
            yield [(trunk, x.numel()) for trunk, x in zip(trunks, inputs)]


@pytest.mark.slow
def test_the_texts_of_a_step_differ():
    model = make(MatryoshkaGPT)
    ids = torch.randint(7, (999,), generator=torch.Generator().manual_seed(0))
    with Spy() as spy:
        train(model, ids, ids, steps=20, batch_size=4, progress=False, eval_blocks=4)
    for first, *others in spy.inputs:
        assert first.shape == (4, 8) and all(1 <= len(x) <= 4 and x.size(1) == 8 for x in others)
    blocks = [tuple(block.tolist()) for step in spy.inputs for x in step for block in x]
    assert len(blocks) > 80 and len({*blocks}) > 0.9 * len(blocks), "hardly a block is read twice"
    assert {*blocks} <= {tuple(block) for block in ids.unfold(0, 8, 1).tolist()}
    pairs = [pair for step in zip(spy.inputs, spy.targets) for pair in zip(*step)]
    assert all(torch.equal(x[:, 1:], y[:, :-1]) for x, y in pairs)


def test_dropout_differs_from_step_to_step():
    model, masks = make(MatryoshkaGPT, nesting=None, dropout=0.5), []
    model.dropout.register_forward_hook(
        lambda layer, _, y: masks.append((y == 0)[0]) if layer.training else None
    )
    run(model, steps=5, eval_blocks=1, eval_interval=5)
    assert len(masks) == 5 and not any(map(torch.equal, masks, masks[1:]))


def test_the_shortest_text_is_one_block():
    with Spy() as spy:
        train(make(MatryoshkaGPT), TEXT[:9], TEXT[:9], 2, 3, progress=False)
    blocks = torch.cat([x for step in spy.inputs for x in step])
    assert blocks.tolist() == [TEXT[:8]] * len(blocks)


def test_the_default_rate_falls_with_the_width(variant):
    for width in (16, 32):
        assert run(make(variant, n_embd=width), steps=1, lr=None).lr == 1.024 / width


@pytest.mark.slow
def test_the_rate_follows_the_schedule_and_the_gradient_is_clipped(variant):
    with Spy() as spy:
        run(make(variant), steps=20, warmup=0.25, lr=0.02, grad_clip=1e-3)
    for step, rates in enumerate(spy.rates):
        assert rates == pytest.approx([learning_rate(step / 20, 0.02, 0.25)] * len(rates))
    assert len(spy.rates) == 20 and spy.norms == pytest.approx([1e-3] * 20, rel=1e-3)
    with Spy() as spy:
        run(make(variant), steps=20, grad_clip=0)
    assert min(spy.norms) > 1e-2, "0 does not clip"


def test_the_step_is_as_long_as_the_rate(variant):
    """Muon's steps have one length, so the path of a weight tells the rates that were applied."""
    model = make(variant, nesting=None)
    path, weight = [], model.blocks[0].feedforward.expand.weight
    history = run(
        model,
        steps=8,
        warmup=0.25,
        weight_decay=0,
        eval_interval=1,
        on_evaluation=lambda _: path.append(weight.detach().clone()),
    )
    lengths = [(b - a).norm().item() for a, b in zip(path, path[1:])]
    rates = [learning_rate(step / 8, history.lr, 0.25) for step in range(8)]
    assert lengths == pytest.approx([lengths[2] / rates[2] * rate for rate in rates], rel=1e-3)


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_steps_multiply_in_the_dtype_and_evaluations_and_weights_are_float32(variant, dtype):
    model, products = make(variant), {"trained": set(), "evaluated": set(), "moved": set()}
    layer = model.get_submodule("blocks.0.feedforward.proj")
    of = lambda: products["trained" if layer.training else "evaluated"]
    layer.register_forward_hook(lambda _, x, y: of().add(y.dtype))
    even = optimizer.even
    with patch.object(optimizer, "even", lambda x: products["moved"].add(x.dtype) or even(x)):
        run(model, steps=2, dtype=dtype)
    short = {torch.bfloat16 if dtype == "bfloat16" else torch.float32}
    assert products == {"trained": short, "evaluated": {torch.float32}, "moved": short}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_float32_is_float32_whatever_was_chosen_around_it():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with precision(x.device, "float32"):
            assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_products_in_bfloat16_teach_as_well(variant, kind):
    found = [run(make(variant), dtype=dtype, optimizer=kind) for dtype in ("float32", "bfloat16")]
    for size in found[0].sizes:
        losses = [history.val[size][-1] for history in found]
        assert losses[0] != losses[1] and losses == pytest.approx([losses[0]] * 2, abs=0.02)
        assert losses[1] < found[1].val[size][0] - 0.3


def test_loss_weights_choose_what_learns():
    for weights, kept in (((1, 0, 0), CONFIG.sizes[0]), ((0, 1, 0), CONFIG.sizes[1])):
        model = make(MatryoshkaGPT)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        run(model, steps=3, loss_weights=weights)
        assert_moved_inside(model, before, kept)


@pytest.mark.slow
def test_a_doll_of_weight_0_costs_nothing():
    """Nor does the run begin with it, however small it is."""
    with Spy() as spy:
        run(make(MatryoshkaGPT), steps=30, loss_weights=(0, 1, 1))
    seen = {size for trunks in spy.trunks for trunk in trunks for size in trunk}
    assert seen == set(CONFIG.sizes[1:])


def assert_moved_inside(model, before, size):
    """All that this doll reads moved, and nothing outside, not even by decay."""
    read = {name: p.shape for name, p in model.slice(size).named_parameters()}
    for name, p in model.named_parameters():
        inside = torch.zeros_like(p, dtype=torch.bool)
        if name in read:
            inside[tuple(map(slice, read[name]))] = True
        moved = p.detach() != before[name]
        assert not moved[~inside].any(), name
        assert moved[inside].float().mean() > 0.9 if inside.any() else True, name


# ---- which dolls a step trains


FAMILY = (Size(4, 1, 1), Size(8, 2, 1), Size(8, 1, 2), Size(12, 2, 2))


def family(**changes):
    return make(MatryoshkaGPT, **{"nesting": FAMILY, **changes})


def draws(model, spent, times=400, seed=0):
    rng, schedule = np.random.default_rng(seed), Schedule(model, model.sizes)
    return [schedule.draw(spent, rng) for _ in range(times)]


def test_the_cheapest_doll_starts_alone():
    model = family()
    cheapest = min(model.sizes, key=lambda size: price(model, [size]))
    assert draws(model, 0.0, 50) == [[([cheapest], 1)]] * 50


def test_a_doll_joins_once_a_share_of_the_price_of_the_one_below_is_spent():
    model = family()
    by_price = sorted(model.trunks(model.sizes), key=lambda trunk: price(model, trunk))
    with patch.object(schedule, "GROWTH", 0.5):
        for below, trunk in zip(by_price, by_price[1:]):
            joins = 0.5 * price(model, below) / price(model, by_price[-1])
            assert draws(model, joins * 0.999, 1)[0][0] == (below, 1)
            assert draws(model, joins * 1.001, 1)[0][0] == (trunk, 1)


def test_every_step_trains_the_largest_doll_that_has_joined_on_a_whole_batch():
    """Dolls join in the order of their price, each for good, and the full one long before the end."""
    model = family()
    by_price = sorted(model.trunks(model.sizes), key=lambda trunk: price(model, trunk))
    largest = -1
    for spent in np.linspace(0, 1, 101):
        ((first, *others),) = draws(model, spent, 1)
        places = [by_price.index(trunk) for trunk, _ in (first, *others)]
        assert places == sorted(set(places), reverse=True), "each once, largest first"
        assert first[1] == 1 and places[0] >= largest
        largest = places[0]
        assert spent < 0.5 or largest == len(by_price) - 1


@pytest.mark.slow
def test_every_doll_stays_in_the_training():
    """Smaller ones read at most a batch: what a share of the largest's FLOPs, one that grows, pays for."""
    model = family()
    full, *others = model.trunks(model.sizes)
    for last in (schedule.LAST, 0.2):
        for spent in (0.5, 0.9):
            with patch.object(schedule, "LAST", last):
                found = draws(model, spent, 1)[0][1:]
            assert {size for trunk, _ in found for size in trunk} == {size for t in others for size in t}
            paid = (0.04 * (1 - spent) + last * spent) * price(model, full)
            for trunk, part in found:
                assert part == pytest.approx(min(1, paid / price(model, trunk)))
    with Spy() as spy:
        run(model, steps=60, eval_interval=60, eval_blocks=1)
    assert {size for trunks in spy.trunks for trunk in trunks for size in trunk} == set(model.sizes)


def test_a_step_reads_the_share_of_a_batch_that_is_drawn_and_fractions_by_chance():
    model, rng = family(), np.random.default_rng(0)
    settings = dict(batch_size=12, optimizer="muon", lr=0.01, weight_decay=0.1)
    some = training.Run(model, TEXT, {**settings, "loss_weights": dict.fromkeys(model.sizes, 1)})
    drawn = [(trunk, share) for trunk, share in zip(model.trunks(model.sizes), (1, 0.3, 0.05))]
    some.schedule.draw = lambda spent, rng: drawn
    found = [{trunk[0]: n for trunk, n in some.counts(1.0, rng)} for _ in range(4000)]
    assert all(n for counts in found for n in counts.values()), "none that reads nothing"
    for (size, *_), share in drawn:
        read = np.array([counts.get(size, 0) for counts in found])
        assert set(read) <= {int(12 * share), int(12 * share) + 1} and min(read) == int(12 * share)
        assert read.mean() == pytest.approx(12 * share, abs=0.03)


@pytest.mark.slow
def test_a_range_is_drawn_from_once_its_full_doll_has_joined():
    low, high = Size(4, 1, 1), Size(16, 2, 2)
    model = make(MatryoshkaGPT, nesting=matgpt.between(low, high, 4))
    assert draws(model, 0.0, 5) == [[([low], 1)]] * 5
    steps = draws(model, 0.9, 500)
    paid = (0.1 * schedule.FIRST + 0.9 * schedule.LAST) * price(model, [model.config.full]) / 2
    for trunk, share in [part for step in steps for part in step[1:]]:
        assert share == pytest.approx(min(1, paid / price(model, trunk)), rel=1e-6)
    some = [[trunk for trunk, _ in step] for step in steps]
    sizes = [{size for trunk in step for size in trunk} for step in some]
    assert all(step[0][0] == model.config.full for step in some) and all(low in step for step in sizes)
    assert all(len(step) == len(sum(trunks, [])) for step, trunks in zip(sizes, some)), "each once"
    drawn = set().union(*sizes)
    assert len(drawn - set(model.sizes)) > 5, "sizes that have no name"
    cheap = np.mean([price(model, [size]) for step in sizes for size in step - {low, model.config.full}])
    rng = np.random.default_rng(1)
    assert cheap < 0.9 * np.mean([price(model, [model.config.draw(rng)]) for _ in range(500)])
    for size in drawn:
        model.config.fit(size)
        assert size.n_embd >= 4 and size.n_head >= 1
    for spent in np.linspace(1e-3, 1, 200):
        (step,) = draws(model, spent, 1)
        if step[0][0][0] != model.config.full:
            assert {trunk[0] for trunk, _ in step} <= set(model.sizes), "nothing is drawn yet"
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    history = run(model, steps=20)
    assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert history.val[model.config.full][-1] < history.val[model.config.full][0]


@pytest.mark.parametrize(
    "kind, low", [(MatryoshkaEmbeddingsGPT, Size(4, 2, 2)), (MatryoshkaGPT, Size(16, 2, 1))]
)
def test_a_range_of_one_trunk_is_drawn_from_in_each_step(kind, low):
    """Output only every size shares the trunk of the full one, as those of one width and many depths may."""
    model = make(kind, nesting=matgpt.between(low, Size(16, 2, 2), 2))
    names, found = set(model.sizes), set()
    for step in draws(model, 0.9, 50):
        sizes = {size for trunk, _ in step for size in trunk}
        assert len(sizes - names) >= 1 and model.config.full in sizes
        found |= sizes
    if kind is MatryoshkaEmbeddingsGPT:
        assert {size.n_embd for size in found} == {4, 6, 8, 10, 12, 14, 16}


def test_sizes_whose_blocks_run_anyway_come_along():
    """A pass of a deep doll reads out the shallow ones of its width; output only, one trunk serves all."""
    model = make(MatryoshkaGPT, nesting=LATTICE)
    for spent in (0, 0.01, 0.1, 0.9):
        for step in draws(model, spent, 20):
            for trunk, _ in step:
                assert {size.n_layer for size in trunk} == {1, 2}
                assert len({size.n_embd for size in trunk}) == 1
    model = make(MatryoshkaEmbeddingsGPT, nesting=(2, 4, 8, 12))
    for spent in (0, 0.9):
        for ((trunk, share),) in draws(model, spent, 20):
            assert set(trunk) == set(model.sizes) and share == 1


@pytest.mark.slow
def test_the_draw_follows_from_seed_and_step_alone():
    """Whatever the global random state, the model's weights or the text are."""

    def drawn(seed, ids):
        torch.manual_seed(torch.seed())
        with Spy() as spy:
            train(make(MatryoshkaGPT), ids, ids, 20, 4, seed=seed, progress=False, eval_blocks=1)
        return [[len(x) for x in step] for step in spy.inputs]

    assert drawn(3, TEXT) == drawn(3, TEXT[::-1]) != drawn(4, TEXT)


# ---- what a step costs


def iteration(r, c):
    """G = x xT, three times G G for p, twice p (p G) and p times the product before; then times x."""
    return 2 * r * r * c + (3 + 2 * 2 + 2) * 2 * r**3 + 2 * r * r * c


def flops_of(model, step, kind):
    """Counted anew: the products of each trunk that reads so many tokens, and the optimizer's own."""
    config, total, read, names = model.config, 0, {}, dict(model.named_parameters())
    for trunk, tokens in step:
        for i, size in enumerate(trunk):
            total += 3 * 2 * tokens * config.vocab_size * size.n_embd  # readout
            if i == 0:  # blocks run once, at the size that is first
                run = config.full if isinstance(model, MatryoshkaEmbeddingsGPT) else size
                d, h = run.n_embd, run.n_head
                s = min(config.full_head_size, d // h)
                inner = run.n_inner if isinstance(run.n_inner, tuple) else [run.n_inner] * run.n_layer
                for f in inner:
                    products = 3 * h * s * d + h * s * d + 2 * d * f + 2 * h * s * config.block_size
                    total += 3 * 2 * tokens * products
                corner = MatryoshkaGPT(config.doll(run)).named_parameters()
                for name, p in corner:
                    read[name] = [max(pair) for pair in zip(p.shape, read.get(name, p.shape))]
    for name, shape in read.items():
        layer = name.startswith("blocks.") and name.endswith("weight") and "norm" not in name
        if not names[name].requires_grad:
            pass
        elif kind == "adamw" or not layer:
            total += 15 * math.prod(shape)
        elif "qkv" in name:
            _, h, s, d = shape
            r, c = min(s, d), max(s, d)
            total += 3 * h * iteration(r, c)
        else:
            out = shape[0]
            r, c = sorted((out, math.prod(shape[1:])))
            total += iteration(r, c)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("nesting", [FAMILY, LATTICE, (Size(8, 2, 2, (5, 30)),)])
def test_flops_are_those_of_the_dolls_and_of_the_optimizer(variant, nesting, kind):
    model = make(variant, nesting=nesting)
    model.blocks[0].attention.qkv.weight.requires_grad_(False)  # the optimizer does not move it
    with Spy() as spy:
        history = run(model, steps=12, optimizer=kind, eval_interval=1, eval_blocks=1)
    costs = [flops_of(model, step, kind) for step in spy.steps()]
    assert history.flops == [sum(costs[:n]) for n in range(13)] and history.spent == history.flops[-1]
    assert history.flops[0] == 0 and min(costs) > 0


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_step_of_small_dolls_alone_moves_and_pays_for_their_corner(kind):
    model = family()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def stop(history):
        if history.steps[-1] == 2:
            raise KeyboardInterrupt

    with Spy() as spy:
        settings = dict(optimizer=kind, weight_decay=0.5, eval_interval=1, warmup=0.0)
        history = run(model, steps=10**9, on_evaluation=stop, **settings)
    assert spy.trunks == [[[FAMILY[0]]]] * 2
    assert_moved_inside(model, before, FAMILY[0])
    assert history.spent == 2 * flops_of(model, [([FAMILY[0]], 4 * 8)], kind)
    assert history.spent < flops_of(model, [([model.config.full], 4 * 8)], kind)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [3e6, 4e7])
def test_a_budget_of_flops_ends_within_one_step(variant, budget):
    model = make(variant)
    with Spy() as spy:
        history = run(model, steps=None, flops=budget, lr=0.02, warmup=0.25)
    costs = [flops_of(model, step, "muon") for step in spy.steps()]
    assert sum(costs[:-1]) < budget <= sum(costs) == history.spent == history.flops[-1]
    assert history.steps[-1] == len(costs)
    # and the schedules follow the share that is spent
    rates = [learning_rate(sum(costs[:n]) / budget, 0.02, 0.25) for n in range(len(costs))]
    assert [rate for rate, *_ in spy.rates] == pytest.approx(rates)
    if budget > 1e7:
        assert len(history.steps) == 11, "an evaluation each tenth of the budget, and at its beginning"
        for tenth, flops in enumerate(history.flops):
            assert flops == pytest.approx(tenth / 10 * budget, abs=max(costs))


# ---- what a run leaves alone


@pytest.mark.slow
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("end", ["whole", "interrupted", "diverged"])
def test_a_run_leaves_mode_and_random_numbers_as_they_were(model, mode, end):
    def on_evaluation(history):
        assert model.training
        if history.steps[-1] and end == "interrupted":
            raise KeyboardInterrupt

    model.train(mode)
    model.blocks[1].train(not mode)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    settings = dict(steps=3, eval_interval=1, progress=True, on_evaluation=on_evaluation)
    if end == "diverged":
        with pytest.raises(DivergedError):
            run(model, lr=1e30, **settings)
    else:
        run(model, **settings)
    assert model.training == model.blocks[0].feedforward.dropout.training == mode
    assert model.blocks[1].training == model.blocks[1].feedforward.dropout.training != mode
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert all(p.grad is None for p in model.parameters())


def test_gradients_that_were_there_are_not_trained_on(xy):
    model, other = make(MatryoshkaGPT), make(MatryoshkaGPT)
    matryoshka_loss(model, *xy).backward()
    run(model, steps=2)
    run(other, steps=2)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("frozen", ["blocks.0", "blocks", "embedding", "blocks.0 embedding norm"])
def test_frozen_parts_stay_and_the_rest_learns(variant, frozen, kind):
    model = make(variant)
    for name in frozen.split():
        model.get_submodule(name).requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    history = run(model, optimizer=kind)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name
    assert history.val[16][-1] < history.val[16][0]


def test_interrupting_returns_the_history_so_far(model):
    def on_evaluation(history):
        if history.steps[-1] == 10:
            raise KeyboardInterrupt

    history = run(model, eval_interval=5, on_evaluation=on_evaluation)
    assert history.steps == [0, 5, 10]
    assert_equal_lengths(history)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("function, calls", [("matryoshka_backward", 7), ("evaluate", 9), ("evaluate", 12)])
def test_interrupting_anywhere_leaves_lists_of_equal_length(model, monkeypatch, function, calls):
    real, count = getattr(training, function), iter(range(calls))

    def interrupted(*args, **kwargs):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(training, function, interrupted)
    history = run(model, eval_interval=5)
    assert 1 <= len(history.steps) < 9, "interrupted on the way"
    assert_equal_lengths(history)
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_that_is_not_finite_stops_the_run(model):
    def on_evaluation(history):
        if history.steps[-1] == 10:
            model.norm.weight.data[0] = math.nan

    with pytest.raises(DivergedError, match="step 10: .*not finite.*lr=0.01") as error:
        run(model, eval_interval=5, on_evaluation=on_evaluation)
    assert error.value.history.steps == [0, 5, 10]
    assert_equal_lengths(error.value.history)
    sent = pickle.loads(pickle.dumps(error.value))  # as a pool of processes sends it
    assert str(sent) == str(error.value) and sent.history == error.value.history
    assert sent.history.val[16] == error.value.history.val[16]


# ---- bad input


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(loss_weights=(1, 1)), r"loss_weights=\(1, 1\) must be 3 numbers of at least 0"),
        (dict(loss_weights=(1, -1, 1)), r"loss_weights=\(1, -1, 1\) must be 3 numbers of at least 0"),
        (dict(loss_weights=(0, 0, 0)), r"loss_weights=\(0, 0, 0\) must be .* not all 0"),
        (dict(loss_weights=(1, math.nan, 1)), "loss_weights=.*nan.* must be 3 numbers"),
        (dict(steps=0), "steps=0 must be a whole number of at least 1"),
        (dict(batch_size=1.5), "batch_size=1.5 must be a whole number of at least 1"),
        (dict(eval_interval=-1), "eval_interval=-1 must be a whole number of at least 1"),
        (dict(lr=-0.1), "lr=-0.1 must be a number of at least 0"),
        (dict(lr=math.nan), "lr=nan must be a number of at least 0"),
        (dict(warmup=-1), "warmup=-1 must be a number of at least 0 and below 1"),
        (dict(warmup=1), "warmup=1 must be a number of at least 0 and below 1"),
        (dict(flops=1e9), r"steps=2 and flops=1000000000.0: give one budget, not both"),
        (dict(steps=None, flops=-1), "flops=-1 must be a number of at least 0"),
        (dict(steps=None, flops=0), "flops=0 must be more than 0"),
        (dict(steps=None, flops=math.nan), "flops=nan must be a number of at least 0"),
        (dict(steps=None, flops="1e9"), "flops='1e9' must be a number of at least 0"),
        (dict(dtype="float16"), 'dtype=\'float16\' must be "float32" or "bfloat16"'),
        (dict(seed=1.5), "seed=1.5 must be a whole number of at least 0"),
        (dict(loss_weights=5), "loss_weights=5 must be"),
        (dict(loss_weights="abc"), "loss_weights='abc' must be"),
        (dict(weight_decay=-1), "weight_decay=-1 must be a number of at least 0"),
        (dict(grad_clip=math.inf), "grad_clip=inf must be a number of at least 0"),
        (dict(eval_blocks=0), "eval_blocks=0 must be a whole number of at least 1"),
        (dict(train_ids=TEXT[:8]), r"train_ids has shape \(8,\) .* more than block_size=8"),
        (dict(val_ids=[]), r"val_ids has shape \(0,\) .* more than block_size=8"),
        (dict(train_ids=[TEXT]), r"train_ids has shape \(1, 320\) and dtype int64: it must be one row"),
        (
            dict(train_ids=TEXT + [7]),
            "train_ids holds token id 7, outside the vocabulary: allowed are 0 to 6",
        ),
        (
            dict(val_ids=TEXT + [-1, 9]),
            "val_ids holds token id -1, outside the vocabulary: allowed are 0 to 6",
        ),
    ],
)
def test_bad_training(model, bad, message):
    before = [p.detach().clone() for p in model.parameters()]
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append(1))
    with pytest.raises(ValueError, match=message):
        train(model, **{"train_ids": TEXT, "val_ids": TEXT, "steps": 2, "progress": False, **bad})
    assert not seen and all(map(torch.equal, before, model.parameters())), "refused before any work"


def test_bad_loss_weights_and_evaluation(model, xy):
    with pytest.raises(ValueError, match=r"loss_weights=\(1, 2\) must be 3 numbers of at least 0"):
        matryoshka_loss(model, *xy, (1, 2))
    with pytest.raises(ValueError, match=r"shape \(8,\) .* more than block_size=8"):
        evaluate(model, TEXT[:8])
    with pytest.raises(ValueError, match="max_blocks=0 must be a whole number of at least 1"):
        evaluate(model, TEXT, max_blocks=0)
    with pytest.raises(ValueError, match="size=5 names no doll"):
        evaluate(model, TEXT, 5)
    with pytest.raises(ValueError, match="token id 7 is outside the vocabulary|holds token id 7, outside"):
        evaluate(model, [7] * 20)


def test_a_last_step_that_diverges_is_reported_too(model):
    with pytest.raises(DivergedError, match=r"step 1: .*lr=1e\+30") as stopped:
        run(model, steps=1, warmup=0, lr=1e30)
    assert stopped.value.history.steps == [0]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["whole", "block"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_compiled_model_trains_as_it_would_uncompiled(part, optimizer):
    plain, other = make(MatryoshkaGPT), make(MatryoshkaGPT)
    compiled = lambda module: torch.compile(module, backend="eager")
    if part == "block":
        other.blocks[0] = compiled(other.blocks[0])
    run(plain, steps=3, optimizer=optimizer)
    run(compiled(other) if part == "whole" else other, steps=3, optimizer=optimizer)
    for p, q in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_gradients_are_on_in_a_run_wherever_it_is_called():
    model = make(MatryoshkaGPT)
    before = model.embedding.token.clone()
    with torch.no_grad():
        run(model, steps=2)
    assert not torch.equal(model.embedding.token, before)
