"""Search by the first dimensions and a shortlist, against the exact search."""

import pytest
import torch

import matgpt
from matgpt.embeddings.pooling import cut


def unit(*shape, seed=0):
    return cut(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), shape[1])


DOCUMENTS, QUERIES = unit(200, 32), unit(12, 32, seed=1)
EXACT = (QUERIES @ DOCUMENTS.T).topk(10)


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


def test_a_float64_default_changes_nothing():
    torch.set_default_dtype(torch.float64)
    try:
        found = matgpt.search(DOCUMENTS, QUERIES, dims=16, shortlist=200)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.positions, EXACT.indices) and found.scores.dtype == torch.float32


def test_bad_arguments_are_named():
    for match, arguments in (
        ("k=0", dict(k=0)),
        ("k=None", dict(k=None)),
        ("dims=0", dict(dims=0)),
        ("dims=33", dict(dims=33)),
        ("shortlist=0", dict(shortlist=0)),
    ):
        with pytest.raises(ValueError, match=match):
            matgpt.search(DOCUMENTS, QUERIES, **arguments)
    for documents, queries, match in (
        (DOCUMENTS, QUERIES[:, :8], "D=32"),
        (DOCUMENTS, 3.0, "query has shape"),
        (DOCUMENTS[0], QUERIES, "embeddings has shape"),
        (DOCUMENTS[:0], QUERIES, "embeddings has shape"),
        (None, QUERIES, "embeddings=None must be numbers"),
        (DOCUMENTS * float("nan"), QUERIES, "embeddings must hold finite"),
        (DOCUMENTS, QUERIES / 0, "query must hold finite"),
    ):
        with pytest.raises(ValueError, match=match):
            matgpt.search(documents, queries)
