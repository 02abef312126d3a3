"""What one step does to the weights."""

import pytest
import torch

from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, train
from matgpt.nested import corner
from matgpt.training import optimizer
from matgpt.training.optimizer import Muon, even, make_optimizers, orthogonalize
from matgpt.training.price import union

NESTED = GPTConfig(7, 8, 16, 2, 2, nesting=(Size(8, 1, 1), Size(8, 2, 2)))


def everything(model):
    return {name: p.shape for name, p in model.named_parameters()}


def make(config, variant=MatryoshkaGPT):
    torch.manual_seed(0)
    model = variant(config).double()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    return model


def moved(model, optimizer):
    """By how much one step moves every weight, over the learning rate of 1e-3."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step(everything(model))
    return {name: (before[name] - p.detach()) / 1e-3 for name, p in model.named_parameters()}


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 40), (2, 40, 8), (1, 1, 5)])
def test_orthogonalize(shape):
    """Singular vectors stay; singular values come together, by the polynomial of the iteration."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    u, values, v = torch.linalg.svd(x, full_matrices=False)
    values = values / values.norm(dim=-1, keepdim=True)
    spread = values.amax() / values.amin()
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = u @ torch.diag_embed(values) @ v
    torch.testing.assert_close(orthogonalize(x), expected, atol=1e-5, rtol=0)
    assert values.max() < 1.25 and values.amax() / values.amin() < max(2, spread / 2)


def test_a_plain_gpt_takes_the_step_of_pytorchs_own_muon_evened_out(monkeypatch):
    """That one takes matrices alone and works in bfloat16, in five iterations; square ones are equal."""
    monkeypatch.setattr(optimizer, "ITERATIONS", 5)
    model = make(GPTConfig(7, 8, 16, 2, 2))
    theirs = {
        name: torch.nn.Parameter(model.get_parameter(name).detach().flatten(1).clone())
        for name in (
            "blocks.0.attention.proj.weight",
            "blocks.1.feedforward.expand.weight",
            "blocks.1.feedforward.proj.weight",
        )
    }
    ours = Muon(model, lr=1e-3, weight_decay=0.0)
    reference = torch.optim.Muon(theirs.values(), lr=1e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        torch.manual_seed(step)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        for name, p in theirs.items():
            p.grad = model.get_parameter(name).grad.flatten(1)
        before = {name: p.detach().clone() for name, p in theirs.items()}
        ours_before = {name: model.get_parameter(name).detach().flatten(1).clone() for name in theirs}
        ours.step(everything(model))
        reference.step()
        for name, p in theirs.items():
            moved, expected = model.get_parameter(name).flatten(1) - ours_before[name], p - before[name]
            units = {"expand": 1, "proj": 0}[
                name.split(".")[-2]
            ]  # the axis along which a hidden unit's vector lies
            if moved.size(0) != moved.size(1):
                expected = expected / expected.norm(dim=units, keepdim=True)
                lengths = moved.norm(dim=units, keepdim=True)
                torch.testing.assert_close(lengths, torch.full_like(lengths, 0.2e-3 * 16**0.5))
                moved = moved / lengths
            torch.testing.assert_close(moved, expected, atol=5e-2 * expected.abs().max().item(), rtol=0)


def test_queries_keys_and_values_of_each_head_are_a_matrix():
    model = make(GPTConfig(7, 8, 16, 2, 2))
    qkv = model.blocks[1].attention.qkv.weight
    expected = even(orthogonalize(qkv.grad.reshape(6, 8, 16))).view_as(qkv)
    found = moved(model, Muon(model, lr=1e-3, weight_decay=0.0))["blocks.1.attention.qkv.weight"]
    torch.testing.assert_close(found, expected * 0.2 * 16**0.5, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", [MatryoshkaGPT, MatryoshkaEmbeddingsGPT])
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_weight_moves_once(variant, kind):
    model = make(NESTED, variant)
    optimizers = make_optimizers(kind, model, 1e-3, 0.0)
    held = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({*held}) == len(list(model.parameters()))
    assert all(step.abs().min() > 0 for step in moved(model, optimizers).values())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_only_matrices_decay(kind, bias):
    model = make(GPTConfig(7, 8, 16, 2, 2, bias=bias))
    for p in model.parameters():
        p.grad.zero_()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    make_optimizers(kind, model, lr=0.5, weight_decay=0.1).step(everything(model))
    for name, p in model.named_parameters():
        matrix = not name.endswith("bias") and "norm" not in name
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if matrix else 1), msg=name)


def test_union_is_the_longest_of_each_axis():
    model = make(NESTED)
    sizes = Size(8, 2, 1, 40), Size(12, 1, 2, 9)
    found = union(model.config, sizes)
    dolls = [everything(model.slice(size)) for size in sizes]
    assert set(found) == set(dolls[0]) | set(dolls[1])
    for name, shape in found.items():
        some = [doll[name] for doll in dolls if name in doll]
        assert tuple(shape) == tuple(max(axis) for axis in zip(*some)), name
    assert found["blocks.0.attention.qkv.weight"] == (3, 2, 8, 12)
    assert found["blocks.1.feedforward.expand.weight"] == (9, 12)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_corner_moves_as_a_model_of_its_own_would(kind):
    """The reference is PyTorch's AdamW, or Muon, on a model of that size alone."""
    model, size = make(NESTED), Size(8, 1, 1)
    small = MatryoshkaGPT(NESTED.doll(size)).double()
    read = everything(small)
    with torch.no_grad():
        for name, p in small.named_parameters():
            p.copy_(corner(model.get_parameter(name), *p.shape))
    if kind == "muon":
        theirs = make_optimizers("muon", small, 1e-2, 0.1)
    else:
        vectors = [p for name, p in small.named_parameters() if p.dim() < 2 or name.endswith("bias")]
        matrices = [p for name, p in small.named_parameters() if not (p.dim() < 2 or name.endswith("bias"))]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        theirs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99))
    ours = make_optimizers(kind, model, 1e-2, 0.1)
    outside = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(6):
        for i, (name, p) in enumerate(model.named_parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i)).double()
            if name in read:
                p.grad *= 10.0**-step  # so that moments matter
                small.get_parameter(name).grad = corner(p.grad, *read[name]).clone()
        ours.step(read)
        theirs.step(read) if kind == "muon" else theirs.step()
    for name, p in model.named_parameters():
        if name in read:
            mine = corner(p.detach(), *read[name])
            torch.testing.assert_close(mine, small.get_parameter(name).detach(), msg=name)
            mine.copy_(corner(outside[name], *read[name]))
        assert torch.equal(p, outside[name]), name


def test_adamw_is_pytorchs_whether_steps_are_whole_or_not():
    """What lies outside a step's corner keeps its moments for the steps that read it."""
    model, other = make(NESTED), make(NESTED)
    ours = make_optimizers("adamw", model, 1e-2, 0.1)
    vector = lambda name, p: p.dim() < 2 or name.endswith("bias")
    named = list(other.named_parameters())
    groups = [
        {"params": [p for n, p in named if not vector(n, p)], "weight_decay": 0.1},
        {"params": [p for n, p in named if vector(n, p)], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99))
    nearly = {**everything(model), "norm.bias": torch.Size([0])}  # the way of corners, with all but a bias
    for step in range(6):
        torch.manual_seed(step)
        for (name, p), (_, q) in zip(model.named_parameters(), named):
            p.grad = torch.randn_like(p) * 10.0**-step
            q.grad = None if name == "norm.bias" and step % 2 else p.grad.clone()
        ours.step(nearly if step % 2 else everything(model))
        theirs.step()
    for (name, p), (_, q) in zip(model.named_parameters(), named):
        if name != "norm.bias":
            torch.testing.assert_close(p, q, msg=name)


def test_muon_remembers():
    """The momentum is 0.95, and the step looks ahead."""
    model = make(GPTConfig(7, 8, 16, 2, 1))
    optimizer = Muon(model, lr=1e-3, weight_decay=0.0)
    weight = model.blocks[0].attention.proj.weight
    first, second = (torch.randn(16, 16, dtype=torch.double) for _ in range(2))
    average = 0
    for grad in (first, second):
        weight.grad = grad.view_as(weight).clone()
        average = 0.95 * average + 0.05 * grad
        expected = orthogonalize((0.05 * grad + 0.95 * average)[None])[0]
        found = moved(model, optimizer)["blocks.0.attention.proj.weight"].reshape(16, 16)
        torch.testing.assert_close(found, expected * 0.2 * 16**0.5, atol=1e-5, rtol=0)


def test_frozen_parameters_are_left_alone():
    model = make(NESTED)
    model.blocks.requires_grad_(False)
    for kind in ("muon", "adamw"):
        optimizers = make_optimizers(kind, model, 1e-3, 0.1)
        found = moved(model, optimizers)
        assert {name for name, step in found.items() if step.any()} == {
            name for name, p in model.named_parameters() if p.requires_grad
        }
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert optimizers.flops(everything(model)) == 15 * count


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match='optimizer=\'sgd\' must be "muon" or "adamw"'):
        train(MatryoshkaGPT(NESTED), list(range(7)) * 9, list(range(7)) * 9, optimizer="sgd")
