"""The Matryoshka loss, and the loop that lowers it."""

import math
import weakref

import pytest
import torch
import torch.nn.functional as F

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
from matgpt.training import loop as training
from matgpt.training.optimizer import learning_rate, make_optimizers

TEXT = [0, 1, 2, 3, 4, 5, 6, 3] * 40  # after a 3 comes a 4 or a 0: only context tells
CONFIG = GPTConfig(7, 8, 16, 2, 2, nesting=(8, Size(8, 1, 1)))
LATTICE = [Size(d, h, l) for d, h in ((4, 1), (8, 1), (16, 2)) for l in (1, 2)]


def make(variant, seed=0, **changes):
    torch.manual_seed(seed)
    return variant(GPTConfig(**{**vars(CONFIG), **changes}))


def run(model, **settings):
    return train(
        model,
        TEXT,
        TEXT[:100],
        **{
            "steps": 40,
            "batch_size": 4,
            "lr": 1e-2,
            "warmup": 4,
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


def alike(model, xy):
    """The same batch for every trunk."""
    return [ids.expand(len(model.trunks(model.sizes)), *ids.shape) for ids in xy]


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
    losses = training.matryoshka_backward(
        model, *alike(model, xy), model.sizes, [w / sum(weights) for w in weights]
    )
    torch.testing.assert_close(gradients(model), direct, rtol=1e-9, atol=1e-12)
    assert sum(w * l for w, l in zip(weights, losses)).item() / sum(weights) == pytest.approx(loss.item())


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
        losses = training.matryoshka_backward(model, *alike(model, xy), model.sizes, [1 / 3] * 3)
    assert at_start == [0, 0, 0] and min(at_end) > 0 and not any(loss.requires_grad for loss in losses)

    at_start.clear()
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        loss = matryoshka_loss(model, *xy)
    assert 0 == at_start[0] < at_start[1] < at_start[2] and loss.requires_grad, (
        "the plain loss keeps all graphs"
    )


def test_the_trunk_of_an_output_only_model_runs_once_a_step(xy):
    model, ran = make(MatryoshkaEmbeddingsGPT), []
    model.blocks[0].register_forward_pre_hook(lambda *_: ran.append(1))
    losses = training.matryoshka_backward(model, *alike(model, xy), model.sizes, [1 / 3] * 3)
    assert len(ran) == 1 and len(losses) == 3 and not any(loss.requires_grad for loss in losses)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("bias", [True, False])
def test_only_matrices_decay(variant, bias, kind):
    model = make(variant, bias=bias)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizers(kind, model, lr=0.5, weight_decay=0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        matrix = not name.endswith("bias") and "norm" not in name
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if matrix else 1), msg=name)


def test_learning_rate_warms_up_and_falls():
    rates = [learning_rate(step, 100, 1.0, 10) for step in range(101)]
    assert 0 < rates[0] < 0.2 and rates[10] == max(rates) == pytest.approx(1)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[50] > 0.3 and 0 <= rates[100] < 0.101


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


def test_every_size_learns(model):
    history = run(model, eval_interval=15)
    assert history.steps == [0, 15, 30, 40] and history.lr == 1e-2
    assert_equal_lengths(history)
    for size in model.sizes:
        assert abs(history.val[size][0] - math.log(7)) < 0.1
        assert history.val[size][-1] < 0.6 * history.val[size][0]
        assert history.train[size][-1] < 0.6 * history.train[size][0]
        assert evaluate(model, TEXT[:100], size, max_blocks=8) == history.val[size][-1]
    assert not model.training


def test_history_by_width(variant):
    history = run(make(variant), steps=1)
    assert history.val[16] is history.val[CONFIG.full] and history.train[16] is history.train[CONFIG.full]
    with pytest.raises(KeyError, match="8 names 2 of"):
        history.val[8]
    with pytest.raises(KeyError, match="5 names 0 of"):
        history.val[5]


def test_a_seed_repeats_bit_for_bit(variant):
    def losses_and_weights(seed):
        model = make(variant, dropout=0.1)
        torch.manual_seed(torch.seed() if seed == 1 else 5)  # whatever the state outside
        state = torch.get_rng_state()
        history = run(model, steps=10, seed=seed, random_sizes=0, eval_interval=5)
        assert torch.equal(torch.get_rng_state(), state), "a run leaves the random numbers of others alone"
        return history.val, history.train, [p.detach() for p in model.parameters()]

    first, again, other = losses_and_weights(1), losses_and_weights(1), losses_and_weights(2)
    assert first[:2] == again[:2] and all(map(torch.equal, first[2], again[2]))
    assert first[0] != other[0] and not any(map(torch.equal, first[2], other[2]))


def drawn_sizes(model, monkeypatch, **settings):
    steps, real = [], training.matryoshka_backward

    def seen(model, x, y, sizes, weights):
        steps.append(list(sizes))
        assert sum(weights) == pytest.approx(1) and x.shape == y.shape == (len(model.trunks(sizes)), 4, 8)
        return real(model, x, y, sizes, weights)

    monkeypatch.setattr(training, "matryoshka_backward", seen)
    run(model, steps=12, eval_interval=12, eval_blocks=1, **settings)
    return steps


def test_random_sizes_always_hold_the_smallest_and_the_largest(monkeypatch):
    model = make(MatryoshkaGPT, nesting=(2, 4, 8, 12))
    steps = drawn_sizes(model, monkeypatch, random_sizes=1, loss_weights=(1, 1, 2, 1, 5))
    assert len(steps) == 12 and all(len(step) == 3 for step in steps)
    assert all(step[0] == model.sizes[0] and step[2] == model.sizes[-1] for step in steps)
    assert {step[1] for step in steps} == set(model.sizes[1:-1])


def test_sizes_whose_blocks_run_anyway_come_along(monkeypatch):
    """A pass of a deep doll reads out the shallow ones of its width; an output-only model has one trunk for all."""
    model = make(MatryoshkaGPT, nesting=LATTICE)
    for step in drawn_sizes(model, monkeypatch, random_sizes=1):
        assert step == [s for s in model.sizes if s in step], "smallest first, as the weights"
        assert {model.sizes[0], Size(16, 2, 1), Size(16, 2, 2)} <= set(step)
        assert Size(8, 1, 2) not in step or Size(8, 1, 1) in step
    model = make(MatryoshkaEmbeddingsGPT, nesting=(2, 4, 8, 12))
    assert all(step == list(model.sizes) for step in drawn_sizes(model, monkeypatch, random_sizes=0))


def test_a_trunk_runs_once_for_all_its_depths(xy):
    model, ran = make(MatryoshkaGPT, nesting=LATTICE), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, x: ran.append(x[0].shape[-1]))
    training.matryoshka_backward(model, *alike(model, xy), model.sizes, [1 / 6] * 6)
    assert ran == [16, 16, 8, 8, 4, 4], "each width once, the largest first"


@pytest.mark.parametrize("nesting", [(4, 8), LATTICE])
def test_every_trunk_learns_from_a_batch_of_its_own(variant, nesting):
    """The largest trunk reads the first one; sizes that run together read the same."""
    model, full = make(variant, nesting=nesting).double(), 0
    weights = [w / sum(range(1, len(model.sizes) + 1)) for w in range(1, len(model.sizes) + 1)]
    trunks = model.trunks(model.sizes)
    assert (
        len(trunks) == (1 if variant is MatryoshkaEmbeddingsGPT else 3) and trunks[0][0] == model.config.full
    )
    block = torch.randint(7, (len(trunks), 3, 9), generator=torch.Generator().manual_seed(0))
    x, y, expected = block[..., :-1], block[..., 1:], {}
    for sizes, tokens, targets in zip(trunks, x, y):
        for size in sizes:
            expected[size] = F.cross_entropy(model(tokens, size).flatten(0, 1), targets.flatten())
            full = full + weights[model.sizes.index(size)] * expected[size]
    full.backward()
    direct = gradients(model)
    model.zero_grad()
    losses = training.matryoshka_backward(model, x, y, model.sizes, weights)
    torch.testing.assert_close(gradients(model), direct, rtol=1e-6, atol=1e-9)
    assert losses == pytest.approx([expected[size].item() for size in model.sizes])
    if len(trunks) > 1:
        with pytest.raises(ValueError):  # one batch for all is one too few
            training.matryoshka_backward(model, x[:1], y[:1], model.sizes, weights)


def test_the_batches_of_a_step_differ(monkeypatch):
    model, seen, real = make(MatryoshkaGPT), [], training.matryoshka_backward
    monkeypatch.setattr(
        training, "matryoshka_backward", lambda model, x, *a: (seen.append(x), real(model, x, *a))[1]
    )
    ids = torch.randint(7, (999,), generator=torch.Generator().manual_seed(0))
    train(model, ids, ids, steps=3, batch_size=4, progress=False, eval_blocks=4)
    blocks = {tuple(block.tolist()) for x in seen for block in x.flatten(0, 1)}
    assert len(seen) == 3 and len(blocks) > 30, (
        "3 steps of 3 trunks with 4 blocks each, hardly one of them twice"
    )
    assert blocks <= {tuple(block) for block in ids.unfold(0, 8, 1).tolist()}


def test_loss_weights_choose_what_learns():
    model = make(MatryoshkaGPT)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run(model, steps=3, loss_weights=(1, 0, 0), weight_decay=0.0)
    assert torch.equal(model.embedding.token[:, 8:], before["embedding.token"][:, 8:])
    assert torch.equal(
        model.blocks[1].feedforward.expand.weight, before["blocks.1.feedforward.expand.weight"]
    )
    assert not torch.equal(model.embedding.token[:, :8], before["embedding.token"][:, :8])


def test_interrupting_returns_the_history_so_far(model):
    def on_evaluation(history):
        if history.steps[-1] == 10:
            raise KeyboardInterrupt

    history = run(model, eval_interval=5, on_evaluation=on_evaluation)
    assert history.steps == [0, 5, 10]
    assert_equal_lengths(history)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


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
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_loss_that_is_not_finite_stops_the_run(model):
    def on_evaluation(history):
        if history.steps[-1] == 10:
            model.norm.weight.data[0] = math.nan

    with pytest.raises(DivergedError, match="step 10: .*not finite.*lr=0.01") as error:
        run(model, eval_interval=5, on_evaluation=on_evaluation)
    assert error.value.history.steps == [0, 5, 10]
    assert_equal_lengths(error.value.history)


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
        (dict(warmup=-1), "warmup=-1 must be a whole number of at least 0"),
        (dict(random_sizes=-1), "random_sizes=-1 must be a whole number of at least 0"),
        (dict(random_sizes=0.5), "random_sizes=0.5 must be a whole number of at least 0"),
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
    assert stopped.value.history.steps == [0] and not model.training


def test_grad_clip_0_does_not_clip(variant):
    models = [make(variant), make(variant)]
    for model, grad_clip in zip(models, (0, 1e9)):
        run(model, steps=3, grad_clip=grad_clip)
    torch.testing.assert_close(dict(models[0].named_parameters()), dict(models[1].named_parameters()))
    assert not torch.equal(models[0].embedding.token, make(variant).embedding.token)
