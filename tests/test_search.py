"""Search by first dimensions, int8 and bits, against the exact one, and against the library faiss."""

import pytest
import torch

import matgpt
from matgpt.embeddings.pooling import cut
from matgpt.embeddings.searching import Index, search


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


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_a_longer_shortlist_comes_nearer_to_the_exact_search(precision):
    shared = []
    for shortlist in (10, 40, 200):
        found = search(DOCUMENTS, QUERIES, dims=16, shortlist=shortlist, precision=precision)
        shared.append((found.positions[:, :, None] == EXACT.indices[:, None]).any(-1).float().mean().item())
        scores = (QUERIES @ DOCUMENTS.T).gather(1, found.positions)
        assert torch.allclose(found.scores, scores, atol=1e-6)  # those of all dimensions
    assert shared == sorted(shared) and shared[0] < 1 and shared[-1] == 1


def test_int8_is_near_the_numbers_it_stands_for_and_bits_count_signs():
    exact = QUERIES @ DOCUMENTS.T
    assert (Index(DOCUMENTS, precision="int8").look(QUERIES) - exact).abs().max() < 0.01
    agree = ((QUERIES > 0)[:, None] == (DOCUMENTS > 0)[None]).float().mean(-1)
    for d, words in ((32, 1), (24, 3), (8, 1)):
        index = Index(DOCUMENTS, d, "binary")
        agree = ((QUERIES > 0)[:, None, :d] == (DOCUMENTS > 0)[None, :, :d]).float().mean(-1)
        assert torch.allclose(index.look(QUERIES), 2 * agree - 1, atol=1e-6) and index.first.shape[1] == words
    sizes = [Index(DOCUMENTS, 16, precision).bytes for precision in ("float32", "int8", "binary")]
    assert sizes == [64, 16, 2]


def test_a_kept_index_gives_the_same(monkeypatch):
    index = Index(DOCUMENTS, 16, "int8")
    kept, fresh = (
        search(i, QUERIES, 5, **k)
        for i, k in ((index, dict(shortlist=20)), (DOCUMENTS, dict(dims=16, shortlist=20, precision="int8")))
    )
    assert torch.equal(kept.positions, fresh.positions)
    monkeypatch.setattr("matgpt.embeddings.searching.ROWS", 7)  # pieces that do not come out even
    assert torch.equal(search(index, QUERIES, 5, shortlist=20).positions, kept.positions)


def test_a_float64_default_changes_nothing():
    torch.set_default_dtype(torch.float64)
    try:
        for precision in ("float32", "int8", "binary"):
            found = search(DOCUMENTS, QUERIES, dims=16, shortlist=200, precision=precision)
            assert torch.equal(found.positions, EXACT.indices) and found.scores.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_faiss_finds_the_same():
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    flat = faiss.IndexFlatIP(32)
    flat.add(DOCUMENTS.numpy())
    assert flat.search(QUERIES.numpy(), 10)[1].tolist() == search(DOCUMENTS, QUERIES).positions.tolist()


def test_bad_arguments_are_named():
    for match, arguments in (
        ("k=0", dict(k=0)),
        ("dims=0", dict(dims=0)),
        ("d=33", dict(dims=33)),
        ("shortlist=0", dict(shortlist=0)),
        ("precision='int4'", dict(precision="int4")),
        ("in eights", dict(precision="binary", dims=12)),
    ):
        with pytest.raises(ValueError, match=match):
            search(DOCUMENTS, QUERIES, **arguments)
    with pytest.raises(ValueError, match="D=32"):
        search(DOCUMENTS, QUERIES[:, :8])
    with pytest.raises(ValueError, match="embeddings of shape"):
        search(DOCUMENTS[0], QUERIES)
