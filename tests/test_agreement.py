"""Losses of dolls on a text, and how well they agree with the full one."""

import pytest
import torch

from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, agreement, evaluate
from matgpt.measure import evaluation
from matgpt.measure.evaluation import BySize, evaluate_sizes

from .conftest import assert_refused, random_model

SIZES = (Size(8, 1, 1), Size(16, 2, 2))
TEXT = torch.randint(13, (8 * 21 + 5,), generator=torch.Generator().manual_seed(0))


def make(kind=MatryoshkaGPT, nesting=SIZES, dropout=0.0):
    return random_model(kind, GPTConfig(13, 8, 32, 2, 3, nesting=nesting, dropout=dropout)).float()


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
