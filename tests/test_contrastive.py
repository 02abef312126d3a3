"""The contrastive stage: its loss, gradient caching, and a run that can be stopped and repeated."""

from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from matgpt import BPETokenizer, GPTConfig, MatryoshkaEmbeddingsGPT
from matgpt.embeddings import contrastive
from matgpt.embeddings.contrastive import batch_of, contrastive_losses, info_nce, train_embeddings
from matgpt.embeddings.pairs import Pairs
from matgpt.embeddings.pooling import embed, token_rows
from matgpt.embeddings.retrieval import measures, ranks

from .conftest import assert_refused
from .test_resume import stop

TOKENIZER = BPETokenizer([bytes([b]) for b in range(256)])
WORDS = [a + b for a in "abcdefgh" for b in "xyzuv"]
CODE = [f"the {w} {w} in code" + " and more" * (i % 4) for i, w in enumerate(WORDS)]
PAIRS = Pairs([f"{w} q" for w in WORDS], CODE, WORDS, [w[0] for w in WORDS])


def model_of(variant, seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return variant(GPTConfig(256, 24, 16, 2, 1, nesting=(4, 8), dropout=dropout))


def rows_of(model, pairs):
    return token_rows(model, pairs.queries + pairs.documents, TOKENIZER)


def test_the_loss_is_cross_entropy_both_ways_and_spares_who_asks_the_same():
    q, d = torch.randn(3, 4), torch.randn(3, 4)
    scores = F.normalize(q, dim=1) @ F.normalize(d, dim=1).T / 0.5
    right, nobody = torch.arange(3), torch.zeros(3, 3, dtype=torch.bool)
    expected = (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2
    assert torch.allclose(info_nce(q, d, nobody, 0.5), expected)
    alike = nobody.clone()
    alike[0, 1] = alike[1, 0] = True
    sums = sum(torch.logsumexp(s[i][~alike[i]], 0) for s in (scores, scores.T) for i in range(3))
    assert torch.allclose(info_nce(q, d, alike, 0.5), sums / 6 - scores.trace() / 3)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_caching_gives_the_gradient_of_the_whole_batch(variant, dropout):
    """With dropout, the parts must be the same for the random numbers to be."""
    model = model_of(variant, dropout=dropout).train()
    rows, alike = batch_of(PAIRS, rows_of(model, PAIRS), range(32), 24)
    gradients = []
    for micro_batch in (None, 64) if dropout else (None, 5, 64):
        model.zero_grad()
        sum(contrastive_losses(model, rows, alike, 0.05, micro_batch, seed=7).values()).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-5, rtol=1e-4)


def test_parts_of_a_batch_drop_different_numbers(monkeypatch):
    monkeypatch.setattr(contrastive, "info_nce", lambda queries, documents, *_: (queries, documents))
    model = model_of(MatryoshkaEmbeddingsGPT, dropout=0.3).train()
    same = rows_of(model, PAIRS)[:1] * 4
    for queries, documents in contrastive_losses(model, same, None, 1.0, micro_batch=2).values():
        assert not torch.equal(queries, documents)


@torch.no_grad()
def test_the_losses_are_those_of_embed_at_each_size(variant):
    model = model_of(variant).eval()
    rows, alike = batch_of(PAIRS, rows_of(model, PAIRS), range(20), 24)
    losses = contrastive_losses(model, rows, alike, 0.05)
    for size, loss in losses.items():
        q, d = (embed(model, rows[i : i + 20], size) for i in (0, 20))
        assert torch.allclose(info_nce(q, d, alike, 0.05), loss, atol=1e-5)
    assert list(losses) == list(model.sizes)


def test_same_questions_are_known_and_long_texts_cropped():
    pairs = Pairs(["q", "r", "q"], ["abc" * 20, "d", "e"], list("xyz"), list("xyz"))
    rows = rows_of(model_of(MatryoshkaEmbeddingsGPT), pairs)
    batch, alike = batch_of(pairs, rows, [0, 1, 2], 24)
    assert alike.nonzero().tolist() == [[0, 2], [2, 0]] and bytes(batch[3].tolist()) == (b"abc" * 20)[:24]
    crops = [batch_of(pairs, rows, [0], 24, np.random.default_rng(i))[0][1] for i in range(20)]
    assert {bytes(crop[:1].tolist()) for crop in crops} == {b"a", b"b", b"c"} and {*map(len, crops)} == {24}


def test_each_pair_occurs_once_in_an_epoch_or_is_set_aside(monkeypatch):
    recorded = Mock(side_effect=batch_of)
    monkeypatch.setattr(contrastive, "batch_of", recorded)
    model = model_of(MatryoshkaEmbeddingsGPT)
    train_embeddings(model, PAIRS, TOKENIZER, 4, 18, eval_interval=9, progress=False)
    calls = [call.args for call in recorded.call_args_list]
    learned, aside = calls[0][0], calls[1][0]  # of the first evaluation
    first, second, third, fourth = ({*positions} for _, _, positions, *_ in calls[2:6])
    assert len(aside) == 4 and sorted(learned.names + aside.names) == sorted(PAIRS.names)
    assert first | second == third | fourth == {*range(36)} and first != third


@pytest.mark.slow
def test_training_finds_answers_at_every_size(variant):
    model = model_of(variant)
    history = train_embeddings(model, PAIRS, TOKENIZER, steps=60, batch_size=16, lr=0.01, progress=False)
    for size in model.sizes:
        assert history.train[size][-1] < 0.7 * history.train[size][0]
        q, d = (embed(model, texts, size, TOKENIZER) for texts in (PAIRS.queries, PAIRS.documents))
        assert measures(ranks(q @ d.T))["recall@10"] > 0.5
    assert history.steps == list(range(0, 61, 6)) and model.training


def test_a_run_resumes_where_it_stopped(tmp_path):
    def run(seed=0, dropout=0.1, pairs=PAIRS, **options):
        model = model_of(MatryoshkaEmbeddingsGPT, seed, dropout=dropout)
        settings = dict(steps=8, batch_size=8, eval_interval=2, progress=False, seed=3)
        return train_embeddings(model, pairs, TOKENIZER, **settings | options), model

    expected, whole = run()
    first, without = ([losses[0] for losses in h.val.values()] for h in (expected, run(dropout=0.0)[0]))
    assert first == without, "evaluations drop nothing"
    assert run(on_evaluation=stop(4), checkpoint_dir=tmp_path)[0].steps == [0, 2, 4]
    history, model = run(seed=9, resume=True, checkpoint_dir=tmp_path)
    assert history == expected
    assert all(map(torch.equal, model.parameters(), whole.parameters()))
    assert_refused("another run", run, resume=True, checkpoint_dir=tmp_path, temperature=0.1)
    texts = [*PAIRS.queries, *CODE]  # each now ends one character earlier
    moved = [before[-1:] + text[:-1] for before, text in zip(["", *texts], texts)]
    cut = moved[: len(CODE)], [*moved[len(CODE) : -1], moved[-1] + texts[-1][-1]]
    state = dict(resume=True, checkpoint_dir=tmp_path / "all", val_pairs=PAIRS)
    run(**state)
    assert_refused("another run: pairs was", run, **state, pairs=cut)
    assert run(resume=True, checkpoint_dir=tmp_path, steps=300)[0].done == 300
    assert run(steps=None, flops=2 * history.spent)[0].done > 8


@pytest.mark.parametrize(
    "name, value",
    [("steps", 0), ("batch_size", 1), ("batch_size", 41), ("micro_batch", 0), ("temperature", 0), ("lr", -1)],
)
def test_bad_arguments_are_named(name, value):
    other, settings = BPETokenizer([*TOKENIZER.tokens, b" q"]), dict(steps=1, batch_size=8)
    learn = partial(train_embeddings, model_of(MatryoshkaEmbeddingsGPT), PAIRS)
    assert_refused(f"{name}={value} must be", learn, TOKENIZER, **settings | {name: value})
    assert_refused("the tokenizer has 257 tokens", learn, other, **settings)
    assert_refused("share=0.5 cannot", learn, TOKENIZER, share=0.5)
