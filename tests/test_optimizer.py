"""What one step does to the weights."""

import pytest
import torch

from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, train
from matgpt.training.optimizer import Muon, make_optimizers, orthogonalize

NESTED = GPTConfig(7, 8, 16, 2, 2, nesting=(Size(8, 1, 1), Size(8, 2, 2)))


def make(config, variant=MatryoshkaGPT):
    torch.manual_seed(0)
    model = variant(config).double()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    return model


def moved(model, optimizer):
    """By how much one step moves every weight, over the learning rate of 1e-3."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    return {name: (before[name] - p.detach()) / 1e-3 for name, p in model.named_parameters()}


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 40), (2, 40, 8), (1, 1, 5)])
def test_orthogonalize(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    y = orthogonalize(x)
    assert y.shape == x.shape
    values = torch.linalg.svdvals(y)
    assert values.min() > 0.65 and values.max() < 1.25
    # the nearest orthogonal matrix keeps the singular vectors: their product with it is symmetric and positive
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    along = u.mT @ y @ v.mT
    torch.testing.assert_close(along, torch.diag_embed(along.diagonal(dim1=-2, dim2=-1)), atol=1e-9, rtol=0)
    assert (along.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_a_plain_gpt_takes_the_step_of_pytorchs_own_muon_evened_out():
    """That one takes matrices alone and works in bfloat16; where rows and columns are as many, the steps are equal."""
    model = make(GPTConfig(7, 8, 16, 2, 2))
    theirs = {
        name: torch.nn.Parameter(model.get_parameter(name).detach().flatten(1).clone())
        for name in (
            "blocks.0.attention.proj.weight",
            "blocks.1.feedforward.expand.weight",
            "blocks.1.feedforward.proj.weight",
        )
    }
    optimizer = Muon(model, lr=1e-3, weight_decay=0.0)
    reference = torch.optim.Muon(theirs.values(), lr=1e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        torch.manual_seed(step)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        for name, p in theirs.items():
            p.grad = model.get_parameter(name).grad.flatten(1)
        before = {name: p.detach().clone() for name, p in theirs.items()}
        ours_before = {name: model.get_parameter(name).detach().flatten(1).clone() for name in theirs}
        optimizer.step()
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


def test_queries_keys_and_values_are_a_matrix_each():
    model = make(GPTConfig(7, 8, 16, 2, 2))
    qkv = model.blocks[1].attention.qkv.weight
    expected = [orthogonalize(g.reshape(1, 16, 16)).view_as(g) for g in qkv.grad]
    found = moved(model, Muon(model, lr=1e-3, weight_decay=0.0))["blocks.1.attention.qkv.weight"]
    torch.testing.assert_close(found, torch.stack(expected) * 0.2 * 16**0.5)


@pytest.mark.parametrize("variant", [MatryoshkaGPT, MatryoshkaEmbeddingsGPT])
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_weight_moves_once(variant, kind):
    model = make(NESTED, variant)
    optimizers = make_optimizers(kind, model, 1e-3, 0.0)
    held = [p for group in optimizers.groups() for p in group["params"]]
    assert len(held) == len({*held}) == len(list(model.parameters()))
    assert all(step.abs().min() > 0 for step in moved(model, optimizers).values())


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match='optimizer=\'sgd\' must be "muon" or "adamw"'):
        train(MatryoshkaGPT(NESTED), list(range(7)) * 9, list(range(7)) * 9, optimizer="sgd")
