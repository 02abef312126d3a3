"""A model comes back from its folder as it was, or the load says what is wrong."""

import json
import pickle

import pytest
import safetensors.torch
import torch

from matgpt import GPTConfig, History, MatryoshkaGPT, Size, load, save
from matgpt.files import atomic
from matgpt.text.tokenizer import BPETokenizer, CharTokenizer

CONFIG = GPTConfig(
    5,
    7,
    12,
    2,
    3,
    nesting=(6, Size(6, 1, 2, (5, 7)), Size(9, 1, 3, (5, 6, 7))),
    head_size=5,
    n_inner=(20, 30, 10),
    dropout=0.1,
    bias=False,
)


class Touch:
    """Pickled, it creates a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_round_trip(variant, build, tmp_path):
    model = build(variant, CONFIG)
    save(model, tmp_path / "a" / "b")
    loaded, tokenizer = load(tmp_path / "a" / "b")
    assert type(loaded) is variant and loaded.config == CONFIG and tokenizer is None and not loaded.training
    for (name, p), (name2, q) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == name2 and torch.equal(p, q) and p.dtype == q.dtype == torch.double
    idx = torch.tensor([[0, 1, 2, 3, 4]])
    loaded(idx, CONFIG.sizes[0]).sum().backward()  # it can be trained
    assert loaded.embedding.token.grad is not None
    for size in CONFIG.sizes:
        assert torch.equal(loaded(idx, size), model.eval()(idx, size))


def test_doll_takes_the_room_of_a_doll(build, tmp_path):
    size = CONFIG.sizes[0]
    save(build(MatryoshkaGPT, CONFIG).slice(size), tmp_path)
    assert 0 < (tmp_path / "model.safetensors").stat().st_size - 8 * CONFIG.num_params(size) < 5000


@pytest.mark.parametrize(
    "tokenizer", [CharTokenizer("abcd\n"), BPETokenizer.train("aaaa äöü")], ids=["char", "bpe"]
)
def test_tokenizer(tokenizer, tmp_path):
    model = MatryoshkaGPT(GPTConfig(tokenizer.vocab_size, 4, 4, 1, 1))
    save(model, tmp_path, tokenizer)
    assert load(tmp_path)[1] == tokenizer
    with pytest.raises(ValueError, match="vocab_size"):
        save(model, tmp_path, CharTokenizer("ab"))
    CharTokenizer("ab").save(tmp_path)
    with pytest.raises(ValueError, match="has 2 tokens, the model vocab_size="):
        load(tmp_path)
    save(model, tmp_path)  # without one: the other model's does not stay behind
    assert load(tmp_path)[1] is None


def edit(name, old, new):
    def damage(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return damage


def cut(name, length):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def other_weights(change):
    def damage(folder):
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        change(weights)
        safetensors.torch.save_file(weights, folder / "model.safetensors")

    return damage


DAMAGE = [
    ("config.json cannot be read", lambda folder: (folder / "config.json").unlink()),
    ("model.safetensors cannot be read", lambda folder: (folder / "model.safetensors").unlink()),
    ("config.json is not JSON", cut("config.json", 60)),
    ("config.json is not JSON", cut("config.json", 0)),
    ("model.safetensors is truncated", cut("model.safetensors", 0)),
    ("model.safetensors is truncated", cut("model.safetensors", 100)),
    ("model.safetensors is truncated", cut("model.safetensors", -1)),
    ("config.json has format version 7", edit("config.json", '"format": 1', '"format": 7')),
    ("config.json names the model 'Other'", edit("config.json", "MatryoshkaGPT", "Other")),
    ("config.json is not a configuration.*block_sizes", edit("config.json", "block_size", "block_sizes")),
    ("config.json is not a configuration", lambda folder: (folder / "config.json").write_text("[1]")),
    ("config.json is not a configuration", lambda folder: (folder / "config.json").write_text("null")),
    ("config.json.*dropout=3", edit("config.json", '"dropout": 0.1', '"dropout": 3')),
    (
        "model.safetensors does not hold.*size mismatch",
        edit("config.json", '"vocab_size": 5', '"vocab_size": 6'),
    ),
    (
        "model.safetensors does not hold.*blocks.3",
        edit("config.json", '"n_layer": 3,\n    "nesting"', '"n_layer": 4,\n    "nesting"'),
    ),
    ("model.safetensors does not hold.*position", other_weights(lambda w: w.pop("embedding.position"))),
    ("model.safetensors does not hold.*unknown", other_weights(lambda w: w.update(unknown=torch.zeros(2)))),
    ("tokenizer.json", lambda folder: (folder / "tokenizer.json").write_text("{")),
]


@pytest.mark.parametrize("message, damage", DAMAGE)
def test_damage_is_named(message, damage, tmp_path):
    config = CONFIG if "blocks.3" not in message else GPTConfig(5, 7, 12, 2, 3, dropout=0.1)
    save(MatryoshkaGPT(config), tmp_path, CharTokenizer("abcde"))
    load(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load(tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_no_code_is_run(tmp_path):
    save(MatryoshkaGPT(CONFIG), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
    with pytest.raises(ValueError, match="model.safetensors"):
        load(tmp_path)
    assert not (tmp_path / "touched").exists()
    pickle.loads(pickle.dumps(Touch(tmp_path / "touched")))  # what would have happened
    assert (tmp_path / "touched").exists()


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    save(MatryoshkaGPT(CONFIG), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(MatryoshkaGPT(CONFIG), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_history(tmp_path):
    history = History(CONFIG.sizes, [0, 10], lr=1e-3, seconds=3.0)
    for i, size in enumerate(CONFIG.sizes):
        history.train[size] += [1 / 3 + i, 0.1]
        history.val[size] += [2 / 3 + i, 0.2]
    history.save(tmp_path / "history.json")
    loaded = History.load(tmp_path / "history.json")
    assert (
        loaded == history and loaded.val[CONFIG.sizes[1]] == [2 / 3 + 1, 0.2] and loaded.sizes == CONFIG.sizes
    )
    assert json.loads((tmp_path / "history.json").read_text())["steps"] == [0, 10]
    for text in ("", "[]", '{"sizes": [1]}', "{}"):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match="other.json"):
            History.load(tmp_path / "other.json")
