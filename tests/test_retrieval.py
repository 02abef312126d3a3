"""Retrieval over arrays, against answers that can be worked out by hand."""

import pytest
import torch

from matgpt import plot
from matgpt.embeddings.pooling import cut
from matgpt.embeddings.retrieval import (
    accuracy,
    adaptive,
    center,
    chance,
    halves,
    nearest,
    overlap,
    passages,
    pca,
    token_counts,
)


def unit(*shape, seed=0):
    return cut(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), shape[1])


def test_passages_have_one_length_and_no_paragraph_stands_in_two_topics():
    shared = "a paragraph that two topics hold " * 4
    topics = {
        "long": f"{'first words here ' * 30}\n\n{shared}",
        "short": f"{shared}\n\n  two   blanks\nand lines " + "x" * 99,
        "tiny": "too little for two",
    }
    texts, labels, names = passages(topics, length=40)
    assert names == ["long", "short"] and len(texts) == len(labels)
    assert {len(text) for text in texts} == {40}
    owners = {names[label] for text, label in zip(texts, labels) if "two topics" in text}
    assert owners == {"short"}
    assert not any("  " in text or "\n" in text for text in texts)


def test_halves_share_no_passage_and_hold_half_of_every_topic():
    labels = torch.tensor([0] * 5 + [1] * 2 + [2] * 8)
    index, queries = halves(labels, seed=3)
    assert sorted(torch.cat([index, queries]).tolist()) == list(range(15))
    assert torch.bincount(labels[index]).tolist() == [3, 1, 4]
    assert torch.bincount(labels[queries]).tolist() == [2, 1, 4]
    assert not torch.equal(index, halves(labels, seed=4)[0])
    assert torch.equal(index, halves(labels, seed=3)[0])


def test_nearest_is_sorted_and_accuracy_counts_the_first():
    index = torch.eye(3)
    queries = cut(torch.tensor([[1.0, 0.5, 0.1], [0.2, 0.1, 0.9]]), 3)
    found = nearest(index, queries, k=2)
    assert found.tolist() == [[0, 1], [2, 0]]
    assert accuracy(found, torch.tensor([7, 8, 9]), torch.tensor([7, 8])) == 0.5
    assert accuracy(found[:, 0], torch.tensor([7, 8, 9]), torch.tensor([7, 9])) == 1.0
    assert nearest(index, queries, k=10).shape == (2, 3)


def test_chance_is_what_blind_draws_reach():
    blind, majority = chance(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1]))
    assert blind == pytest.approx(0.5) and majority == pytest.approx(0.5)
    blind, majority = chance(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0]))
    assert blind == pytest.approx(0.75) and majority == 1.0


def test_centring_takes_the_shared_direction_away():
    shared = torch.zeros(8)
    shared[0] = 5.0
    index, queries = (cut(unit(40, 8, seed=s) + shared, 8) for s in (1, 2))
    assert (index @ index.T).mean() > 0.9
    centred, also = center(index, queries)
    assert (centred @ centred.T).mean().abs() < 0.1
    assert torch.allclose(also.norm(dim=1), torch.ones(40))


def test_pca_keeps_all_at_full_width_and_the_most_variance_before():
    index = unit(50, 6) * torch.tensor([0.1, 1, 1, 1, 1, 9])  # what counts stands in the last dimension
    queries = unit(20, 6, seed=1) * torch.tensor([0.1, 1, 1, 1, 1, 9])
    a, b = pca(index, queries)
    mean = index.mean(0)
    assert torch.allclose(b @ a.T, (queries - mean) @ (index - mean).T, atol=1e-4)
    variance = a.var(0)
    assert torch.equal(variance, variance.sort(descending=True).values)
    assert variance[0] > 0.8 * index.var(0).sum()


def test_adaptive_search_with_everything_on_the_shortlist_is_full_search():
    index, queries = unit(30, 16), unit(12, 16, seed=1)
    full = nearest(index, queries)[:, 0]
    found, cost = adaptive(index, queries, d=4, shortlist=30)
    assert torch.equal(found, full) and cost == 30 * 4 + 30 * 16
    found, cost = adaptive(index, queries, d=16, shortlist=1)
    assert torch.equal(found, full) and cost == 30 * 16 + 16
    agree = [(adaptive(index, queries, 4, k)[0] == full).float().mean() for k in (1, 5, 15, 30)]
    assert agree == sorted(agree) and agree[0] < 1


def test_overlap_counts_common_neighbours_in_any_order():
    found = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert overlap(found, found.flip(1)) == 1.0
    assert overlap(found, torch.tensor([[4, 9, 8, 7], [1, 2, 3, 4]])) == pytest.approx(1 / 8)


def test_bad_lengths_are_named():
    with pytest.raises(ValueError, match="length"):
        passages({"a": "b"}, length=0)
    with pytest.raises(ValueError, match="shortlist"):
        adaptive(unit(4, 4), unit(4, 4), 2, 0)
    with pytest.raises(ValueError, match="d=8"):
        adaptive(unit(4, 4), unit(4, 4), 8, 2)


def test_token_counts_are_at_length_one():
    assert torch.allclose(
        token_counts([[0, 2, 2], torch.tensor([1])], 3), torch.tensor([[0.2**0.5, 0, 0.8**0.5], [0, 1, 0]])
    )


def test_figures_draw_what_they_are_given(tmp_path):
    dims, shares = [2, 4, 8], [[0.1, 0.2, 0.3], [0.2, 0.2, 0.4]]
    figure = plot.retrieval(dims, {"a": shares}, {"chance": 0.05})
    assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx([15, 20, 35])  # the mean, in per cent
    figures = [
        figure,
        plot.adaptive({2: ([10, 20], [0.1, 0.2], [1, 2])}, (50, 0.3)),
        plot.overlap({"a": shares[:1] * 3}, dims),
        plot.in_between(dims, {"a": [2, 8]}, {"a": shares}, {"a": shares}),
    ]
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png")
        plot.close(figure)
