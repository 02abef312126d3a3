"""The embeddings benchmark, small: every control has its row, and no copy is learned from."""

import pytest

from matgpt.benchmarks import embeddings
from matgpt.embeddings.pairs import STDLIB, Pairs

from .test_benchmark import parsed

WORDS = [a + b + c for a in "abcde" for b in "xyzu" for c in "klm"]
LIBRARY = Pairs(
    [f"find {w} now" for w in WORDS],
    [f"def f return {w} {w} {' '.join(w)} of all that is there" for w in WORDS],
    [f"{w[0]}.{w}" for w in WORDS],
    [w[0] for w in WORDS],
)


@pytest.fixture
def args(tmp_path, monkeypatch):
    other = Pairs(["copy", "new"], [LIBRARY.documents[0], "nothing like it"], ["o.c", "o.n"], ["o", "o"])
    places = {
        (STDLIB, "docstrings"): LIBRARY,
        (STDLIB, "names"): LIBRARY.take([3, 30]),
        ("more", "docstrings"): other,
        ("more", "names"): Pairs(["named"], ["nothing like these"], ["o.named"], ["o"]),
    }
    monkeypatch.setattr(embeddings, "load", lambda place, kind="docstrings": places[place, kind])
    small = "--sources more --nesting 8 16 --vocab 300 --lm-steps 1 --steps 2 --batch-size 8 --shortlist 3"
    return parsed(embeddings, *small.split(), "--seeds", 0, 1, "--out", tmp_path)


@pytest.mark.slow
def test_every_control_has_its_row_and_finished_seeds_are_not_measured_again(args, tmp_path, monkeypatch):
    embeddings.run(args)
    table = (tmp_path / "embeddings.md").read_text()
    cuts = ("cut alike", "PCA", "random dimensions")
    methods = ["Matryoshka", *(f"plain InfoNCE, {cut}" for cut in cuts), "language model alone", "BM25"]
    for name in (*methods, "Matryoshka and BM25, fused", "Matryoshka, then 3 with all dimensions"):
        assert table.count(f"| {name} |") == 4, name  # a table for each measure
    assert (tmp_path / "retrieval.png").exists()
    monkeypatch.setattr(embeddings, "measure", None)
    embeddings.run(args)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_the_training_pairs_hold_no_copy_of_a_test_pair(args):
    for seed in range(4):
        train, test = embeddings.data(args, seed)
        assert len(test) == 12 and not set(train.modules) & set(test.modules)
        assert ("copy" in train.queries) == (LIBRARY.names[0] not in test.names) and "new" in train.queries
        assert "named" in train.queries
