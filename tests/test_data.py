"""Texts, the split, and token files: what is streamed must equal what is encoded whole."""

import gzip
import hashlib
import http.server
import io
import json
import math
import random
import subprocess
import sys
import sysconfig
import threading
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from matgpt.commands.data import main
from matgpt.text import download, sources
from matgpt.text import token_files as data
from matgpt.text.batches import as_ids, batch, bits_per_byte, loss_unit
from matgpt.text.corpus import find, load_text, split
from matgpt.text.sources import pieces
from matgpt.text.token_files import between_words, load_tokens, prepare
from matgpt.text.tokenizer import BPETokenizer, CharTokenizer

ROOT = Path(data.__file__).parents[2]


@pytest.fixture
def offline(monkeypatch):
    def urlopen(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `content` under every address; knows ranges, and breaks off after `limit` bytes."""

    content, limit, ranges, asked = ("All:\nSpeak, speak.\n" * 9000).encode(), None, True, []

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        if start >= len(self.content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : None if self.limit is None else start + self.limit])

    def log_message(self, *args):
        pass


@pytest.fixture
def served(monkeypatch):
    """A server on this machine for all that is downloaded; what it serves is what the checksums expect."""
    kind = type("Here", (Server,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in download.DOWNLOADS:
        end = download.DOWNLOADS[name].rpartition("/")[2]
        monkeypatch.setitem(download.DOWNLOADS, name, f"http://127.0.0.1:{server.server_port}/{end}")
        monkeypatch.setitem(download.SHA256, name, hashlib.sha256(kind.content).hexdigest())
    yield kind
    server.shutdown()
    thread.join()
    server.server_close()


# ---- load_text


def test_python_docs_are_the_sorted_topics(offline):
    from pydoc_data.topics import topics

    assert len(topics) > 50 and "integers" in topics
    assert load_text("python-docs") == "\n\n".join(topics[name] for name in sorted(topics))


def test_a_python_without_its_docs_is_told_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ImportError, match="pydoc_data.*python-docs"):
        load_text("python-docs")


def test_a_file_is_read_as_it_is(tmp_path):
    text = "\ufeffé\r\n中\n\r👩‍👩‍👧\0 end"
    path = tmp_path / "my.txt"
    path.write_bytes(text.encode())
    assert load_text(path) == load_text(str(path)) == text


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xc3\xa9 caf\xe9 ")
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8: the byte at offset 9 "):
        load_text(path)


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    for name in ("shakespear", tmp_path, tmp_path / "none.txt"):
        with pytest.raises(ValueError, match="'python-docs', 'python-stdlib', .*'shakespeare'") as error:
            load_text(name)
        assert str(name) in str(error.value)


def test_offline_the_error_says_where_the_file_goes(offline, tmp_path):
    with pytest.raises(ConnectionError, match="no route") as error:
        load_text("shakespeare", tmp_path / "texts")
    assert str(tmp_path / "texts" / "shakespeare.txt") in str(error.value) and "python-docs" in str(
        error.value
    )
    assert not [path for path in (tmp_path / "texts").iterdir() if path.stat().st_size]


def test_shakespeare_is_downloaded_once(served, tmp_path, capsys):
    text = load_text("shakespeare", tmp_path / "texts")
    assert text.encode() == served.content
    assert [file.name for file in (tmp_path / "texts").iterdir()] == ["shakespeare.txt"]
    assert "100%" in capsys.readouterr().err
    assert load_text("shakespeare", tmp_path / "texts") == text and served.asked == [None]


def test_enwik8_is_read_out_of_its_archive(served, tmp_path, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("enwik8", "<page>naïve</page>\n" * 5000)
    served.content = packed.getvalue()
    monkeypatch.setitem(download.SHA256, "enwik8", hashlib.sha256(served.content).hexdigest())
    assert load_text("enwik8", tmp_path) == "<page>naïve</page>\n" * 5000
    assert [file.name for file in tmp_path.iterdir()] == ["enwik8.zip"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_broke_off(served, tmp_path, ranges):
    served.limit, served.ranges = 70_000, ranges
    with pytest.raises(ConnectionError, match="broke off after 70000 of 171000 bytes.*try again"):
        load_text("tinystories", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["tinystories.txt.partial"]
    if ranges:
        with pytest.raises(ConnectionError, match="broke off after 139999 of 171000"):
            load_text("tinystories", tmp_path)
    served.limit = None
    assert load_text("tinystories", tmp_path).encode() == served.content
    assert served.asked == [None, "bytes=69999-", *(["bytes=139998-"] if ranges else [])]
    assert [file.name for file in tmp_path.iterdir()] == ["tinystories.txt"]


def test_a_download_that_was_whole_when_its_process_died_is_kept(served, tmp_path):
    (tmp_path / "shakespeare.txt.partial").write_bytes(served.content)
    assert load_text("shakespeare", tmp_path).encode() == served.content
    assert served.asked == [f"bytes={len(served.content) - 1}-"]


def test_more_than_the_server_has_is_thrown_away(served, tmp_path):
    (tmp_path / "shakespeare.txt.partial").write_bytes(served.content + b"more")
    with pytest.raises(ConnectionError, match="416"):
        load_text("shakespeare", tmp_path)
    assert load_text("shakespeare", tmp_path).encode() == served.content and served.asked[-1] is None


@pytest.mark.slow
def test_of_many_that_ask_at_once_one_downloads(served, tmp_path):
    found = []
    many = [
        threading.Thread(target=lambda: found.append(load_text("shakespeare", tmp_path))) for _ in range(5)
    ]
    for one in many:
        one.start()
    for one in many:
        one.join()
    assert found == [served.content.decode()] * 5 and len(served.asked) == 1


def test_a_damaged_download_never_becomes_visible(served, tmp_path):
    served.content = served.content[:-1]
    with pytest.raises(ValueError, match=f"http.*SHA-256 is {hashlib.sha256(served.content).hexdigest()}"):
        load_text("shakespeare", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named_and_left_alone(served, tmp_path):
    path = tmp_path / "shakespeare.txt"
    path.write_text("not Shakespeare", "utf-8")
    with pytest.raises(ValueError, match="SHA-256.*remove the file") as error:
        load_text("shakespeare", tmp_path)
    assert str(path) in str(error.value) and path.read_text("utf-8") == "not Shakespeare" and not served.asked


def test_the_checksums_are_whole():
    assert download.SHA256.keys() == download.DOWNLOADS.keys()
    assert all(len(bytes.fromhex(digest)) == 32 for digest in download.SHA256.values())


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library as Debian, python.org and pyenv might lay one out."""
    files = {
        "os.py": "import sys\n",
        "json/__init__.py": "naïve = 1\n",
        "json/empty.py": "",
        "json/notes.txt": "no source",
        "test/test_os.py": "assert 1\n",
        "unittest/test/test_case.py": "assert 2\n",
        "distutils/tests/test_a.py": "assert 3\n",
        "idlelib/idle_test/test_b.py": "assert 4\n",
        "unittest/case.py": "class Case: ...\n",
        "_sysconfigdata__linux.py": "path = '/build'\n",
        "config-3.11/python-config.py": "build\n",
        "site-packages/other.py": "other\n",
    }
    for name, text in files.items():
        (tmp_path / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lib" / name).write_text(text, "utf-8")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "lib")})
    return tmp_path / "lib"


def test_the_library_is_its_sources_without_tests(library, offline):
    assert load_text("python-stdlib") == "naïve = 1\n\n\nimport sys\n\n\nclass Case: ...\n"
    assert load_text("python-stdlib+tests").count("assert") == 4
    assert "other" not in load_text("python-stdlib+tests") and "build" not in load_text("python-stdlib+tests")


def test_a_python_without_its_sources_is_told_so(library):
    for path in library.rglob("*.py"):
        path.unlink()
    with pytest.raises(ImportError, match="without the sources of its library.*python-stdlib") as error:
        load_text("python-stdlib")
    assert str(library) in str(error.value)


@pytest.mark.slow
def test_this_python_has_a_library():
    paths = [source.path for source in find("python-stdlib")]
    assert paths == sorted(paths) and len(paths) > 400
    assert {"os.py", "mock.py"} <= {path.name for path in paths}
    assert not [path for path in paths if {"test", "site-packages"} & set(path.parts[-3:-1])]


@pytest.mark.parametrize("pack", ["gz", "zst"])
def test_a_packed_file_is_unpacked(pack, tmp_path, small_chunks):
    text = HOSTILE * 30
    path = packed(tmp_path / f"my.txt.{pack}", text)
    assert load_text(path) == text
    whole = path.read_bytes()
    path.write_bytes(whole + whole)  # as parallel packers write, one frame behind the other
    assert load_text(path) == text * 2
    for damaged in (whole[:-9], whole[: len(whole) // 2], b"no archive" * 9):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"my\.txt\.{pack} cannot be read"):
            load_text(path)


def test_an_archive_of_several_files_is_no_text(tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a", "a")
        archive.writestr("b", "b")
    with pytest.raises(ValueError, match=r"two\.zip cannot be read: it holds 2 files and must hold one"):
        load_text(tmp_path / "two.zip")


# ---- split


def test_the_last_tenth_is_validation():
    for n in (10, 99, 1000, 12345):
        train_ids, val_ids = split(list(range(n)))
        assert train_ids.dtype == val_ids.dtype == torch.int64
        assert train_ids.tolist() + val_ids.tolist() == list(range(n))
        assert abs(len(val_ids) - n / 10) <= 1
    assert [len(part) for part in split(list(range(1000)))] == [900, 100]
    assert [len(part) for part in split(list(range(1000)), val_fraction=0.25)] == [750, 250]


def test_tensors_and_arrays_are_cut_without_copying(tmp_path):
    tensor, array = torch.arange(100, dtype=torch.int32), np.arange(100, dtype=np.uint16)
    array.tofile(tmp_path / "ids")
    for ids in (tensor, array, np.memmap(tmp_path / "ids", np.uint16, mode="r+")):
        train_ids, val_ids = split(ids)
        assert type(train_ids) is type(ids) and train_ids.dtype == ids.dtype
        assert (len(train_ids), len(val_ids)) == (90, 10)
        ids[95] = 7
        assert val_ids[5] == 7


def test_what_cannot_be_split_is_named():
    for ids in ([], [1], torch.zeros(0), np.zeros(1)):
        with pytest.raises(ValueError, match=f"{len(ids)} tokens is too short"):
            split(ids)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        split(torch.zeros(2, 3))
    for floats in ([0.5, 1.7, 2.2] * 9, torch.rand(30), np.zeros(30), [True] * 30, [1, 2.5] * 9):
        with pytest.raises(ValueError, match="whole numbers, not of type (torch.)?(float|bool)"):
            split(floats)
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"val_fraction={fraction} must be between 0 and 1"):
            split([1, 2, 3], fraction)


# ---- token files

HOSTILE = (
    "naïve  中文。\r\n\r\n   indented\n\n\nit's 'tis we'll\t\t<|endoftext|> 👩‍👩‍👧 \u00a0 \x1c\n \n"
    + " " * 2000
    + "x\n"
)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(sources, "CHUNK", 4099)  # prime, so that characters and words are cut everywhere


def packed(path, text):
    """`text` in a file at `path`, packed as its name says."""
    content = text.encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = pytest.importorskip("pyarrow").compress(content, "zstd", asbytes=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def corpus(tmp_path):
    """Four texts, one of them empty and one packed."""
    docs = load_text("python-docs")
    parts = [docs[:50_003], HOSTILE * 20 + docs[50_003:80_000], "", docs[80_000:120_000] + HOSTILE]
    names = ("0.txt", "1.txt", "2.txt", "3.txt.gz")
    return [packed(tmp_path / name, part) for name, part in zip(names, parts)], parts


def cut(ids):
    return (ids[: len(ids) - len(ids) // 10], ids[len(ids) - len(ids) // 10 :])


def test_streamed_characters_equal_each_text_whole(corpus, small_chunks, tmp_path, capsys):
    paths, parts = corpus
    meta = prepare(paths, tmp_path / "out", "char")
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    assert tokenizer == CharTokenizer.from_text("".join(parts))
    whole = [cut(tokenizer.encode(part)) for part in parts]
    for found, expected in zip((train_ids, val_ids), zip(*whole)):
        assert isinstance(found, np.memmap) and found.tolist() == sum(expected, [])
    assert (meta["n_train"], meta["n_val"]) == (len(train_ids), len(val_ids))
    assert meta["sources"][1] == {"from": str(paths[1]), "files": 1, "bytes": paths[1].stat().st_size}
    assert "encoding: 100%" in capsys.readouterr().err


def test_streamed_bpe_equals_each_text_whole(corpus, small_chunks, tmp_path, monkeypatch):
    paths, parts = corpus
    monkeypatch.setattr(data, "SAMPLE", 60_000)
    prepare(paths, tmp_path / "out", "bpe", 600)
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    assert tokenizer == BPETokenizer.train("".join(parts)[:60_000], 600) and train_ids.dtype == np.uint16
    whole = [cut(tokenizer.encode(part)) for part in parts]
    for found, expected in zip((train_ids, val_ids), zip(*whole)):
        assert found.tolist() == sum(expected, [])


def test_one_text_is_split_as_split_does(corpus, tmp_path):
    (tmp_path / "t.txt").write_text("To be, or not to be. " * 999, "utf-8")
    prepare([tmp_path / "t.txt"], tmp_path / "out", "char")
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    for found, expected in zip((train_ids, val_ids), split(tokenizer.encode("To be, or not to be. " * 999))):
        assert found.tolist() == expected.tolist()


# ---- documents

DOCUMENTS = [f"Document {i}\r\nis né." for i in range(400)]


def held_out(document):
    return int(hashlib.sha256(document.encode()).hexdigest(), 16) % 100 == 0


def as_folder(folder, documents):
    for i, document in enumerate(documents):
        path = folder / f"{i % 7}" / f"{i:03}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document.encode())
    (folder / "0" / "notes.txt").write_text("not of the pattern", "utf-8")
    (folder / "0" / ".hidden.md").write_text("hidden", "utf-8")
    (folder / "0" / "empty.md").write_text("", "utf-8")
    return folder


def as_jsonl(path, documents):
    rows = [
        json.dumps({"id": 1, "body": document}, ensure_ascii=i % 2) for i, document in enumerate(documents)
    ]
    return packed(path, "\n\n".join([*rows, '{"body": ""}', '{"body": null}']))


def as_parquet(path, documents):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {"id": list(range(len(documents) + 2)), "body": [*documents, None, ""]}
    parquet.write_table(pyarrow.table(table), path, row_group_size=90)
    return path


FORMS = {
    "folder": as_folder,
    "rows.jsonl": as_jsonl,
    "rows.jsonl.gz": as_jsonl,
    "rows.jsonl.zst": as_jsonl,
    "rows.parquet": as_parquet,
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_documents_are_split_by_their_content(form, tokenizer, small_chunks, tmp_path, capsys):
    path = FORMS[form](tmp_path / form, DOCUMENTS)
    prepare([path], tmp_path / "out", tokenizer, 300, pattern="*.md", column="body")
    train_ids, val_ids, learnt = load_tokens(tmp_path / "out")
    train, val = (learnt.decode(ids).split("\n\n")[:-1] for ids in (train_ids, val_ids))
    assert sorted(val) == sorted(document for document in DOCUMENTS if held_out(document))
    assert sorted(train + val) == sorted(DOCUMENTS) and 0 < len(val) < 20
    if form != "folder":
        assert train == [document for document in DOCUMENTS if not held_out(document)]
    assert "encoding: 100%" in capsys.readouterr().err


def test_the_split_does_not_depend_on_what_else_was_there(tmp_path):
    validation = []
    for name, documents in ("few", DOCUMENTS[:200]), ("many", DOCUMENTS[::-1]):
        prepare([as_jsonl(tmp_path / f"{name}.jsonl", documents)], tmp_path / name, "char", column="body")
        _, ids, tokenizer = load_tokens(tmp_path / name)
        validation.append(set(tokenizer.decode(ids).split("\n\n")))
    assert validation[0] < validation[1]


def test_a_name_is_a_source_too(library, served, tmp_path, monkeypatch):
    for i in range(200):
        (library / f"module{i}.py").write_text(f"number = {i}\n", "utf-8")
    monkeypatch.setattr(download, "DATA", tmp_path / "data")
    prepare(["python-stdlib", "shakespeare"], tmp_path / "out", "char")
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    assert "class Case" in tokenizer.decode(train_ids) and "assert" not in tokenizer.decode(train_ids)
    assert "number = " in tokenizer.decode(val_ids) and "Speak, speak" in tokenizer.decode(val_ids)


def test_stories_are_documents(served, tmp_path, monkeypatch, small_chunks):
    monkeypatch.setattr(download, "DATA", tmp_path)
    served.content = "\n<|endoftext|>\n".join(DOCUMENTS).encode()
    monkeypatch.setitem(download.SHA256, "tinystories", hashlib.sha256(served.content).hexdigest())
    prepare(["tinystories"], tmp_path / "out", "char")
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    assert tokenizer.decode(train_ids) == "".join(f"{text}\n\n" for text in DOCUMENTS if not held_out(text))
    assert tokenizer.decode(val_ids) == "".join(f"{text}\n\n" for text in DOCUMENTS if held_out(text))


def test_a_file_of_a_folder_that_is_not_utf8_is_left_out_by_name(tmp_path):
    folder = as_folder(tmp_path / "folder", DOCUMENTS)
    (folder / "0" / "latin.md").write_bytes(b"caf\xe9")
    with pytest.warns(UserWarning, match=r"left out: .*latin\.md is not UTF-8: the byte at offset 3 "):
        prepare([folder], tmp_path / "out", "char", pattern="*.md")
    train_ids, val_ids, _ = load_tokens(tmp_path / "out")
    assert len(train_ids) + len(val_ids) == sum(len(document) + 2 for document in DOCUMENTS)


@pytest.mark.parametrize(
    "line, shown",
    [
        ("{", "'{'"),
        ("[1]", r"'\[1\]'"),
        ('"text"', "text"),
        ('{"other": "x"}', "other"),
        ('{"text": 5}', "5"),
        ('{"text": "\\ud800"}', "ud800"),
        ("[" * 100_000, r"\[\["),
    ],
)
def test_a_row_without_text_is_named(line, shown, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "fine"}\n' * 2 + line, "utf-8")
    with pytest.raises(ValueError, match=rf"rows\.jsonl, row 3: no text in column 'text' of .*{shown}"):
        prepare([tmp_path / "rows.jsonl"], tmp_path / "out")


def test_a_table_that_does_not_fit_is_named(tmp_path):
    path = as_parquet(tmp_path / "rows.parquet", DOCUMENTS)
    with pytest.raises(ValueError, match=r"rows\.parquet cannot be read: no column 'text' among id, body"):
        prepare([path], tmp_path / "out")
    with pytest.raises(ValueError, match=r"rows\.parquet, row 1: no text in column 'id'"):
        prepare([path], tmp_path / "out", column="id")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"rows\.parquet cannot be read"):
        prepare([path], tmp_path / "out")


@pytest.mark.parametrize("name", ["t.parquet", "t.txt.zst"])
def test_a_package_that_is_missing_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(ImportError, match=rf"{name} takes the package pyarrow: pip install pyarrow"):
        prepare([tmp_path / name], tmp_path / "out")


def test_documents_too_few_for_a_hundredth_are_refused(tmp_path):
    path = as_jsonl(tmp_path / "rows.jsonl", [text for text in DOCUMENTS if not held_out(text)][:9])
    with pytest.raises(ValueError, match="and 0 for validation are too few.*one in a hundred"):
        prepare([path], tmp_path / "out", column="body")
    assert not (tmp_path / "out").exists()


def test_bits_per_byte():
    text = "naïve 中文 " * 50
    char, bpe = CharTokenizer.from_text(text), BPETokenizer.train(text, 300)
    for tokenizer in (char, bpe):
        ids = tokenizer.encode(text)
        whole = len(ids) * 1.5 / math.log(2) / len(text.encode())
        for same in (ids, np.array(ids, np.uint16), torch.tensor(ids)):
            assert bits_per_byte(1.5, tokenizer, same) == pytest.approx(whole)
    # a model that knows nothing needs eight bits for a byte, whatever its tokens
    raw = BPETokenizer.train("a")
    assert bits_per_byte(math.log(256), raw, raw.encode(text)) == pytest.approx(8)
    with pytest.raises(ValueError, match="300"):
        bits_per_byte(1.0, bpe, [0, 300])
    each = bits_per_byte(1, bpe, bpe.encode(text))
    assert loss_unit(bpe, bpe.encode(text)) == f"nats per token (times {each:.4f}: bits per byte)"
    assert loss_unit(char, char.encode(text)) == "nats per token"


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64])
def test_ids_of_any_type_are_checked_against_any_vocabulary(dtype):
    ids = as_ids(np.arange(100, dtype=dtype), 8, 300)
    x, y = batch(ids, np.array([0, 50]), 8, torch.device("cpu"))
    assert x.dtype == y.dtype == torch.int64 and y[1].tolist() == list(range(51, 59))
    assert batch(ids, np.array([0]), 8, torch.device("meta"))[0].is_meta  # any device, not a GPU alone
    with pytest.raises(ValueError, match="token id 99.*0 to 98"):
        as_ids(ids, 8, 99)


# ---- streams


def test_cuts_between_words_change_no_token():
    tokenizer = BPETokenizer.train("ab  ab\n\nab a'll a.. " * 50 + load_text("python-docs")[:20_000], 500)
    rng, cuts = random.Random(0), 0
    for _ in range(400):
        text = "".join(rng.choices(" \n\t\r\u00a0\u0085\x1c\u200bab1'.s中", k=rng.randrange(60)))
        places = sorted(rng.randrange(len(text) + 1) for _ in range(4))
        pieces = list(between_words(text[a:b] for a, b in zip([0, *places], [*places, len(text)])))
        assert "".join(pieces) == text
        assert [i for piece in pieces for i in tokenizer.encode(piece)] == tokenizer.encode(text)
        cuts += len(pieces) - 1
    assert cuts > 200


def test_a_text_without_blanks_is_one_piece():
    assert list(between_words(["abc", "def", "ghi"])) == ["abcdefghi"]
    assert list(between_words([])) == [""]


def test_a_large_vocabulary_takes_four_bytes_an_id(tmp_path):
    text = "".join(map(chr, range(0xE000, 0xE000 + 70_000)))
    (tmp_path / "wide.txt").write_bytes(text.encode())
    prepare([tmp_path / "wide.txt"], tmp_path / "out", "char")
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    assert train_ids.dtype == np.uint32 and tokenizer.vocab_size == 70_000
    assert tokenizer.decode(train_ids) + tokenizer.decode(val_ids) == text


@pytest.mark.parametrize(
    "content, offset",
    [
        (b"a" * 5000 + b"\xe9 and more", 5000),
        (b"a" * 4098 + b"\xe4\xb8 cut short", 4098),
        (b"a" * 9000 + b"\xe4\xb8", 9000),
    ],
)
def test_a_stream_that_is_not_utf8_is_named_with_the_byte(content, offset, small_chunks, tmp_path):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.txt is not UTF-8: the byte at offset {offset} "):
        list(pieces(tmp_path / "bad.txt"))
    for tokenizer in ("char", "bpe"):
        with pytest.raises(ValueError, match=f"offset {offset} "):
            prepare([tmp_path / "bad.txt"], tmp_path / "out", tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.txt"]


def test_what_is_in_the_way_is_never_deleted(corpus, tmp_path):
    for name in ("out", "out.partial"):
        mine = tmp_path / name
        mine.mkdir()
        (mine / "notes").write_text("keep", "utf-8")
        with pytest.raises(ValueError, match=f"{name} exists already"):
            prepare(corpus[0], tmp_path / "out", "char")
        assert (mine / "notes").read_text("utf-8") == "keep" and len(list(mine.iterdir())) == 1
        mine.rename(tmp_path / f"{name}.away")
    prepare(corpus[0], tmp_path / "out", "char")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "meta.json",
        "tokenizer.json",
        "train.bin",
        "val.bin",
    ]
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("tokenizer", ["chars", "BPE", None, 5])
def test_an_unknown_tokenizer_is_named(tokenizer, corpus, tmp_path):
    with pytest.raises(ValueError, match=f"tokenizer={tokenizer!r} must be 'bpe' or 'char'"):
        prepare(corpus[0], tmp_path / "out", tokenizer)


def test_no_source_is_no_text(tmp_path):
    for tokenizer in ("char", "bpe"):
        with pytest.raises(ValueError, match="empty|0 tokens"):
            prepare([], tmp_path / "out", tokenizer)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"no file in .*folder fits the pattern '\*\.py'"):
        prepare([tmp_path / "folder"], tmp_path / "out", pattern="*.py")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_leaves_nothing(corpus, small_chunks, tmp_path, monkeypatch):
    def interrupted(self, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(CharTokenizer, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus[0], tmp_path / "out", "char")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


@pytest.mark.parametrize("tokenizer", ["bpe", "char"])
@pytest.mark.parametrize(
    "content, message",
    [("", "empty|0 tokens for training"), ("a", "1 tokens for training and 0 for validation are too few")],
)
def test_files_too_short_to_split_are_refused(tokenizer, content, message, tmp_path):
    (tmp_path / "short.txt").write_text(content, "utf-8")
    with pytest.raises(ValueError, match=message):
        prepare([tmp_path / "short.txt"], tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "text.txt").write_text("To be, or not to be. " * 100, "utf-8")
    prepare([tmp_path / "text.txt"], tmp_path / "out", "char")
    return tmp_path / "out"


@pytest.mark.parametrize(
    "entry, value, message",
    [
        ("n_train", 1891, "1891 tokens of uint16 are not what .*train.bin has, 3780 bytes"),
        ("n_val", 209, "209 tokens of uint16 are not what .*val.bin has, 420 bytes"),
        ("n_val", 0, "0 tokens"),
        ("n_train", "9", "'9' tokens"),
        ("n_train", 1890.0, "1890.0 tokens"),
        ("n_train", None, "None tokens"),
        ("dtype", "float64", "dtype is 'float64', not uint16 or uint32"),
        ("dtype", [], "dtype is "),
        ("dtype", "uint32", "1890 tokens of uint32"),
        ("format", 1, "format is 1, not 2: make the folder anew"),
        ("vocab_size", 65, "vocab_size is 65, not 10"),
    ],
)
def test_records_that_do_not_fit_are_refused_by_name(prepared, entry, value, message):
    meta = json.loads((prepared / "meta.json").read_bytes())
    meta[entry] = value
    (prepared / "meta.json").write_text(json.dumps(meta), "utf-8")
    with pytest.raises(ValueError, match=message):
        load_tokens(prepared)
    del meta[entry]
    (prepared / "meta.json").write_text(json.dumps(meta), "utf-8")
    with pytest.raises(ValueError, match=f"meta.json is not a record of token files: KeyError.'{entry}'"):
        load_tokens(prepared)


def test_files_that_are_missing_or_cut_are_refused_by_name(prepared, tmp_path):
    tokens = (prepared / "train.bin").read_bytes()
    (prepared / "train.bin").write_bytes(tokens[:-3])
    with pytest.raises(ValueError, match=r"1890 tokens of uint16 are not what .*train\.bin has, 3777"):
        load_tokens(prepared)
    (prepared / "train.bin").unlink()
    with pytest.raises(ValueError, match=r"train\.bin cannot be read"):
        load_tokens(prepared)
    for damaged in (b"", b"{", b"[]", b"\xff", b"[" * 100_000):
        (prepared / "meta.json").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"meta\.json is not"):
            load_tokens(prepared)
    (prepared / "meta.json").unlink()
    with pytest.raises(ValueError, match=r"meta\.json cannot be read"):
        load_tokens(prepared)
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read"):
        load_tokens(tmp_path / "none")


# ---- the program


@pytest.mark.slow
def test_the_program_makes_token_files(tmp_path):
    (tmp_path / "a.txt").write_text("To be, or not to be. " * 100, "utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "matgpt",
            "data",
            tmp_path / "a.txt",
            "--vocab",
            "270",
            "--out",
            tmp_path / "out",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "tiktoken" in done.stderr  # packages for some kinds of files are imported for them alone
    assert "pyarrow" not in done.stderr
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    assert f"{len(train_ids):,} tokens for training and {len(val_ids):,}" in done.stdout
    assert tokenizer.decode(train_ids) + tokenizer.decode(val_ids) == "To be, or not to be. " * 100


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["none.txt", "--out", "out"], "no corpus or file 'none.txt'"),
        (["python-docs", "--out", "out"], "no corpus or file 'python-docs': give 'python-stdlib',"),
        (["text.txt"], "--out"),
        (["--out", "out"], "paths"),
        ([".", "--out", "out", "--pattern", "*.py"], "no file in . fits the pattern '*.py'"),
        ([".", "--out", "out", "--pattern", "/etc/*"], "Non-relative patterns are unsupported"),
        (["text.txt", "--out", "."], "exists already"),
        (["text.txt", "--out", "out", "--vocab", "255"], "255 must be a whole number of at least 256"),
        (["text.txt", "--out", "out", "--vocab", "many"], "many"),
        (["text.txt", "--out", "out", "--tokenizer", "word"], "word"),
    ],
)
def test_a_bad_option_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("some words " * 9, "utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("python -m matgpt data: error: ") and message in last
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
