"""What is of the wrong kind altogether is refused with a sentence that names it, and nothing is written."""

import pytest
import torch

import matgpt
from matgpt import BPETokenizer, CharTokenizer, GPTConfig, MatryoshkaGPT, Size
from matgpt.embeddings.pairs import Pairs

IDS = [0, 1, 2] * 20
MODEL = MatryoshkaGPT(GPTConfig(7, 8, 8, 2, 1, nesting=(4,)))
PAIRS = Pairs(["q a"] * 4, ["doc b"] * 4, list("abcd"), list("abcd"))
BPE = BPETokenizer([bytes([b]) for b in range(256)])

WRONG = {
    "5 is not a path": [
        lambda: matgpt.load(5),
        lambda: matgpt.save(MODEL, 5),
        lambda: matgpt.load_text(5),
        lambda: matgpt.load_pairs(5),
        lambda: matgpt.import_gpt2(5),
        lambda: matgpt.export_gpt2(MODEL, 5),
        lambda: matgpt.History.load(5),
        lambda: matgpt.train(MODEL, IDS, IDS, 1, 1, checkpoint_dir=5, progress=False),
        lambda: CharTokenizer("ab").save(5),
    ],
    r"\['a'\] is not a path": [lambda: matgpt.load_text(["a"])],
    "query='abc' must be numbers": [lambda: matgpt.search(torch.ones(5, 4), "abc")],
    "val_pairs=.* must be Pairs": [
        lambda: matgpt.train_embeddings(MODEL, PAIRS, BPE, 1, 2, val_pairs=[("a", "b")])
    ],
    "query has shape": [lambda: matgpt.search(torch.ones(5, 4), 3.0)],
    "64 is no size": [lambda: Size.parse(64)],
    "idx must be a tensor .* not list": [lambda: MODEL([[1, 2]])],
    "tokenizer=None must be": [lambda: matgpt.stream(MODEL, None, "ab", 2)],
    "draft_model='m' must be": [lambda: MODEL.generate(torch.tensor([[1]]), 2, draft_model="m")],
    "sizes=4 must be several": [lambda: matgpt.frontier(MODEL, IDS, 4)],
    "max_params='9' must be a number": [lambda: matgpt.best_size([], max_params="9")],
    "ids='abc' must be token ids": [lambda: matgpt.split("abc")],
    "ids=None must be one row": [lambda: matgpt.split(None)],
    "no corpus or file 'aaaa": [lambda: matgpt.load_text("a" * 9999)],
    "text 0 has dtype torch.float32": [lambda: matgpt.embed(MODEL, [1.5, 2])],
    "text 0, None, is neither": [lambda: matgpt.embed(MODEL, [None])],
    "query has shape .* finite": [lambda: matgpt.search(torch.ones(5, 4), torch.full((4,), torch.nan))],
    "val_fraction='0.1' must be": [lambda: matgpt.split(IDS, "0.1")],
    "vocab_size='300' must be a whole number of at least 256": [lambda: BPETokenizer.train("a", "300")],
    "ids_or_texts=5 must be": [lambda: matgpt.embed(MODEL, 5)],
    "embeddings='abc' must be numbers": [lambda: matgpt.search("abc", torch.ones(3))],
    "finite numbers": [lambda: matgpt.search(torch.full((5, 4), torch.nan), torch.ones(4))],
    "seed='a' must be": [
        lambda: PAIRS.split(0.5, "a"),
        lambda: matgpt.train(MODEL, IDS, IDS, 1, 1, seed="a"),
    ],
    "pairs=.* must be Pairs": [lambda: matgpt.train_embeddings(MODEL, [("a", "b")], BPE, 1)],
    "on_evaluation=5 must be a function": [lambda: matgpt.train(MODEL, IDS, IDS, 1, 1, on_evaluation=5)],
}


@pytest.mark.parametrize(
    "message, call", [(message, call) for message, calls in WRONG.items() for call in calls]
)
def test_the_wrong_kind_is_named(message, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        call()
    assert list(tmp_path.iterdir()) == []
