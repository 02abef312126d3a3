"""A model comes back from its folder as it was, or the error says what is wrong."""

import dataclasses
import json
import os
import pickle
import signal
from unittest.mock import Mock

import pytest
import safetensors.torch
import torch

import matgpt
from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, export_gpt2, import_gpt2, load, save
from matgpt.files import atomic
from matgpt.text.tokenizer import CharTokenizer, load_tokenizer

from .conftest import assert_refused, contents, edit_json, random_model

NESTING = (6, matgpt.Size(6, 1, 2, (5, 7)), matgpt.Size(9, 1, 3, (5, 6, 7)))
CONFIG = GPTConfig(5, 7, 12, 2, 3, NESTING, (20, 30, 10), head_size=5, dropout=0.1, bias=False)
RANGE = GPTConfig(5, 7, 16, 2, 3, matgpt.between(matgpt.Size(8, 1, 1), matgpt.Size(16, 2, 3), 4))
LETTERS = CharTokenizer("abcde")


@pytest.mark.parametrize("config", [CONFIG, RANGE, GPTConfig(5, 7, 12, 2, 1)])
def test_round_trip(variant, config, tmp_path):
    model = random_model(variant, config).to(memory_format=torch.channels_last)  # of weights with four axes
    save(model, tmp_path / "a" / "b")
    loaded, tokenizer = load(tmp_path / "a" / "b")
    assert type(loaded) is variant and loaded.config == config and tokenizer is None and not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_tokenizer(tmp_path):
    tokenizer = CharTokenizer("abcd\n")
    model = MatryoshkaGPT(GPTConfig(tokenizer.vocab_size, 4, 4, 1, 1))
    save(model, tmp_path, tokenizer)
    CharTokenizer("ab").save(tmp_path)
    assert_refused("has 2 tokens, the model vocab_size=", load, tmp_path)
    assert_refused("has 2 tokens, the model vocab_size=", save, model, tmp_path, overwrite=True)
    assert load_tokenizer(tmp_path) == CharTokenizer("ab")
    save(model, tmp_path, tokenizer, overwrite=True)
    save(model, tmp_path)  # without one, the tokenizer stays
    assert load(tmp_path)[1] == tokenizer


def changed(name, change):
    """A function of a folder that replaces the content of a file."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def edit(old, new):
    return changed("config.json", lambda data: data.replace(old.encode(), new.encode()))


def other_weights(change):
    def as_file(data):
        return safetensors.torch.save(change(safetensors.torch.load(data)))

    return changed("model.safetensors", as_file)


def cast(dtype, of=""):
    return other_weights(lambda w: {name: p.to(dtype) if of in name else p for name, p in w.items()})


class Touch:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


CODE = pickle.dumps(Touch("touched"))
DAMAGE = [
    ("config.json: .*No such file", lambda folder: (folder / "config.json").unlink()),
    ("model.safetensors is missing", lambda folder: (folder / "model.safetensors").unlink()),
    ("model.safetensors is damaged", changed("model.safetensors", lambda data: data[:-1])),
    ("model.safetensors is damaged", changed("model.safetensors", lambda _: CODE)),
    ("config.json: format 7 is unknown", edit('"format": 1', '"format": 7')),
    ("config.json: .*'Other", edit("MatryoshkaGPT", "Other")),
    ("config.json: .*block_sizes", edit("block_size", "block_sizes")),
    ("config.json: dropout=3.5", edit('"dropout": 0.1', '"dropout": 3.5')),
    ("config.json: .*size mismatch", edit('"vocab_size": 5', '"vocab_size": 6')),
    ("config.json: .*position", other_weights(lambda w: {n: p for n, p in w.items() if "position" not in n})),
    ("config.json: .*unknown", other_weights(lambda w: w | {"unknown": torch.zeros(2)})),
    ("model.safetensors has weights of type .*torch.float16", cast(torch.float16, "norm")),
    ("model.safetensors has weights of type .*torch.float8_e4m3fn", cast(torch.float8_e4m3fn)),
    ("model.safetensors: blocks.* contains NaN", other_weights(lambda w: {n: p / 0 for n, p in w.items()})),
    ("tokenizer.json", changed("tokenizer.json", lambda _: b"{")),
    ("tokenizer.json is missing", lambda folder: (folder / "tokenizer.json").unlink()),
    ("config.json: .*import_gpt2", lambda folder: export_gpt2(MatryoshkaGPT(CONFIG), folder, overwrite=True)),
]


@pytest.mark.parametrize("message, damage", DAMAGE)
@pytest.mark.parametrize("relative", [False, True])
def test_damage_is_named(message, damage, relative, tmp_path, monkeypatch):
    save(MatryoshkaGPT(CONFIG), tmp_path, LETTERS)
    damage(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert_refused(f"(?s){message}", load, "." if relative else tmp_path)
    assert not (tmp_path / "touched").exists(), "no code is run"


@pytest.mark.parametrize("full_at", range(3))
def test_a_full_disk_leaves_what_was_there(full_at, tmp_path, monkeypatch):
    """Whichever of the three files does not fit."""
    save(MatryoshkaGPT(CONFIG), tmp_path, LETTERS)
    before, other = contents(tmp_path), MatryoshkaGPT(dataclasses.replace(CONFIG, dropout=0.5))
    fsync = Mock(side_effect=[None] * full_at + [OSError(28, "No space left on device")])
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(atomic.os, "fsync", fsync)
        save(other, tmp_path, CharTokenizer("vwxyz"), overwrite=True)
    assert contents(tmp_path) == before
    save(other, tmp_path, CharTokenizer("vwxyz"), overwrite=True)
    assert load(tmp_path)[0].config.dropout == 0.5 and len(contents(tmp_path)) == 3


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_files_of_two_models_are_not_mixed(name, tmp_path):
    """As a process that was killed between two renames leaves them; all shapes agree."""
    save(MatryoshkaGPT(CONFIG), tmp_path / "a", LETTERS)
    save(MatryoshkaGPT(dataclasses.replace(CONFIG, dropout=0.5)), tmp_path / "b", CharTokenizer("vwxyz"))
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    assert_refused("is not the file that was saved with model.safetensors", load, tmp_path / "a")


def test_ctrl_c_between_two_files_waits_for_the_second(tmp_path, monkeypatch):
    new, replace = dataclasses.replace(CONFIG, n_layer=4, n_inner=8, nesting=None), os.replace
    save(MatryoshkaGPT(CONFIG), tmp_path)
    pressed = lambda *paths: signal.raise_signal(signal.SIGINT) or replace(*paths)  # noqa: E731
    monkeypatch.setattr(atomic.os, "replace", pressed)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        save(MatryoshkaGPT(new), tmp_path, overwrite=True)
    signal.signal(signal.SIGINT, handler)
    assert load(tmp_path)[0].config == new


def test_nothing_is_replaced_without_permission(tmp_path):
    model, other = MatryoshkaGPT(CONFIG), MatryoshkaEmbeddingsGPT(CONFIG)
    mine = "config.json.tmp", "notes.txt", "vocab.json", "step-00000001-0123456789abcdef.pt"
    for name in mine:
        (tmp_path / name).write_text("mine")
    save(model, tmp_path, LETTERS)
    before = contents(tmp_path)
    refusal = "already holds config.json, model.safetensors: pass overwrite=True"
    assert_refused(refusal, save, other, tmp_path)
    assert_refused("already holds tokenizer.json", save, model, tmp_path, CharTokenizer("vwxyz"))
    assert_refused("already holds config.json", export_gpt2, model, tmp_path, tokenizer=LETTERS)
    assert_refused("notes.txt is a file: name a folder", save, model, tmp_path / "notes.txt")
    assert_refused("notes.txt is a file: name a folder", export_gpt2, model, tmp_path / "notes.txt")
    assert_refused("config.json: .*matgpt.load", import_gpt2, tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").symlink_to(tmp_path / "nowhere")
    assert_refused("already holds config.json", save, model, tmp_path / "new")
    save(model, tmp_path)  # the same content may be written again
    save(other, tmp_path, overwrite=True)
    loaded, tokenizer = load(tmp_path)
    assert type(loaded) is MatryoshkaEmbeddingsGPT and tokenizer == LETTERS
    assert all((tmp_path / name).read_text() == "mine" for name in mine)


@pytest.mark.parametrize("write", [save, export_gpt2])
def test_wrong_models_folders_and_tokenizers_are_not_written(write, tmp_path):
    model, diverged, half = (MatryoshkaGPT(CONFIG) for _ in range(3))
    diverged.blocks[1].attention.qkv.weight.data[0, 0, 0, 0] = torch.inf
    half.norm.half()
    new, few = tmp_path / "new", CharTokenizer("ab")
    own_model, own_tokenizer = type("Own", (MatryoshkaGPT,), {})(CONFIG), type("Own", (), {"vocab_size": 5})()
    assert_refused("blocks.1.*NaN", write, diverged, new)
    assert_refused("float16", write, half, new)
    assert_refused("model=None must be a MatryoshkaGPT or", write, None, new)
    assert_refused("model=Linear.* must be a MatryoshkaGPT or", write, torch.nn.Linear(2, 2), new)
    assert_refused("must be a MatryoshkaGPT or a MatryoshkaEmbeddingsGPT", write, own_model, new)
    assert_refused("'' is not a path", write, model, "")
    assert_refused("has 2 tokens, the model vocab_size=5", write, model, new, tokenizer=few)
    assert_refused("tokenizer='abcde' must be a CharTokenizer", write, model, new, tokenizer="abcde")
    assert_refused("must be a CharTokenizer or a BPETokenizer", write, model, new, tokenizer=own_tokenizer)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_models_that_load_in_any_grad_mode_can_be_trained(mode, tmp_path):
    torch.manual_seed(0)
    with mode():
        save(MatryoshkaGPT(CONFIG), tmp_path / "own")
        export_gpt2(load(tmp_path / "own")[0], tmp_path / "gpt2", CONFIG.sizes[0])
        state = torch.get_rng_state()
        models = load(tmp_path / "own")[0], import_gpt2(tmp_path / "gpt2")
        assert torch.equal(torch.get_rng_state(), state) and not torch.is_grad_enabled()
    for model in models:
        model(torch.tensor([[0, 1]])).sum().backward()
        assert model.embedding.token.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [torch.compile, lambda model: model.compile() or model])
def test_a_compiled_model_is_saved_as_it_is(compiled, tmp_path):
    model = MatryoshkaGPT(CONFIG)
    save(compiled(model), tmp_path / "own")
    export_gpt2(compiled(model), tmp_path / "gpt2")
    loaded = load(tmp_path / "own")[0]
    assert type(loaded) is MatryoshkaGPT
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert torch.equal(import_gpt2(tmp_path / "gpt2").embedding.token, model.embedding.token)


STRANGE = "", "[" * 9000, '"\\ud800"', "\xff", "[]", "{}", "null", '{"sizes": [1]}', "NaN", "1" * 5000
READERS = load, import_gpt2, lambda folder: matgpt.History.load(folder / "config.json")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", STRANGE)
def test_json_of_any_content_raises_value_error(reader, text, tmp_path):
    save(MatryoshkaGPT(CONFIG), tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    assert_refused("config.json", reader, tmp_path)


@pytest.mark.parametrize("value", [10**6, 10**30, -1, False, 1e400, "3", [5], None, {}])
@pytest.mark.parametrize("entry", ["n_layer", "vocab_size", "n_embd", "n_inner", "nesting"])
def test_wrong_sizes_are_named_before_memory_is_taken(entry, value, tmp_path):
    config = GPTConfig(5, 7, 12, 2, 3, n_inner=40, nesting=[6])
    save(MatryoshkaGPT(config), tmp_path / "own")
    export_gpt2(MatryoshkaGPT(config), tmp_path / "gpt2")
    for folder, reader in ((tmp_path / "own", load), (tmp_path / "gpt2", import_gpt2)):
        edit_json(folder / "config.json", lambda state: state.get("config", state).update({entry: value}))
        if not (entry == "nesting" and (reader is import_gpt2 or value in (None, [5]))):  # a nesting, or none
            assert_refused("config.json|gpt2|model.safetensors", reader, folder)


def test_history(tmp_path):
    history = matgpt.History(CONFIG.sizes, lr=1e-3, done=10, spent=5.0)
    history.add(*({size: part / 3 + i for i, size in enumerate(CONFIG.sizes)} for part in (1, 2)))
    history.save(tmp_path / "history.json")
    loaded = matgpt.History.load(tmp_path / "history.json")
    assert loaded.val[CONFIG.sizes[1]] == [2 / 3 + 1] and loaded == history
    more, half, text, no_list = ({"steps": steps} for steps in ([0, 10], [2.5], ["10"], 5))
    for wrong in (more, half, text, no_list, {"spent": "3"}, {"done": 0.5}):
        (tmp_path / "other.json").write_text(json.dumps(history.as_dict() | wrong))
        assert_refused("other.json", matgpt.History.load, tmp_path / "other.json")
