"""Search by the first dimensions and a shortlist, against the exact one, and against the library faiss."""

import pytest
import torch

import matgpt
from matgpt.embeddings.pooling import cut
from matgpt.embeddings.searching import search


def unit(*shape, seed=0):
    return cut(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), shape[1])


DOCUMENTS, QUERIES = unit(200, 32), unit(12, 32, seed=1)
EXACT = (QUERIES @ DOCUMENTS.T).topk(10)


def test_the_nearest_come_first_with_their_cosines():
    found = matgpt.search(DOCUMENTS, QUERIES)
    assert torch.equal(found.positions, EXACT.indices) and torch.allclose(found.scores, EXACT.values)
    longer = search(3 * DOCUMENTS, 5 * QUERIES, shortlist=20)  # cosines, whatever the lengths
    assert torch.equal(longer.positions, EXACT.indices) and torch.allclose(longer.scores, EXACT.values)
    one = search(DOCUMENTS, QUERIES[3], k=4)
    assert torch.equal(one.positions, EXACT.indices[3, :4]) and one.scores.shape == (4,)
    assert search(DOCUMENTS, QUERIES, k=999).positions.shape == (12, 200)
    assert torch.equal(search(DOCUMENTS.numpy(), QUERIES.numpy()).positions, EXACT.indices)


def test_dims_alone_search_the_cut_embeddings():
    found = search(DOCUMENTS, QUERIES, dims=8)
    right = (cut(QUERIES, 8) @ cut(DOCUMENTS, 8).T).topk(10)
    assert torch.equal(found.positions, right.indices) and torch.allclose(found.scores, right.values)


def test_a_longer_shortlist_comes_nearer_to_the_exact_search():
    shared = []
    for shortlist in (10, 40, 200):
        found = search(DOCUMENTS, QUERIES, dims=16, shortlist=shortlist)
        shared.append((found.positions[:, :, None] == EXACT.indices[:, None]).any(-1).float().mean().item())
        scores = (QUERIES @ DOCUMENTS.T).gather(1, found.positions)
        assert torch.allclose(found.scores, scores, atol=1e-6)  # those of all dimensions
    assert shared == sorted(shared) and shared[0] < 1 and shared[-1] == 1


def test_faiss_finds_the_same():
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    flat = faiss.IndexFlatIP(32)
    flat.add(DOCUMENTS.numpy())
    assert flat.search(QUERIES.numpy(), 10)[1].tolist() == search(DOCUMENTS, QUERIES).positions.tolist()


@pytest.mark.parametrize(
    "match, arguments",
    [
        ("k=0", dict(k=0)),
        ("k=None", dict(k=None)),
        ("dims=0", dict(dims=0)),
        ("dims=33", dict(dims=33)),
        ("shortlist=0", dict(shortlist=0)),
        ("D=32", dict(query=QUERIES[:, :8])),
        ("embeddings has shape", dict(embeddings=DOCUMENTS[0])),
        ("embeddings must hold finite", dict(embeddings=DOCUMENTS * float("nan"))),
        ("query='a' must be numbers", dict(query="a")),
    ],
)
def test_bad_arguments_are_named(match, arguments):
    with pytest.raises(ValueError, match=match):
        search(**dict(embeddings=DOCUMENTS, query=QUERIES) | arguments)
