"""Search, ranks, measures and BM25, against answers that can be worked out by hand."""

import math

import pytest
import torch

import matgpt
from matgpt.embeddings.pooling import cut
from matgpt.embeddings.retrieval import BM25, by_dimension, fuse, measures, pca, ranks, shortlist_ranks

from .conftest import assert_refused


def unit(*shape, seed=0):
    return cut(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), shape[1])


DOCUMENTS, QUERIES = unit(200, 32), unit(12, 32, seed=1)
EXACT = (QUERIES @ DOCUMENTS.T).topk(10)


def test_ranks_count_better_scores_and_earlier_ties():
    scores = torch.tensor([[3.0, 1, 2], [5, 4, 4], [2, 2, 2]])
    assert ranks(scores).tolist() == [1, 2, 3]


def test_measures_follow_their_definitions():
    mrr, ndcg = (1 + 1 / 2 + 1 / 10) / 4, (1 + 1 / math.log2(3) + 1 / math.log2(11)) / 4
    expected = {"recall@1": 1 / 4, "recall@10": 3 / 4, "MRR@10": mrr, "nDCG@10": ndcg}
    assert measures(torch.tensor([1, 2, 10, 11])) == pytest.approx(expected)


def test_bm25_is_its_formula():
    documents = ["read_file file", "write the file", "sum"]
    scores = BM25(documents)(["file readFile", "nothing"])

    def idf(df):
        return math.log(1 + (3 - df + 0.5) / (df + 0.5))

    def term(tf, length):
        return tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / (7 / 3)))

    # "file" stands in two documents and twice in the question, "read" in one document
    expected = [2 * idf(2) * term(2, 3) + idf(1) * term(1, 3), 2 * idf(2) * term(1, 3), 0]
    assert scores[0].tolist() == pytest.approx(expected, abs=1e-5) and scores[1].tolist() == [0, 0, 0]


def test_fusion_adds_reciprocal_ranks():
    a, b = torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[1.0, 30.0, 20.0]])
    assert fuse(a, b, k=60)[0].tolist() == pytest.approx([1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62])


def test_pca_rotates_the_most_variance_to_the_front():
    index = unit(50, 6) * torch.tensor([0.1, 1, 1, 1, 1, 9])  # the last dimension varies most
    queries = unit(20, 6, seed=1) * torch.tensor([0.1, 1, 1, 1, 1, 9])
    a, b = pca(index, queries)
    mean = index.mean(0)
    assert torch.allclose(b @ a.T, (queries - mean) @ (index - mean).T, atol=1e-4)
    variance = a.var(0)
    assert torch.equal(variance, variance.sort(descending=True).values)
    assert variance[0] > 0.8 * index.var(0).sum()


def test_by_dimension_cuts_both():
    documents = unit(30, 8)
    queries = documents.clone()
    queries[:, 4:] = unit(30, 8, seed=2)[:, 4:]  # only the first half matches
    assert by_dimension(documents, queries, [4], "recall@1") == [1.0]
    assert by_dimension(documents, queries, [4, 8], "MRR@10")[1] < 1


def test_shortlist_ranks_are_those_of_the_whole_search_if_the_shortlist_is_long():
    documents, queries = unit(30, 8), unit(30, 8, seed=1)
    exact = ranks(queries @ documents.T).clamp(max=11)
    assert torch.equal(shortlist_ranks(documents, queries, 4, 30), exact)
    assert measures(shortlist_ranks(documents, documents, 4, 10))["recall@1"] == 1
    assert (exact == 11).any() and (shortlist_ranks(documents, queries, 4, 10) != exact).any()


# ---- search by the first dimensions and a shortlist, against the exact search
def test_the_nearest_come_first_with_their_cosines():
    for documents, queries, shortlist in (
        (DOCUMENTS, QUERIES, None),
        (3 * DOCUMENTS, 5 * QUERIES, None),
        (3 * DOCUMENTS, 5 * QUERIES, 20),
        (DOCUMENTS.numpy(), QUERIES.tolist(), 20),
    ):
        found = matgpt.search(documents, queries, shortlist=shortlist)
        assert torch.equal(found.positions, EXACT.indices)
        assert torch.allclose(found.scores, EXACT.values, atol=1e-6)
    one = matgpt.search(DOCUMENTS, QUERIES[3], k=4)
    assert torch.equal(one.positions, EXACT.indices[3, :4]) and one.scores.shape == (4,)
    assert matgpt.search(DOCUMENTS, QUERIES, k=999).positions.shape == (12, 200)


def test_dims_alone_search_the_cut_embeddings():
    found = matgpt.search(DOCUMENTS, QUERIES, dims=8)
    right = (cut(QUERIES, 8) @ cut(DOCUMENTS, 8).T).topk(10)
    assert torch.equal(found.positions, right.indices) and torch.allclose(found.scores, right.values)


def test_a_longer_shortlist_comes_nearer_to_the_exact_search():
    shares = []
    for shortlist in (10, 40, 200):
        found = matgpt.search(DOCUMENTS, QUERIES, dims=16, shortlist=shortlist)
        shares.append((found.positions[:, :, None] == EXACT.indices[:, None]).any(-1).float().mean().item())
        scores = (QUERIES @ DOCUMENTS.T).gather(1, found.positions)
        assert torch.allclose(found.scores, scores, atol=1e-6)  # by all dimensions
    assert shares == sorted(shares) and shares[0] < 1 and shares[-1] == 1
    assert matgpt.search(DOCUMENTS, QUERIES, 10, shortlist=3).positions.shape == (12, 10)


def test_bad_embeddings_are_named():
    shapes = r"\(200, 32\) and query \(12, 8\) must have shapes"
    assert_refused(shapes, matgpt.search, DOCUMENTS, QUERIES[:, :8])
    for documents, queries in ((DOCUMENTS, 3.0), (DOCUMENTS[0], QUERIES), (DOCUMENTS[:0], QUERIES)):
        assert_refused("must have shapes", matgpt.search, documents, queries)
    assert_refused("must hold finite", matgpt.search, DOCUMENTS * float("nan"), QUERIES)
    assert_refused("must hold finite", matgpt.search, DOCUMENTS, QUERIES / 0)
    for name, value in (("k", 0), ("dims", 0), ("dims", 33), ("shortlist", 0)):
        assert_refused(f"{name}={value} must be", matgpt.search, DOCUMENTS, QUERIES, **{name: value})
