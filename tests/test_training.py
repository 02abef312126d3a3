"""The Matryoshka loss, what a step trains and costs, and the loop that lowers the loss."""

import copy
import dataclasses
import math
import pickle
import weakref
from contextlib import contextmanager, nullcontext
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import get_total_norm
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode

import matgpt
from matgpt import DivergedError, GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, between, train
from matgpt.embeddings.pairs import Pairs
from matgpt.measure.evaluation import precision
from matgpt.nested import NestedLinear
from matgpt.training import loop, nesting, schedule
from matgpt.training.cost import step_flops, training_flops
from matgpt.training.loss import matryoshka_loss, step_losses
from matgpt.training.optimizer import learning_rate, make_optimizers
from matgpt.training.schedule import Schedule

from .conftest import assert_refused

TEXT = [0, 1, 2, 3, 4, 5, 6, 3] * 40  # after a 3 comes a 4 or a 0: only the context tells
VAL = [0, 1, 2, 3, 4, 5, 6, 3, 0, 1, 2, 3] * 9  # the same, in another order
CONFIG = GPTConfig(7, 8, 16, 2, 2, nesting=(8, Size(8, 1, 1)))
WIDTHS = (4, 8)
DEPTHS = (Size(16, 2, 1), Size(16, 2, 2), Size(16, 2, 3))
FEEDFORWARDS = (Size(16, 2, 2, 9), Size(16, 2, 2, (16, 64)))
LATTICE = [Size(d, h, l) for d, h in ((4, 1), (8, 1), (16, 2)) for l in (1, 2)]
RANGE = between(Size(4, 1, 1), Size(16, 2, 2), 4)


def make(variant=MatryoshkaGPT, seed=0, **changes):
    torch.manual_seed(seed)
    return variant(dataclasses.replace(CONFIG, **changes))


def run(model, **settings):
    quick = dict(steps=40, batch_size=4, lr=1e-2, warmup=0.1, eval_blocks=8, progress=False)
    return train(model, TEXT, VAL, **{**quick, **settings})


def assert_equal_lengths(history):
    for losses in (history.train, history.val):
        assert {len(losses[size]) for size in history.sizes} == {len(history.steps)} == {len(history.flops)}


@contextmanager
def recorded(model):
    """Each step of a run inside the block: passes [(trunk, rows, x)], learning rates, gradients by name."""
    steps, passes = [], []

    def forward(model, args):
        if model.training:
            x, trunk, rows = args
            passes.append((trunk, rows, x))

    def step(optimizer, *_):
        if passes:  # the first optimizer of a step
            gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            steps.append((passes.copy(), [], gradients))
            passes.clear()
        steps[-1][1].extend(group["lr"] for group in optimizer.param_groups)

    with model.register_forward_pre_hook(forward), register_optimizer_step_pre_hook(step):
        yield steps


@pytest.fixture
def model(variant):
    return make(variant)


@pytest.fixture
def xy():
    block = torch.randint(7, (3, 9), generator=torch.Generator().manual_seed(0))
    return block[:, :-1], block[:, 1:]


# ---- the loss
@pytest.mark.parametrize("loss_weights", [None, (1, 2, 5), (0, 1, 0)])
def test_loss_is_the_weighted_mean(variant, xy, loss_weights):
    model, expected = make(variant).double(), 0
    weights = loss_weights or (1, 1, 1)
    for weight, size in zip(weights, model.sizes):
        log_probs = model(xy[0], size).log_softmax(-1).gather(2, xy[1][..., None])
        expected = expected - weight / sum(weights) * log_probs.mean()
    torch.testing.assert_close(matryoshka_loss(model, *xy, loss_weights), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("nesting", [WIDTHS, FEEDFORWARDS, LATTICE])
def test_a_step_has_the_gradient_of_the_written_out_loss(variant, nesting):
    """Each trunk has text of its own, and each token counts alike; also when two processes share the step."""
    model, expected = make(variant, nesting=nesting).double(), 0
    weights = {size: i for i, size in enumerate(model.sizes, 1)}
    trunks = model.trunks(model.sizes)
    passes = [(trunk, [max(1, 5 - i - j) for j in range(len(trunk))]) for i, trunk in enumerate(trunks)]
    total = sum(weights[size] * n for trunk, rows in passes for size, n in zip(trunk, rows))
    texts = torch.randint(7, (len(passes), 5, 9), generator=torch.Generator().manual_seed(0))
    for (trunk, rows), block in zip(passes, texts):
        for size, n in zip(trunk, rows):
            each = F.cross_entropy(model(block[:n, :-1], size).flatten(0, 1), block[:n, 1:].flatten())
            expected = expected + weights[size] * n / total * each
    expected.backward()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters()}
    for world in (1, 2):
        model.zero_grad()
        losses, flops = [], 0
        for rank in range(world):
            waiting = iter(texts)

            def read(n):
                block = next(waiting)[:n][rank::world]
                return block[:, :-1], block[:, 1:]

            for loss, price in step_losses(model, passes, read, weights.get, rank=rank, world=world):
                loss.backward()
                losses.append(loss.item())
                flops += price / world
        assert sum(losses) == pytest.approx(expected.item()) and flops > 0
        found = {name: p.grad for name, p in model.named_parameters()}
        torch.testing.assert_close(found, gradient, rtol=1e-6, atol=1e-9)


def test_one_graph_at_a_time(xy):
    """Peak memory is that of one trunk: nothing that a backward pass needs outlives it."""

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor
            alive.add(self)

    model, alive, at_start = make(), weakref.WeakSet(), []
    model.register_forward_pre_hook(lambda *_: at_start.append(len(alive)))
    passes = [([size], [3]) for size in model.sizes]
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        for loss, _ in step_losses(model, passes, lambda n: xy, lambda size: 1):
            assert alive
            loss.backward()
    assert at_start == [0, 0, 0]


def test_learning_rate_warms_up_and_falls():
    rates = [learning_rate(step / 100, 1.0, 0.1) for step in range(101)]
    assert 0 < rates[0] < 0.1 and rates[10] == max(rates) == pytest.approx(1)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5) and rates[100] == 0
    assert learning_rate(0, 2.0, 0.0) == 2.0, "no warm-up"


# ---- evaluation
@pytest.mark.slow
@pytest.mark.parametrize("budget", [dict(steps=100), dict(flops=1e9), dict(steps=100, eval_interval=50)])
def test_evaluation_takes_about_a_tenth_of_a_run(variant, budget):
    model, flops = make(variant), []

    def forward(model, args):
        if not model.training:
            x, trunk = args
            flops.append(x.numel() * training_flops(model, trunk) / 3)

    model.register_forward_pre_hook(forward)
    texts = [np.random.default_rng(i).integers(0, 7, 2000) for i in (0, 1)]
    history = train(model, *texts, batch_size=32, progress=False, **budget)
    assert 0.06 < sum(flops) / history.spent < 0.13


# ---- which dolls a step trains
@pytest.mark.parametrize(
    "kind, nesting, share",
    [
        (MatryoshkaGPT, WIDTHS, 0.2),
        (MatryoshkaGPT, WIDTHS, 0.0),
        (MatryoshkaGPT, DEPTHS, 0.05),
        (MatryoshkaGPT, LATTICE, 0.3),
        (MatryoshkaGPT, [Size(8, 1, 1)], 0.2),
        (MatryoshkaGPT, RANGE, 0.3),
        (MatryoshkaEmbeddingsGPT, WIDTHS, 0.05),
        (MatryoshkaEmbeddingsGPT, between(Size(4, 2, 2), Size(16, 2, 2), 2), 0.1),
    ],
)
def test_the_smaller_dolls_get_their_share_of_the_flops(kind, nesting, share):
    """They split it evenly, in FLOPs, but none reads more than the largest, which reads every batch."""
    model = make(kind, nesting=nesting, n_layer=3 if nesting is DEPTHS else 2, vocab_size=97)
    rng, drawing = np.random.default_rng(0), Schedule(model, share)
    drawing.deepen(0)
    full = drawing.largest
    whole, totals, by_trunk = 5 * training_flops(model, [full]), [], {}
    for _ in range(1000):
        total = -whole
        for trunk, rows in drawing.draw(5, rng)[0]:
            reads, flops = dict(zip(trunk, rows)), training_flops(model, trunk, rows)
            total += flops
            if full in reads:
                assert reads[full] == 5
            elif nesting in (WIDTHS, LATTICE):
                by_trunk.setdefault(tuple(trunk), []).append((flops, *rows))
        totals.append(total)
    error = np.std(totals) / 1000**0.5
    assert np.mean(totals) == pytest.approx(whole * share / (1 - share), abs=4 * error)
    assert error < 0.02 * whole
    shares = [np.mean(draws, 0) for draws in by_trunk.values()]
    uncapped = [flops for flops, n, *_ in shares if n < 5]
    assert all(flops == pytest.approx(max(uncapped), rel=0.1) for flops in uncapped)
    assert all(n <= 5 and flops <= 1.1 * max(uncapped) for flops, n, *_ in shares)


def test_the_full_doll_begins_with_as_many_layers_as_the_others(tmp_path, monkeypatch):
    """For 70% of the budget, with its own weight in the loss; an extended run has all layers at once."""
    full, spy = Size(16, 2, 4, (8, 7, 6, 5)), Mock(side_effect=step_losses)
    model = make(nesting=[Size(4, 1, 1, 8), Size(8, 2, 2, 7), full], n_layer=4, n_inner=full.n_inner)
    monkeypatch.setattr(loop, "step_losses", spy)
    settings = dict(checkpoint_dir=tmp_path, loss_weights=[1, 1, 2], share=0.3)

    def largest(**more):
        with recorded(model) as steps:
            run(model, **settings, **more)
        trunks = [([trunk[0] for trunk, *_ in passes], gradients) for passes, _, gradients in steps]
        return [(max(sizes, key=lambda size: size.n_embd), gradients) for sizes, gradients in trunks]

    steps = largest()
    assert [size for size, _ in steps] == [Size(16, 2, 2, (8, 7))] * 28 + [full] * 12
    for size, gradients in steps:
        assert any("blocks.3" in name for name in gradients) == (size == full)
    assert all(call.args[3](size) == 0.5 for call, (size, _) in zip(spy.call_args_list, steps))
    assert [size for size, _ in largest(steps=50, resume=True)] == [full] * 10


def test_layers_that_join_begin_as_copies_of_the_last_ones():
    model = make(nesting=[Size(8, 2, 2, 8)], n_layer=5, n_inner=(8, 8, 8, 7, 8))
    model.blocks[2].norm1.requires_grad_(False)
    for p in model.blocks[:2].parameters():
        p.data.normal_()
    new, drawn = [copy.deepcopy(block.state_dict()) for block in model.blocks], Schedule(model)
    for progress, layers in ((0, 2), (0.69, 2), (0.7, 5), (0.9, 5)):
        drawn.deepen(progress)
        assert drawn.largest.n_layer == layers
        for block, source in ((2, 1), (3, 0), (4, 1)) if layers == 5 else ((2, 2), (3, 3), (4, 4)):
            for name, p in model.blocks[block].state_dict().items():
                own = (block, name.split(".")[0]) == (2, "norm1") or p.shape != new[source][name].shape
                assert torch.equal(p, new[block if own else source][name]), (block, name)
    output_only = make(MatryoshkaEmbeddingsGPT, nesting=[Size(8, 1, 1)])
    frozen = make(nesting=[Size(8, 2, 2)], n_layer=5, bias=False)  # of which no one can say what is new
    for name, p in frozen.named_parameters():
        p.requires_grad_("norm" not in name)
    halves = make(
        nesting=[Size(8, 2, 2)], n_layer=5, bias=False
    ).bfloat16()  # whose gains of 1 may never move
    others = model, output_only, frozen, halves, *(make(nesting=dolls) for dolls in (RANGE, WIDTHS, None))
    for trained in others:
        other = Schedule(trained)
        other.deepen(0)
        assert other.largest == trained.config.full


def test_the_constants_that_figures_decided():
    """LOG.md: the shares of the smaller dolls, rates, momenta and what measures importance."""
    nested, depths = make(nesting=WIDTHS), make(nesting=DEPTHS, n_layer=3)
    readouts = make(MatryoshkaEmbeddingsGPT, nesting=WIDTHS)
    assert [Schedule(model).share for model in (nested, depths, readouts)] == [0.15, 0.02, 0.02]
    assert (nesting.SHARE, nesting.BATCHES, schedule.DEEPEN) == (0.5, 16, 0.7)
    assert (loop.Settings.warmup, loop.Settings.weight_decay) == (0.05, 0.1)
    assert make_optimizers("adamw", nested, 1.0, 0.1)[0].defaults["betas"] == (0.9, 0.99)
    assert [run(make(n_embd=d), steps=1, lr=None).lr for d in (16, 32)] == [1.024 / 16, 1.024 / 32]
    assert matgpt.nest(nested, (4,), TEXT, VAL, 1, progress=False).history.lr == 1.024 / 16 / 4


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_a_second_thread_is_for_models_of_256_dimensions(two_threads):
    for n_embd, threads in ((255, 1), (256, 2)):
        with loop.using_threads(None, make(n_embd=n_embd, n_head=1, nesting=None)):
            assert torch.get_num_threads() == threads


def test_each_step_draws_six_new_sizes_of_a_range_which_count_as_much_as_named_ones(monkeypatch):
    model, spy = make(nesting=RANGE), Mock(side_effect=step_losses)
    monkeypatch.setattr(loop, "step_losses", spy)
    run(model, batch_size=100, share=0.5, eval_interval=40)
    draws = []
    for _, passes, _, weight, *_ in (call.args for call in spy.call_args_list):
        draws.append({size for trunk, _ in passes for size in trunk})
        assert {weight(size) for size in draws[-1]} == {1 / len(model.sizes)}
    assert all({model.sizes[0], model.config.full} <= sizes for sizes in draws)
    assert max(map(len, draws)) == 2 + 6 and len(set().union(*draws) - set(model.sizes)) > 20


@pytest.mark.slow
def test_the_texts_of_a_step_differ(variant):
    """Blocks are drawn from all of the text by the seed and the step alone, and each trunk has its own."""
    ids = torch.randint(7, (999,), generator=torch.Generator().manual_seed(0))

    def texts(seed, ids=ids):
        model = make(variant, nesting=LATTICE, seed=torch.seed() % 2**31)
        with recorded(model) as steps:
            train(model, ids, ids, 20, 4, seed=seed, share=0.6, progress=False, eval_blocks=1)
        return [[x.tolist() for *_, x in passes] for passes, *_ in steps]

    only = ids[:8].tolist()  # of the shortest text
    assert all(block == only for step in texts(0, ids[:9]) for x in step for block in x)
    steps = texts(0)
    blocks = [tuple(block) for step in steps for x in step for block in x]
    assert {len(step) for step in steps} == {1 if variant is MatryoshkaEmbeddingsGPT else 3}
    assert len({*blocks}) > 0.9 * len(blocks) and {*blocks} <= set(map(tuple, ids.unfold(0, 8, 1).tolist()))
    assert steps == texts(0) != texts(1)


def test_loss_weights_choose_what_learns():
    """A doll of weight 0 is never read."""
    for weights, size in (((1, 0, 0), CONFIG.sizes[0]), ((0, 1, 0), CONFIG.sizes[1])):
        model = make()
        with recorded(model) as steps:
            run(model, steps=3, loss_weights=weights)
        assert [[trunk for trunk, *_ in passes] for passes, *_ in steps] == [[[size]]] * 3


# ---- what a run costs
def counted(work, *steps):
    """What a run of more steps costs more: (FLOPs in its history, FLOPs that torch counts, steps)."""
    pairs = []
    for n in steps:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            history = work(n)
        pairs.append((history.spent, counter.get_total_flops(), n))
    return np.diff(pairs, axis=0)[0].tolist()


def adamw_flops(model, kind):
    """Torch counts matrix products alone, so not AdamW's 15 for each number."""
    muon = [layer.weight for layer in model.modules() if isinstance(layer, NestedLinear) and kind == "muon"]
    return 15 * sum(p.numel() for p in {*model.parameters()} - {*muon} if p.requires_grad)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("nesting", [LATTICE, (Size(8, 2, 2, (5, 30)), Size(16, 1, 2))])
def test_a_step_costs_what_torch_counts(variant, nesting, kind):
    """A trunk runs once, and is read out only for the sequences that each of its depths reads."""

    def work(steps):
        settings = dict(optimizer=kind, eval_interval=100, eval_blocks=1, share=0.5)
        return run(make(variant, nesting=nesting), steps=steps, **settings)

    price, count, steps = counted(work, 2, 6)
    assert price == count + steps * adamw_flops(make(variant), kind)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_the_price_of_a_model_alone_is_known_before_it_trains(kind):
    for size in CONFIG.sizes:
        alone = MatryoshkaGPT(CONFIG.doll(size))
        state = torch.get_rng_state()
        price = step_flops(CONFIG, 4, kind, size)
        assert run(alone, steps=3, optimizer=kind).spent == 3 * price
        assert torch.equal(torch.get_rng_state(), state), "a price draws nothing"


def test_nesting_costs_what_torch_counts():
    """The teacher's passes and, before the first step, measuring importance count."""
    plain, ids = make(nesting=None), np.array(TEXT)

    def work(steps):
        settings = dict(batch_size=4, eval_blocks=1, eval_interval=100, progress=False)
        model = matgpt.nest(plain, LATTICE, ids, ids, steps, **settings)
        assert model.history.flops[0] == fixed
        return model.history

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        nesting.importance(plain, ids)
    fixed = counter.get_total_flops()
    price, count, steps = counted(work, 2, 6)
    assert price == count + steps * adamw_flops(make(), "adamw")


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_the_contrastive_stage_costs_what_torch_counts(variant, micro_batch):
    """Texts as long as a block, since attention is priced at full context."""
    tokenizer = matgpt.BPETokenizer([bytes([b]) for b in range(256)])
    words = [f"{i:08}" for i in range(20)]
    pairs = Pairs(words, words[::-1], words, words)

    def work(steps):
        settings = dict(micro_batch=micro_batch, eval_interval=100, progress=False, val_pairs=pairs)
        return matgpt.train_embeddings(make(variant, vocab_size=256), pairs, tokenizer, steps, 6, **settings)

    price, count, steps = counted(work, 1, 3)
    similarities = steps * sum(3 * 2 * 6 * 6 * size.n_embd for size in CONFIG.sizes)  # not in the price
    assert price == count - similarities + steps * adamw_flops(make(variant, vocab_size=256), "muon")


@pytest.mark.slow
def test_a_budget_of_flops_ends_within_one_step(model):
    budget = 4e7
    with recorded(model) as steps:
        history = run(model, steps=None, flops=budget, lr=0.02, warmup=0.25, eval_interval=1)
    dearest = max(np.diff(history.flops).tolist())
    assert budget <= history.spent == history.flops[-1] < budget + dearest
    assert len(steps) == history.steps[-1]
    rates = [learning_rate(flops / budget, 0.02, 0.25) for flops in history.flops[:-1]]
    assert [rate for _, (rate, *_), _ in steps] == pytest.approx(rates)
    history = run(model, steps=None, flops=budget)
    assert history.flops == pytest.approx([tenth / 10 * budget for tenth in range(11)], abs=dearest)


# ---- the loop
@pytest.mark.slow
def test_every_size_learns(model):
    history = run(model, eval_interval=15)
    assert history.steps == [0, 15, 30, 40] and history.lr == 1e-2
    for size in model.sizes:
        assert abs(history.val[size][0] - math.log(7)) < 0.1
        for ids, losses in ((TEXT, history.train), (VAL, history.val)):
            assert losses[size][-1] < 0.75 * losses[size][0]
            assert matgpt.evaluate(model, ids, size, max_blocks=8) == pytest.approx(losses[size][-1])


def test_history_by_width_as_a_table_and_as_a_figure():
    history = run(make(), steps=2, eval_interval=1)
    assert history.val[16] is history.val[CONFIG.full] and history.train[16] is history.train[CONFIG.full]
    head, *rows = str(history).splitlines()
    assert head.split() == ["step", "FLOPs", *map(str, history.sizes)] and len(rows) == 3
    assert rows[2].split()[0] == "2" and rows[2].split()[-1] == f"{history.val[16][2]:.4f}"
    labels = [figure.axes[0].get_xlabel() for figure in (history.plot(), history.plot("flops"))]
    assert labels == ["training step", "training FLOPs"]


def test_dropout_differs_from_step_to_step():
    model, masks = make(nesting=None, dropout=0.5), []
    model.dropout.register_forward_hook(lambda layer, _, y: masks.append(y == 0) if layer.training else None)
    run(model, steps=5, eval_blocks=1, eval_interval=5)
    assert len(masks) == 5 and not any(map(torch.equal, masks, masks[1:]))


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_the_rate_follows_the_schedule_and_the_gradient_is_clipped(kind):
    model = make()
    with recorded(model) as steps:
        run(model, steps=20, warmup=0.25, lr=0.02, grad_clip=1e-3, optimizer=kind)
    assert len(steps) == 20
    for i, (_, rates, gradients) in enumerate(steps):
        assert rates == pytest.approx([learning_rate(i / 20, 0.02, 0.25)] * len(rates))
        assert get_total_norm(gradients.values()).item() == pytest.approx(1e-3, rel=1e-3)
    with recorded(model) as steps:
        run(model, steps=5, grad_clip=0, optimizer=kind)
    assert all(get_total_norm(gradients.values()) > 1e-2 for *_, gradients in steps), "0 does not clip"


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_steps_multiply_in_the_dtype_and_evaluations_and_weights_are_float32(variant, dtype):
    model, products = make(variant), {True: set(), False: set()}
    layer = model.blocks[0].feedforward.proj
    layer.register_forward_hook(lambda layer, _, y: products[layer.training].add(y.dtype))
    run(model, steps=2, dtype=dtype)
    steps = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    assert products == {True: {steps}, False: {torch.float32}}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16), precision(torch.device("cpu"), "float32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32, "whatever was chosen around it"


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("frozen", ["blocks", "embedding", "blocks.0 embedding norm"])
def test_frozen_parts_stay_and_the_rest_learns(frozen, kind):
    model = make()
    for name in frozen.split():
        model.get_submodule(name).requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    history = run(model, optimizer=kind, steps=20)
    still = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if kind == "adamw":
        assert run(make(), optimizer=kind, steps=20).spent - history.spent == 20 * 15 * still
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name
    assert history.val[16][-1] < history.val[16][0]


@pytest.mark.slow
def test_a_compiled_model_trains_as_it_would_uncompiled():
    plain, other = make(nesting=None), make(nesting=None)
    run(plain, steps=2)
    run(torch.compile(other, backend="eager"), steps=2)
    torch.testing.assert_close(plain.state_dict(), other.state_dict())


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, nullcontext])
def test_a_run_sets_mode_gradients_and_grad_mode_itself(around, xy):
    """Whatever surrounds it, and whatever `on_evaluation` leaves behind."""

    def on_evaluation(history):
        model.eval()
        torch.manual_seed(0)
        if around is nullcontext:
            with torch.enable_grad():
                matryoshka_loss(model, *xy).backward()
        torch.set_grad_enabled(False)

    model, other = make(dropout=0.2), make(dropout=0.2)
    expected = run(other, steps=4, eval_interval=1)
    matryoshka_loss(model, *xy).backward()
    with around():
        assert run(model, steps=4, eval_interval=1, on_evaluation=on_evaluation) == expected
        assert torch.is_grad_enabled() == (around is nullcontext)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


@pytest.mark.parametrize("end", ["whole", "interrupted", "diverged"])
def test_a_run_leaves_everything_else_as_it_was(model, end, two_threads):
    threads = None if end == "whole" else 3

    def on_evaluation(history):
        assert model.training and torch.get_num_threads() == (threads or 1)
        if history.steps[-1] and end == "interrupted":
            raise KeyboardInterrupt

    model.eval()
    model.blocks[1].train()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    with pytest.raises(DivergedError) if end == "diverged" else nullcontext():
        lr = 1e30 if end == "diverged" else 0.01
        run(model, steps=3, eval_interval=1, on_evaluation=on_evaluation, lr=lr, threads=threads)
    assert torch.get_num_threads() == 2
    assert not model.training and not model.blocks[0].feedforward.dropout.training
    assert model.blocks[1].training and model.blocks[1].feedforward.dropout.training
    assert torch.equal(torch.get_rng_state(), states[0]) and np.random.get_state()[1].tolist() == states[1]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("calls", [7, 9, 30])
def test_interrupting_anywhere_leaves_lists_of_equal_length(model, calls):
    with model.register_forward_pre_hook(Mock(side_effect=[None] * calls + [KeyboardInterrupt])):
        history = run(model, eval_interval=2, eval_blocks=1)
    assert 1 <= len(history.steps) < 20, "interrupted on the way"
    assert_equal_lengths(history)
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_that_is_not_finite_stops_the_run(model):
    def on_evaluation(history):
        if history.steps[-1] == 10:
            model.norm.weight.data[0] = math.nan

    message = "step 10: .*not finite.*lr=0.01, weight_decay=0.1 and torch.float32"
    with pytest.raises(DivergedError, match=message) as error:
        run(model, eval_interval=5, on_evaluation=on_evaluation)
    assert error.value.history.steps == [0, 5, 10]
    assert_equal_lengths(error.value.history)
    sent = pickle.loads(pickle.dumps(error.value))  # as a pool of processes sends it
    assert str(sent) == str(error.value) and sent.history == error.value.history
    with pytest.raises(DivergedError, match=r"step 1: .*lr=1e\+30") as error:  # noticed by the evaluation
        run(make(), steps=1, warmup=0, lr=1e30)
    assert error.value.history.steps == [0]


# ---- bad arguments
WEIGHTS = "must be 3 numbers of at least 0"
WHOLE, NUMBER = "must be a whole number of at least", "must be a number in"
BAD = [
    (dict(loss_weights=(1, 1)), rf"loss_weights=\(1, 1\) {WEIGHTS}"),
    (dict(loss_weights=(0, 0, 0)), rf"loss_weights=\(0, 0, 0\) {WEIGHTS}"),
    (dict(loss_weights=(-1, 2, 2)), rf"loss_weights=\(-1, 2, 2\) {WEIGHTS}"),
    (dict(loss_weights=(1, math.nan, 1)), f"loss_weights=.*nan.* {WEIGHTS}"),
    (dict(steps=0), f"steps=0 {WHOLE} 1"),
    (dict(batch_size=1.5), f"batch_size=1.5 {WHOLE} 1"),
    (dict(eval_blocks=0), f"eval_blocks=0 {WHOLE} 1"),
    (dict(threads=0), f"threads=0 {WHOLE} 1"),
    (dict(lr=-0.1), rf"lr=-0.1 {NUMBER} \[0, inf\)"),
    (dict(lr=math.nan), f"lr=nan {NUMBER}"),
    (dict(weight_decay=None), f"weight_decay=None {NUMBER}"),
    (dict(warmup=1), rf"warmup=1 {NUMBER} \[0, 1\)"),
    (dict(share=1), rf"share=1 {NUMBER} \[0, 1\)"),
    (dict(flops=1e9), "steps=2 and flops=1000000000.0: give one budget, not both"),
    (dict(steps=None, flops=0), rf"flops=0 {NUMBER} \(0, inf\)"),
    (dict(steps=None, flops="1e9"), f"flops='1e9' {NUMBER}"),
    (dict(dtype="float16"), 'dtype=\'float16\' must be "float32" or "bfloat16"'),
    (dict(optimizer="sgd"), 'optimizer=\'sgd\' must be "muon" or "adamw"'),
    (dict(on_evaluation=5), "on_evaluation=5 must be a function"),
    (dict(resume=True), "resume=True needs the checkpoint_dir"),
    (dict(train_ids=TEXT[:8]), r"train_ids has shape \(8,\) .* more than block_size=8"),
    (dict(val_ids=TEXT + [-1, 9]), "val_ids holds token id -1, outside the vocabulary: allowed are 0 to 6"),
]


@pytest.mark.parametrize("bad, message", BAD)
def test_a_bad_argument_is_named_before_any_work(bad, message):
    model = make()
    model.register_forward_pre_hook(lambda *_: pytest.fail("work was done"))
    options = {"train_ids": TEXT, "val_ids": TEXT, "steps": 2, "progress": False, **bad}
    assert_refused(message, train, model, **options)
