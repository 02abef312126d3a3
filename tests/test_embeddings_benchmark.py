"""The embeddings benchmark, small: every control has its row, and no copy slips in."""

import argparse

import pytest

from matgpt.benchmarks import embeddings
from matgpt.embeddings.pairs import STDLIB, Pairs

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
    parser = argparse.ArgumentParser()
    embeddings.add_arguments(parser)
    small = "--sources more --nesting 8 16 --n-head 2 --block-size 16 --vocab 300 --lm-steps 1 --steps 2"
    rest = f"--batch-size 8 --shortlist 3 --seeds 0 1 --out {tmp_path}"
    return parser.parse_args(f"{small} {rest}".split())


@pytest.mark.slow
def test_every_control_has_its_row_and_finished_seeds_are_kept(args, tmp_path, monkeypatch):
    embeddings.run(args)
    table = (tmp_path / "embeddings.md").read_text()
    methods = (
        "Matryoshka",
        "plain InfoNCE, cut alike",
        "plain InfoNCE, PCA",
        "plain InfoNCE, random dimensions",
    )
    for name in (
        *methods,
        "language model alone",
        "Matryoshka and BM25, fused",
        "Matryoshka, then 3 with all dimensions",
        "BM25",
    ):
        assert table.count(f"| {name} |") == 4, name  # a table for each measure
    assert (tmp_path / "retrieval.png").exists()
    monkeypatch.setattr(embeddings, "measure", None)  # nothing is measured again
    embeddings.run(args)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_what_is_learnt_from_holds_no_copy_of_what_is_tested(args):
    for seed in range(4):
        train, test = embeddings.data(args, seed)
        assert len(test) == 12 and not set(train.modules) & set(test.modules)
        assert ("copy" in train.queries) == (LIBRARY.names[0] not in test.names) and "new" in train.queries
        assert "named" in train.queries
