"""Texts, the split, and token files: what is streamed must equal what is encoded whole."""

import functools
import hashlib
import http.server
import json
import math
import random
import re
import sys
import sysconfig
import threading
import zipfile
from pathlib import Path
from unittest.mock import Mock, call

import numpy as np
import pytest
import torch

from matgpt.__main__ import main
from matgpt.text import corpus, token_files
from matgpt.text.batches import as_ids, batch, loss_unit
from matgpt.text.corpus import load_text, split
from matgpt.text.token_files import load_tokens, prepare, read_corpus
from matgpt.text.tokenizer import PIECE, BPETokenizer, CharTokenizer

from .conftest import assert_refused
from .test_train import refused

SPEECH = "All:\r\nSpeak, naïve speak.\n" * 9000


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(corpus, "CHUNK", 4099)  # prime, so that characters and words are cut everywhere
    monkeypatch.setattr(corpus, "PIECE", re.compile(PIECE.pattern.replace("65536", "1")))


# ---- texts with a name
@pytest.fixture
def served(monkeypatch, tmp_path):
    """A folder that a server on this machine serves, with what "shakespeare" and "enwik8" expect there."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "shakespeare.txt").write_bytes(SPEECH.encode())
    with zipfile.ZipFile(folder / "enwik8.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("enwik8", SPEECH)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        for file in folder.iterdir():
            address = f"http://127.0.0.1:{server.server_port}/{file.name}"
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            monkeypatch.setitem(corpus.DOWNLOADS, file.stem, (address, digest))
        monkeypatch.setattr(corpus, "DATA", tmp_path / "texts")
        yield folder
        server.shutdown()


@pytest.mark.parametrize("name", ["shakespeare", "enwik8"])
def test_downloads_are_fetched_once(name, served, capsys):
    assert load_text(name) == SPEECH and "100%" in capsys.readouterr().err
    for file in served.iterdir():
        file.unlink()
    assert load_text(name) == SPEECH


def test_a_failed_download_says_what_to_do(served, tmp_path):
    path = tmp_path / "texts" / "shakespeare.txt"
    for break_it in (lambda file: file.write_bytes(b"damaged"), Path.unlink):
        break_it(served / "shakespeare.txt")
        with pytest.raises(ConnectionError, match="could not download shakespeare.*python-docs") as error:
            load_text("shakespeare")
        assert f"at {path}" in str(error.value) and not list(path.parent.iterdir())
    path.write_bytes(SPEECH.encode())
    assert load_text("shakespeare") == SPEECH
    path.write_text("my own notes", "utf-8")
    assert_refused(f"{path} is not shakespeare .*: remove it", load_text, "shakespeare")
    assert path.read_text("utf-8") == "my own notes"


def test_python_docs_are_the_sorted_topics():
    from pydoc_data.topics import topics

    assert load_text("python-docs") == "\n\n".join(topics[name] for name in sorted(topics))


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    (tmp_path / "table.parquet").write_bytes(b"something")
    for module in ("pydoc_data.topics", "datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match="pydoc_data.*python-docs"):
        load_text("python-docs")
    for name in (tmp_path / "table.parquet", "tinystories", "hf:owner/name"):
        with pytest.raises(ImportError, match="needs the package datasets: pip install datasets"):
            load_text(name)


def test_the_library_is_its_sources_without_tests(tmp_path, monkeypatch):
    """As Debian, python.org and pyenv might lay one out."""
    files = {
        "os.py": "import sys\n",
        "json/__init__.py": "naïve = 1\n",
        "json/empty.py": "",
        "json/notes.txt": "no source",
        "unittest/test/test_case.py": "assert 1\n",
        "idlelib/idle_test/test_b.py": "assert 2\n",
        "unittest/case.py": "class Case: ...\n",
        "_sysconfigdata__linux.py": "path = '/build'\n",
        "config-3.11/python-config.py": "build\n",
        "site-packages/other.py": "other\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    own = ["naïve = 1\n", "import sys\n", "class Case: ...\n"]
    assert load_text("python-stdlib") == "\n\n".join(own)
    assert load_text("python-stdlib+tests") == "\n\n".join(["assert 2\n", *own, "assert 1\n"])


# ---- files
def test_a_file_is_read_as_it_is_but_for_its_byte_order_mark(tmp_path):
    text = "é\r\n中\n\r👩‍👩‍👧\0 \ufeff end\n\n"
    (tmp_path / "my.txt").write_bytes(text.encode())
    (tmp_path / "mark.txt").write_bytes(text.encode("utf-8-sig"))
    for path in tmp_path.iterdir():
        assert load_text(path) == load_text(str(path)) == text


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("latin.txt", b"caf\xc3\xa9 caf\xe9 ", r"is not UTF-8 \(invalid continuation byte\)"),
        ("late.txt", b"a" * 9000 + b"\xe4\xb8", r"is not UTF-8 \(unexpected end of data\)"),
        ("rows.jsonl", b'{"text": "fine"}\n{', "cannot be read at row"),
        ("rows.jsonl", b'{"other": "x"}', ".* row 1: there is no text in column 'text': .*other"),
        ("rows.jsonl", b"", r"cannot be read at row 0: \w+"),
        ("rows.parquet", b"PAR1 no table", "cannot be read"),
    ],
)
def test_a_damaged_file_is_refused_by_name(name, content, message, tmp_path):
    if name.startswith("rows"):
        pytest.importorskip("datasets")
    (tmp_path / name).write_bytes(content)
    for take in (load_text, lambda path: prepare([path], tmp_path / "out")):
        assert_refused(f"{name} {message}", take, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["shakespear", "none/none.txt", "x" * 5000])
def test_an_unknown_name_lists_the_known_ones(name):
    assert_refused("'python-docs', 'python-stdlib', .*'shakespeare'", load_text, name)


# ---- split and batches
def test_the_last_tenth_is_validation_and_tensors_and_arrays_are_cut_without_copying(tmp_path):
    for n in (10, 99, 1000, 12345):
        train_ids, val_ids = split(list(range(n)))
        assert train_ids.dtype == val_ids.dtype == torch.int64
        assert train_ids.tolist() + val_ids.tolist() == list(range(n)) and abs(len(val_ids) - n / 10) <= 1
    assert [len(part) for part in split(list(range(1000)), val_fraction=0.25)] == [750, 250]
    tensor, array = torch.arange(100, dtype=torch.int32), np.arange(100, dtype=np.uint16)
    array.tofile(tmp_path / "ids")
    for ids in (tensor, array, np.memmap(tmp_path / "ids", np.uint16, mode="r+")):
        train_ids, val_ids = split(ids)
        assert type(train_ids) is type(ids) and train_ids.dtype == ids.dtype
        assert (len(train_ids), len(val_ids)) == (90, 10)
        ids[95] = 7
        assert val_ids[5] == 7


def test_ids_that_cannot_be_split_are_named():
    assert_refused("1 tokens is too short", split, [1])
    assert_refused("ids is empty: it must be one row of at least 1 whole numbers", split, [])
    assert_refused(r"ids has shape \(2, 3\)", split, torch.zeros(2, 3).long())
    assert_refused("ids has .* dtype float64", split, [0.5, 1.7])
    assert_refused("ids has .* dtype bool", split, [True] * 30)
    assert_refused("ids=.* must be token ids", split, [[1], [2, 3]])
    assert_refused("ids=.* must be token ids", split, torch.ones(9, dtype=torch.bfloat16))
    for fraction in (0, 1, -0.1, float("nan")):
        assert_refused(f"val_fraction={fraction} must be a number in", split, [1, 2, 3], fraction)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64])
def test_ids_of_any_type_are_checked_against_any_vocabulary(dtype):
    ids = as_ids(np.arange(100, dtype=dtype), 8, 300)
    x, y = batch(ids, np.array([0, 50]), 8, torch.device("cpu"))
    assert x.dtype == y.dtype == torch.int64 and y[1].tolist() == list(range(51, 59))
    assert batch(ids, np.array([0]), 8, torch.device("meta"))[0].is_meta  # any device, not a GPU alone
    assert_refused("token id 99.*0 to 98", as_ids, ids, 8, 99)


def test_the_unit_of_a_loss_names_the_factor_to_bits_per_byte():
    text = "naïve 中文 " * 50
    char, bpe = CharTokenizer.from_text(text), BPETokenizer.train(text, 263)
    ids = bpe.encode(text)
    unit = f"nats per token (times {len(ids) / math.log(2) / len(text.encode()):.4f}: bits per byte)"
    for same in (ids, np.array(ids, np.uint16), torch.tensor(ids)):
        assert loss_unit(bpe, same) == unit
    assert loss_unit(char, char.encode(text)) == "nats per token"


# ---- token files of texts
HOSTILE = "naïve  中文。\r\n\r\n   indented\n\n\nit's 'tis we'll\t\t<|endoftext|> 👩‍👩‍👧 \u00a0 \x1c\n \n"
SPACES = "".join(random.Random(0).choices(" \n\t\r\u00a0\u0085\x1c\u200bab1'.s中", k=3000))
HOSTILE += SPACES + " " * 2000 + "x\n"


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_stream_equals_each_text_encoded_whole(kind, small_pieces, tmp_path, monkeypatch, capsys):
    docs = load_text("python-docs")
    parts = [docs[:50_003], HOSTILE * 20 + docs[50_003:80_000], "", docs[80_000:120_000] + HOSTILE]
    paths = [tmp_path / f"{i}.txt" for i in range(4)]
    for path, part in zip(paths, parts):
        path.write_bytes(part.encode())
    monkeypatch.setattr(token_files, "SAMPLE", 60_000)
    meta = prepare(paths, tmp_path / "out", kind, 600)
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    text = "".join(parts)
    bpe = kind == "bpe"
    assert tokenizer == (BPETokenizer.train(text[:60_000], 600) if bpe else CharTokenizer.from_text(text))
    whole = [split(tokenizer.encode(part)) for part in parts if part]
    for ids, expected in zip((train_ids, val_ids), zip(*whole)):
        assert isinstance(ids, np.memmap) and ids.dtype == np.uint16
        assert ids.tolist() == torch.cat(expected).tolist()
    assert (meta["n_train"], meta["n_val"]) == (len(train_ids), len(val_ids))
    assert meta["sources"] == list(map(str, paths)) and f"encoding {paths[1]}" in capsys.readouterr().err
    assert read_corpus("python-docs", "bpe")[2].vocab_size == 1024
    again = read_corpus(tmp_path / "out")
    assert again[0].tolist() == train_ids.tolist() and again[2] == tokenizer


def test_a_large_vocabulary_takes_four_bytes_an_id(tmp_path):
    text = "".join(map(chr, range(0xE000, 0xE000 + 70_000)))
    (tmp_path / "wide.txt").write_bytes(text.encode())
    prepare([tmp_path / "wide.txt"], tmp_path / "out", "char")
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    assert train_ids.dtype == np.uint32 and tokenizer.vocab_size == 70_000
    assert token_files.dtype_of(CharTokenizer(text[: 2**16])) == "uint16"
    assert tokenizer.decode(train_ids) + tokenizer.decode(val_ids) == text


@pytest.mark.parametrize(
    "content, options, message",
    [
        ("text", {"tokenizer": "chars"}, "tokenizer='chars' must be 'bpe' or 'char'"),
        ("", {"vocab_size": 256}, "0 tokens for training"),
        ("a", {"tokenizer": "char"}, "1 tokens for training and 0 for validation are too few"),
        ("text", {"paths": ["."], "pattern": "*.py"}, r"no file in \. matches the pattern '\*\.py'"),
    ],
)
def test_bad_arguments_and_an_interrupt_leave_nothing(content, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text(content, "utf-8")
    assert_refused(message, prepare, **{"paths": ["short.txt"], "out": "out"} | options)
    Path("long.txt").write_text("To be, or not to be. ", "utf-8")
    monkeypatch.setattr(CharTokenizer, "encode", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(["long.txt"], "out", "char")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.txt", "short.txt"]


# ---- token files of documents
DOCUMENTS = [f"Document {i}\r\nis né." for i in range(400)]


def held_out(document):
    return int(hashlib.sha256(document.encode()).hexdigest(), 16) % 100 == 0


def as_folder(folder, documents):
    for i, document in enumerate(documents):
        path = folder / f"{i % 7}" / f"{i:03}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document.encode())
    (folder / "0" / "notes.txt").write_text("does not match", "utf-8")
    (folder / "0" / ".hidden.md").write_text("hidden", "utf-8")
    (folder / "0" / "empty.md").write_text("", "utf-8")
    return folder


def as_jsonl(path, documents, mark=b""):
    pytest.importorskip("datasets")
    rows = [json.dumps({"id": 1, "body": text}, ensure_ascii=i % 2) for i, text in enumerate(documents)]
    content = mark + "\n\n".join([*rows, '{"body": ""}', '{"body": null}']).encode()
    if path.suffix == ".zst":
        content = pytest.importorskip("zstandard").compress(content)
    path.write_bytes(content)
    return path


def as_parquet(path, documents):
    pytest.importorskip("datasets")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = {"id": list(range(len(documents) + 2)), "body": [*documents, None, ""]}
    parquet.write_table(arrow.table(table), path, row_group_size=90)
    return path


FORMS = {
    "folder": as_folder,
    "A.JSONL": functools.partial(as_jsonl, mark=b"\xef\xbb\xbf"),
    "rows*.jsonl.zst": as_jsonl,
    "rows[1].parquet": as_parquet,
}


@pytest.mark.parametrize("form", FORMS)
def test_documents_are_split_by_their_content(form, small_pieces, tmp_path):
    path = FORMS[form](tmp_path / form, DOCUMENTS)
    prepare([path], tmp_path / "out", "bpe", 270, pattern="*.md", column="body")
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    train, val = (tokenizer.decode(ids).split("\n\n")[:-1] for ids in (train_ids, val_ids))
    assert sorted(val) == sorted(document for document in DOCUMENTS if held_out(document))
    assert sorted(train + val) == sorted(DOCUMENTS) and 0 < len(val) < 20
    if form != "folder":
        assert train == [document for document in DOCUMENTS if not held_out(document)]


def test_a_folder_is_read_without_token_files_and_what_is_not_utf8(tmp_path):
    folder = as_folder(tmp_path / "folder", DOCUMENTS)
    (folder / "0" / "meta.json").write_text("mine", "utf-8")  # beside no token files
    (folder / "0" / "empty.jsonl").touch()
    (folder / "0" / "latin.md").write_bytes(b"caf\xe9")
    with pytest.warns(UserWarning, match=r"skipped: .*latin\.md is not UTF-8"):
        metas = [prepare([folder], out, "char") for out in (folder / "out", folder / "b", tmp_path / "c")]
    assert metas[0] == metas[1] == metas[2]
    documents = [*DOCUMENTS, "mine", "does not match"]
    assert metas[0]["n_train"] + metas[0]["n_val"] == sum(len(document) + 2 for document in documents)


def test_a_data_set_of_the_hub_is_streamed(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    load_dataset = Mock(side_effect=lambda **source: iter([{"text": document} for document in DOCUMENTS]))
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    prepare(["tinystories"], tmp_path / "out", "char")
    asked = call(path="roneneldan/TinyStories", split="train", streaming=True)
    assert load_dataset.call_args_list == [asked] * 2
    train_ids, _, tokenizer = load_tokens(tmp_path / "out")
    assert tokenizer.decode(train_ids) == "".join(f"{text}\n\n" for text in DOCUMENTS if not held_out(text))
    assert load_text("hf:owner/name") == "\n\n".join(DOCUMENTS)
    load_dataset.side_effect = ConnectionError("no route")
    with pytest.raises(ConnectionError, match="hf:owner/none cannot be read at row 0: no route"):
        load_text("hf:owner/none")


# ---- reading token files
@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "text.txt").write_text("To be, or not to be. " * 100, "utf-8")
    prepare([tmp_path / "text.txt"], tmp_path / "out", "char")
    return tmp_path / "out"


def test_files_in_the_way_are_never_deleted(prepared, tmp_path):
    names = {"meta.json", "tokenizer.json", "train.bin", "val.bin"}
    assert {path.name for path in prepared.iterdir()} == names and not (tmp_path / "out.partial").exists()
    for name in ("out", "out.partial"):
        there = prepared.rename(tmp_path / name)
        assert_refused(f"{name} exists already", prepare, [tmp_path / "text.txt"], tmp_path / "out", "char")
        assert {path.name for path in there.iterdir()} == names


def test_token_files_that_do_not_fit_are_refused_by_name(prepared):
    meta = json.loads((prepared / "meta.json").read_bytes())
    for name, value in dict(n_train=1891, dtype="uint32", format=1, vocab_size=65).items():
        for changed in (meta | {name: value}, {key: meta[key] for key in meta if key != name}):
            (prepared / "meta.json").write_text(json.dumps(changed), "utf-8")
            assert_refused(f"meta.json: .*{name}", load_tokens, prepared)
    (prepared / "meta.json").write_text(json.dumps(meta), "utf-8")
    tokens = (prepared / "train.bin").read_bytes()
    messages = {-3: "multiple", -4: "n_train is 1890, and should be 1888", 0: "empty"}
    for length, message in messages.items():
        (prepared / "train.bin").write_bytes(tokens[:length])
        assert_refused(f"{prepared}.*{message}", load_tokens, prepared)
    (prepared / "train.bin").write_bytes(tokens)
    assert_refused("tokenizer='char': .*have one of their own", read_corpus, prepared, "char")
    for name in ("train.bin", "tokenizer.json"):
        (prepared / name).unlink()
        assert_refused(f"No such file.*{name}", load_tokens, prepared)
    (prepared / "meta.json").write_text("")
    assert_refused("meta.json holds no text", read_corpus, prepared / "meta.json")
    (prepared / "meta.json").unlink()
    assert_refused("holds no token files: python -m matgpt data", load_tokens, prepared)


# ---- the program
def test_the_program_makes_token_files(prepared, tmp_path, capsys):
    text, second = str(tmp_path / "text.txt"), tmp_path / "new" / "second"
    assert "no corpus or file 'none.txt'" in refused(capsys, "data", "none.txt", "--out", second)
    assert "'' is not a path" in refused(capsys, "data", text, "--out", "") and not second.exists()
    char = "data", text, "--tokenizer", "char", "--out", second
    assert "--vocab=99: only bpe" in refused(capsys, *char, "--vocab", 99) and not second.exists()
    main([*map(str, char)])
    assert "second: a vocabulary of 10, 1,890 tokens for training and 210 for" in capsys.readouterr().out
    assert (second / "train.bin").read_bytes() == (prepared / "train.bin").read_bytes()
