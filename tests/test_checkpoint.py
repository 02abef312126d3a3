"""A model comes back from its folder as it was, or the load says what is wrong."""

import dataclasses
import json
import os
import pickle
from itertools import count

import numpy as np
import pytest
import safetensors.torch
import torch

from matgpt import (
    GPTConfig,
    History,
    MatryoshkaEmbeddingsGPT,
    MatryoshkaGPT,
    Size,
    export_gpt2,
    import_gpt2,
    load,
    save,
)
from matgpt.files import atomic
from matgpt.text.tokenizer import BPETokenizer, CharTokenizer, load_tokenizer

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
    with pytest.raises(ValueError, match="has 2 tokens, the model vocab_size="):
        save(model, tmp_path, overwrite=True)
    assert load_tokenizer(tmp_path) == CharTokenizer("ab")
    save(model, tmp_path, tokenizer, overwrite=True)
    save(model, tmp_path)  # without one it stays
    assert load(tmp_path)[1] == tokenizer


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


@pytest.mark.slow
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


def kept(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("at", range(5))
def test_a_failed_write_leaves_what_was_there(at, tmp_path, monkeypatch):
    """Whichever of the files the disk has no room for."""
    save(MatryoshkaGPT(CONFIG), tmp_path, CharTokenizer("abcde"))
    before, real, calls = kept(tmp_path), os.fsync, count()

    def full(descriptor):
        if next(calls) == at:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", full)
    other = MatryoshkaGPT(dataclasses.replace(CONFIG, dropout=0.5)), tmp_path, CharTokenizer("vwxyz")
    if at < 3:
        with pytest.raises(OSError, match="No space"):
            save(*other, overwrite=True)
        assert kept(tmp_path) == before
    elif at == 4:
        save(*other, overwrite=True)
        assert load(tmp_path)[0].config.dropout == 0.5 and len(kept(tmp_path)) == 3


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_files_of_two_models_are_not_mixed(name, tmp_path):
    """As a process leaves them that was killed between two renames; all shapes agree."""
    save(MatryoshkaGPT(CONFIG), tmp_path / "a", CharTokenizer("abcde"))
    save(MatryoshkaGPT(dataclasses.replace(CONFIG, dropout=0.5)), tmp_path / "b", CharTokenizer("vwxyz"))
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    with pytest.raises(ValueError, match="is not the file that was saved with model.safetensors"):
        load(tmp_path / "a")


def test_a_folder_without_digests_is_still_read(tmp_path):
    save(MatryoshkaGPT(CONFIG), tmp_path)
    other_weights(lambda weights: None)(tmp_path)
    assert load(tmp_path)[0].config == CONFIG


def test_nothing_else_is_replaced_unless_told(tmp_path):
    model, other = MatryoshkaGPT(CONFIG), MatryoshkaEmbeddingsGPT(CONFIG)
    save(model, tmp_path, CharTokenizer("abcde"))
    before = kept(tmp_path)
    for write in (
        lambda **told: save(other, tmp_path, **told),
        lambda **told: save(model, tmp_path, CharTokenizer("vwxyz"), **told),
        lambda **told: export_gpt2(model, tmp_path, tokenizer=None, **told),
    ):
        with pytest.raises(
            ValueError, match=r"MatryoshkaGPT \(config.json, .*overwrite|not a tokenizer of GPT-2"
        ):
            write()
        assert kept(tmp_path) == before
    save(model, tmp_path)  # the same again
    assert kept(tmp_path) == before
    save(other, tmp_path, overwrite=True)
    found, tokenizer = load(tmp_path)
    assert type(found) is MatryoshkaEmbeddingsGPT and tokenizer == CharTokenizer("abcde")
    CharTokenizer("vwxyz").save(tmp_path / "tokens")  # as beside token files
    save(model, tmp_path / "tokens")
    assert load_tokenizer(tmp_path / "tokens") == CharTokenizer("vwxyz")
    export_gpt2(model, tmp_path / "gpt2")
    with pytest.raises(ValueError, match=r"gpt2 \(config.json, model.safetensors\).*overwrite=True"):
        save(model, tmp_path / "gpt2")
    with pytest.raises(ValueError, match="gpt2 .*overwrite=True"):
        export_gpt2(other, tmp_path / "gpt2")
    export_gpt2(other, tmp_path / "gpt2", overwrite=True)


def test_files_of_the_user_stay(tmp_path):
    names = ("config.json.tmp", "model.safetensors.tmp", "notes.txt", "vocab.json")
    for name in names:
        (tmp_path / name).write_text("mine")
    save(MatryoshkaGPT(CONFIG), tmp_path)
    assert all((tmp_path / name).read_text() == "mine" for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [torch.compile, lambda model: model.compile() or model])
def test_a_compiled_model_is_kept_as_it_is(compiled, tmp_path):
    model = MatryoshkaGPT(CONFIG)
    save(compiled(model), tmp_path / "own")
    export_gpt2(compiled(model), tmp_path / "gpt2")
    loaded = load(tmp_path / "own")[0]
    assert type(loaded) is MatryoshkaGPT
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), loaded.parameters(), strict=True))
    assert torch.equal(import_gpt2(tmp_path / "gpt2").embedding.token, model.embedding.token)


def test_no_model_is_refused(tmp_path):
    for other in (torch.nn.Linear(2, 2), type("Own", (MatryoshkaGPT,), {})(CONFIG)):
        with pytest.raises(ValueError, match="not a (Linear|Own)"):
            save(other, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_scalars_of_numpy(tmp_path):
    config = GPTConfig(5, 7, np.int64(12), 2, 1, dropout=np.float32(0.25), bias=np.bool_(False))
    save(MatryoshkaGPT(config), tmp_path)
    assert load(tmp_path)[0].config == config == GPTConfig(5, 7, 12, 2, 1, dropout=0.25, bias=False)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("reader", [load, import_gpt2, lambda folder: History.load(folder / "config.json")])
@pytest.mark.parametrize(
    "text",
    [DEEP, '{"a":' * 50_000, "1" * 5000, '"\\ud800"', "\xff", "[]", "3", "null", '{"sizes": 5}', "NaN"],
)
def test_no_json_does_more_than_raise_value_error(reader, text, tmp_path):
    save(MatryoshkaGPT(CONFIG), tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="config.json"):
        reader(tmp_path)


HOSTILE = (10**6, 10**9, 10**18, 10**30, -1, 0, False, 1e400, "3", [3], {})


@pytest.mark.slow
@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "entry", ["n_layer", "vocab_size", "block_size", "n_embd", "n_head", "n_inner", "head_size", "nesting"]
)
def test_sizes_are_compared_with_the_weights_before_anything_is_built(entry, value, tmp_path):
    config = GPTConfig(5, 7, 12, 2, 3)
    save(MatryoshkaGPT(config), tmp_path / "own")
    export_gpt2(MatryoshkaGPT(config), tmp_path / "gpt2")
    if entry == "nesting" and value == [3]:
        value = [dict(n_embd=3, n_head=1, n_layer=10**12, n_inner=4)]
    theirs = {"block_size": "n_positions"}.get(entry, entry)
    for folder, reader, name in ((tmp_path / "own", load, entry), (tmp_path / "gpt2", import_gpt2, theirs)):
        found = json.loads((folder / "config.json").read_text())
        found.get("config", found)[name] = value
        (folder / "config.json").write_text(json.dumps(found))
        if reader is load or name not in ("head_size", "nesting"):  # which GPT-2 has not
            with pytest.raises(ValueError, match="config.json|model.safetensors"):
                reader(folder)


def test_hostile_weights(tmp_path):
    save(MatryoshkaGPT(CONFIG), tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for dtype in (torch.int64, torch.bool, torch.complex64):
        file = {name: p.to(dtype) for name, p in weights.items()}
        safetensors.torch.save_file(file, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match="model.safetensors"):
            load(tmp_path)
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    for data in (b"\xff" * 64, len(header).to_bytes(8, "little") + header, bytes(8) + b"{}"):
        (tmp_path / "model.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match="model.safetensors is truncated or damaged"):
            load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        load(tmp_path)


def test_loading_leaves_the_global_random_state(tmp_path):
    save(MatryoshkaGPT(CONFIG), tmp_path / "own")
    state = torch.get_rng_state()
    export_gpt2(load(tmp_path / "own")[0], tmp_path / "gpt2", CONFIG.sizes[0])
    import_gpt2(tmp_path / "gpt2")
    assert torch.equal(torch.get_rng_state(), state)


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
    short = json.dumps(history.as_dict() | {"steps": [0]})
    for text in ("", "[]", '{"sizes": [1]}', "{}", short, short.replace("[0]", "5")):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match="other.json"):
            History.load(tmp_path / "other.json")
