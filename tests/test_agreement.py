import matplotlib
import pytest
import torch

from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, agreement, evaluate, plot
from matgpt.measure import evaluation

matplotlib.use("agg")
SIZES = (Size(8, 1, 1), Size(16, 2, 2))


def make(kind=MatryoshkaGPT, **options):
    torch.manual_seed(0)
    model = kind(GPTConfig(13, 8, 32, 2, 3, nesting=SIZES, **options))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model


@pytest.mark.parametrize("kind", [MatryoshkaGPT, MatryoshkaEmbeddingsGPT])
@torch.no_grad()
def test_agreement_by_its_definition(kind):
    model, ids = make(kind, dropout=0.5), torch.randint(13, (8 * 20 + 5,))
    found = agreement(model, ids.tolist(), max_blocks=None, batch_size=7)
    assert model.training and list(found) == list(model.sizes)
    model.eval()
    idx = ids[:160].view(20, 8)
    p = model(idx).softmax(-1)
    for size in model.sizes:
        q = model(idx, size).softmax(-1)
        assert found[size].same == pytest.approx(
            (q.argmax(-1) == p.argmax(-1)).double().mean().item(), abs=1e-12
        )
        assert found[size].kl == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), abs=1e-5)
    assert found[32] == (1.0, 0.0)
    assert 0 < found[8].same < 1 and found[8].kl > 0.01
    assert found[8] != found[16]


@torch.no_grad()
def test_a_doll_that_lacks_nothing_agrees_fully():
    model = make()
    for name, p in model.blocks[2].named_parameters():
        if ".proj." in name:
            p.zero_()
    model = MatryoshkaGPT.slice(model)
    model.config = GPTConfig(13, 8, 32, 2, 3, nesting=(Size(32, 2, 2),))
    same, kl = agreement(model, torch.randint(13, (100,)))[Size(32, 2, 2)]
    assert same == 1 and kl == pytest.approx(0, abs=1e-6)


def test_max_blocks_reads_evenly_spaced_blocks():
    model, ids = make(), torch.randint(13, (8 * 21,))
    first_and_last = torch.cat([ids[:8], ids[19 * 8 : 20 * 8], ids[:1]])  # the last token is only a target
    assert agreement(model, ids, max_blocks=2)[8] == pytest.approx(
        agreement(model, first_and_last, None)[8], abs=1e-6
    )


@pytest.mark.parametrize(
    "ids, options, names",
    [
        (list(range(8)), {}, "ids has shape"),
        ([0] * 16 + [13], {}, "token id 13"),
        ([0] * 20, dict(max_blocks=0), "max_blocks=0"),
    ],
)
def test_bad_arguments(ids, options, names):
    with pytest.raises(ValueError, match=names):
        agreement(make(), ids, **options)


def test_of_a_long_text_only_what_is_read_is_looked_at():
    ids = torch.cat([torch.randint(13, (9,)), torch.full((100,), 13)])
    assert agreement(make(), ids, max_blocks=1) == agreement(make(), ids[:9])
    with pytest.raises(ValueError, match="token id 13"):
        agreement(make(), ids, max_blocks=2)


def test_the_plot_shows_every_doll():
    found = agreement(make(), torch.randint(13, (100,)))
    figure = plot.agreement(found)
    same, kl = figure.axes
    assert [bar.get_height() for bar in same.patches] == [100 * found[size].same for size in found]
    assert [bar.get_height() for bar in kl.patches] == [found[size].kl for size in found]
    assert [tick.get_text() for tick in kl.get_xticklabels()] == [str(size) for size in found]


def test_half_precision_is_measured_as_finely_as_single():
    """A mean over bfloat16 losses would be rounded to 1/64 nat."""
    model, ids = make().bfloat16(), torch.randint(13, (8 * 40 + 1,))
    logits = model.eval()(ids[:-1].view(40, 8)).flatten(0, 1)
    exact = torch.nn.functional.cross_entropy(logits.double(), ids[1:].view(40, 8).flatten()).item()
    assert evaluate(model, ids) == pytest.approx(exact, abs=1e-5)


def test_a_large_vocabulary_is_read_in_smaller_batches(monkeypatch):
    """The same loss, with no more logits at once than allowed."""
    model, ids, read = make(), torch.randint(13, (8 * 21,)), []
    whole = evaluate(model, ids)
    monkeypatch.setattr(evaluation, "MOST_LOGITS", 3 * 8 * 13 + 1)
    model.register_forward_pre_hook(lambda model, args: read.append(len(args[0])))
    assert evaluate(model, ids) == pytest.approx(whole, abs=1e-6) and max(read) == 3 and sum(read) == 20
    assert agreement(model, ids)[8].kl > 0 and max(read) == 3
    with pytest.raises(ValueError, match="batch_size=0 must be"):
        agreement(model, ids, batch_size=0)
