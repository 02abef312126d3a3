"""What one step does to the weights."""

import pytest
import torch

from matgpt import GPTConfig, MatryoshkaGPT
from matgpt.training import optimizer
from matgpt.training.optimizer import Muon, even, make_optimizers, muon_layers, orthogonalize

from .conftest import assert_refused

PLAIN = GPTConfig(7, 8, 16, 2, 2)


def make(config=PLAIN):
    torch.manual_seed(0)
    model = MatryoshkaGPT(config).double()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    return model


def change(model, optimizers):
    """By how much one step changes every weight, over the learning rate of 1e-3."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for each in optimizers:
        each.step()
    return {name: (before[name] - p.detach()) / 1e-3 for name, p in model.named_parameters()}


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 40), (2, 40, 8), (1, 1, 5)])
def test_orthogonalize_keeps_singular_vectors_and_levels_singular_values(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    u, values, v = torch.linalg.svd(x, full_matrices=False)
    values = values / values.norm(dim=-1, keepdim=True)
    spread = values.amax() / values.amin()
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    torch.testing.assert_close(orthogonalize(x), u @ torch.diag_embed(values) @ v, atol=1e-5, rtol=0)
    assert values.max() < 1.25 and values.amax() / values.amin() < max(2, spread / 2)


def test_three_iterations_are_safe_in_bfloat16():
    """LOG.md, "a matrix for each head, three iterations": five give singular values of more than 10."""
    generator = torch.Generator().manual_seed(0)
    for rank in (1, 2, 4) * 5:
        factors = [torch.randn(8, *shape, generator=generator) for shape in ((128, rank), (rank, 512))]
        with torch.autocast("cpu", torch.bfloat16):
            x = orthogonalize((factors[0] @ factors[1]).float())
        assert torch.linalg.matrix_norm(x.float(), 2).max() < 2


def test_muon_takes_the_step_of_pytorchs_own_evened_out(monkeypatch):
    """That one takes plain matrices and works in bfloat16, in five iterations."""
    monkeypatch.setattr(optimizer, "ITERATIONS", 5)
    model = make()
    changes = change(model, [Muon(muon_layers(model), lr=1e-3, weight_decay=0.0)])
    units = {"attention.proj": None, "feedforward.expand": 1, "feedforward.proj": 0}  # axis of a hidden unit
    for name, axis in units.items():
        ours = changes[f"blocks.0.{name}.weight"].flatten(1)
        weight = torch.nn.Parameter(torch.zeros_like(ours))
        weight.grad = model.get_parameter(f"blocks.0.{name}.weight").grad.flatten(1)
        torch.optim.Muon([weight], lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
        theirs = -weight.detach()
        if axis is not None:
            lengths = ours.norm(dim=axis)
            torch.testing.assert_close(lengths, torch.full_like(lengths, 0.2 * 16**0.5))
            ours, theirs = (step / step.norm(dim=axis, keepdim=True) for step in (ours, theirs))
        torch.testing.assert_close(ours, theirs, atol=5e-2 * theirs.abs().max().item(), rtol=0)


def test_queries_keys_and_values_of_each_head_are_a_matrix():
    model = make(GPTConfig(7, 8, 16, 8, 2))  # more matrices than any has rows
    grad = model.blocks[1].attention.qkv.weight.grad
    expected = even(orthogonalize(grad.reshape(24, 2, 16))).view_as(grad) * 0.2 * 16**0.5
    changes = change(model, [Muon(muon_layers(model), lr=1e-3, weight_decay=0.0)])
    torch.testing.assert_close(changes["blocks.1.attention.qkv.weight"], expected, atol=1e-5, rtol=0)


def test_muon_remembers_in_the_same_buffer(monkeypatch):
    """The momentum is 0.95, and the step looks ahead; no buffer is made anew."""
    model = make()
    muon, average, buffers = Muon(muon_layers(model), lr=1e-3, weight_decay=0.0), 0, set()
    weight = model.blocks[0].attention.proj.weight
    for _ in range(3):
        weight.grad = torch.randn_like(weight)
        grad = weight.grad.reshape(1, 16, 16)
        average = 0.95 * average + 0.05 * grad
        expected = orthogonalize(0.05 * grad + 0.95 * average).reshape(weight.shape) * 0.2 * 16**0.5
        changes = change(model, [muon])
        torch.testing.assert_close(changes["blocks.0.attention.proj.weight"], expected, atol=1e-5, rtol=0)
        buffers.add(muon.state[weight]["momentum"].data_ptr())
    assert len(buffers) == 1
    monkeypatch.setattr(optimizer.torch, "zeros_like", lambda p: pytest.fail("a buffer that is thrown away"))
    muon.step()


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_weight_has_one_optimizer_and_moves(kind):
    model = make()
    optimizers = make_optimizers(kind, model, 1e-3, 0.0)
    held = [p for each in optimizers for group in each.param_groups for p in group["params"]]
    assert len(held) == len({*held}) == len(list(model.parameters()))
    assert [type(each).__name__ for each in optimizers] == (["Muon"] if kind == "muon" else []) + ["AdamW"]
    assert all(step.abs().min() > 0 for step in change(model, optimizers).values())
    frozen, meta = model.requires_grad_(False), MatryoshkaGPT(PLAIN).to("meta")
    with torch.inference_mode():
        inference = MatryoshkaGPT(PLAIN)
    assert_refused("all parameters of the model are frozen", make_optimizers, kind, frozen, 1e-3, 0.0)
    assert_refused("meta device", make_optimizers, kind, meta, 1e-3, 0.0)
    assert_refused(r"made inside torch.inference_mode\(\)", make_optimizers, kind, inference, 1e-3, 0.0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_only_matrices_decay(kind, bias):
    model = make(GPTConfig(7, 8, 16, 2, 2, bias=bias))
    for p in model.parameters():
        p.grad.zero_()
        p.data += 1  # biases begin at 0, where nothing would be seen
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, step in change(model, make_optimizers(kind, model, lr=1e-3, weight_decay=0.1)).items():
        matrix = not name.endswith("bias") and "norm" not in name
        torch.testing.assert_close(step, before[name] * (0.1 if matrix else 0), msg=name)
