"""Texts, the split, and token files: what is streamed must equal what is encoded whole."""

import hashlib
import io
import json
import random
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch

from matgpt.commands.data import main
from matgpt.text import corpus as texts
from matgpt.text import token_files as data
from matgpt.text.corpus import load_text, load_topics, split
from matgpt.text.token_files import between_words, load_tokens, prepare, read
from matgpt.text.tokenizer import BPETokenizer, CharTokenizer


@pytest.fixture
def offline(monkeypatch):
    def urlopen(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)


@pytest.fixture
def served(monkeypatch):
    """A network that serves `content`, whose checksum is the expected one. Calls are counted in `served.calls`."""
    content = ("All:\nSpeak, speak.\n" * 9000).encode()

    class Response(io.BytesIO):
        headers = {"Content-Length": str(len(content))}

    def urlopen(url, **kwargs):
        urlopen.calls += 1
        return Response(urlopen.content)

    urlopen.calls, urlopen.content = 0, content
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    monkeypatch.setattr(texts, "SHAKESPEARE_SHA256", hashlib.sha256(content).hexdigest())
    return urlopen


# ---- load_text


def test_python_docs_are_the_sorted_topics(offline):
    topics = load_topics()
    assert list(topics) == sorted(topics) and len(topics) > 50 and "integers" in topics
    assert load_text("python-docs") == "\n\n".join(topics.values()) == load_text("python-docs")


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
        with pytest.raises(ValueError, match="'python-docs' or 'shakespeare'") as error:
            load_text(name)
        assert str(name) in str(error.value)


def test_offline_the_error_says_where_the_file_goes(offline, tmp_path):
    with pytest.raises(ConnectionError, match="no route") as error:
        load_text("shakespeare", tmp_path / "texts")
    assert str(tmp_path / "texts" / "shakespeare.txt") in str(error.value) and "python-docs" in str(
        error.value
    )
    assert not (tmp_path / "texts").exists()


def test_shakespeare_is_downloaded_once(served, tmp_path, capsys):
    text = load_text("shakespeare", tmp_path / "texts")
    assert text.encode() == served.content
    assert [file.name for file in (tmp_path / "texts").iterdir()] == ["shakespeare.txt"]
    assert "100%" in capsys.readouterr().err
    assert load_text("shakespeare", tmp_path / "texts") == text and served.calls == 1


def test_a_damaged_download_never_becomes_visible(served, tmp_path):
    served.content = served.content[:-1]
    with pytest.raises(ValueError, match=f"https.*SHA-256 is {hashlib.sha256(served.content).hexdigest()}"):
        load_text("shakespeare", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named_and_left_alone(served, tmp_path):
    path = tmp_path / "shakespeare.txt"
    path.write_text("not Shakespeare")
    with pytest.raises(ValueError, match="SHA-256.*remove the file") as error:
        load_text("shakespeare", tmp_path)
    assert str(path) in str(error.value) and path.read_text() == "not Shakespeare" and served.calls == 0


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
    monkeypatch.setattr(data, "CHUNK", 4099)  # prime, so that characters and words are cut everywhere


@pytest.fixture
def corpus(tmp_path):
    """Three files, the first of which ends inside a word, and the text that they make together."""
    docs = load_text("python-docs")
    parts = [docs[:50_003], HOSTILE * 20 + docs[50_003:80_000], "", docs[80_000:120_000] + HOSTILE]
    paths = [tmp_path / f"{i}.txt" for i in range(len(parts))]
    for path, part in zip(paths, parts):
        path.write_bytes(part.encode())
    return paths, "".join(parts)


def test_streamed_characters_equal_the_whole_text(corpus, small_chunks, tmp_path, capsys):
    paths, text = corpus
    meta = prepare(paths, tmp_path / "out", "char")
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    assert tokenizer == CharTokenizer.from_text(text)
    for part, whole in zip((train_ids, val_ids), split(tokenizer.encode(text))):
        assert isinstance(part, np.memmap) and np.array_equal(part, whole)
    assert meta["n_tokens"] == len(text) and meta["sources"][1]["bytes"] == paths[1].stat().st_size
    assert "encoding: 100%" in capsys.readouterr().err


def test_streamed_bpe_equals_the_whole_text(corpus, small_chunks, tmp_path, monkeypatch):
    paths, text = corpus
    monkeypatch.setattr(data, "SAMPLE", 60_000)
    prepare(paths, tmp_path / "out", "bpe", 600)
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    assert tokenizer == BPETokenizer.train(text[:60_000], 600)
    ids = tokenizer.encode(text)
    assert np.array_equal(train_ids, ids[: len(train_ids)]) and np.array_equal(val_ids, ids[len(train_ids) :])
    assert train_ids.dtype == np.uint16 and len(train_ids) == len(split(ids)[0])


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
        list(read([tmp_path / "bad.txt"]))
    for tokenizer in ("char", "bpe"):
        with pytest.raises(ValueError, match=f"offset {offset} "):
            prepare([tmp_path / "bad.txt"], tmp_path / "out", tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.txt"]


def test_a_run_that_was_cut_off_starts_cleanly(corpus, small_chunks, tmp_path):
    left = tmp_path / "out.partial"
    left.mkdir()
    (left / "tokens.bin").write_bytes(b"of another run" * 1000)
    (left / "stray").write_bytes(b"")
    prepare(corpus[0], tmp_path / "out", "char")
    assert not left.exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "meta.json",
        "tokenizer.json",
        "tokens.bin",
    ]
    assert sum(map(len, load_tokens(tmp_path / "out")[:2])) == len(corpus[1])


def test_an_interrupted_run_leaves_nothing(corpus, small_chunks, tmp_path, monkeypatch):
    def interrupted(self, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(CharTokenizer, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus[0], tmp_path / "out", "char")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_an_existing_folder_is_never_touched(corpus, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(ValueError, match="out exists already"):
        prepare(corpus[0], tmp_path / "out", "char")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("tokenizer", ["bpe", "char"])
@pytest.mark.parametrize(
    "content, message", [("", "empty|0 tokens is too short"), ("a", "1 tokens is too short")]
)
def test_files_too_short_to_split_are_refused(tokenizer, content, message, tmp_path):
    (tmp_path / "short.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        prepare([tmp_path / "short.txt"], tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "text.txt").write_text("To be, or not to be. " * 100)
    prepare([tmp_path / "text.txt"], tmp_path / "out", "char")
    return tmp_path / "out"


@pytest.mark.parametrize(
    "entry, value, message",
    [
        ("n_tokens", 2101, "2101 tokens take 4202 bytes, but .*tokens.bin has 4200"),
        ("n_train", 2100, "n_train=2100"),
        ("n_train", 0, "n_train=0"),
        ("n_train", "9", "n_train='9'"),
        ("n_tokens", 2100.0, "n_tokens=2100.0"),
        ("dtype", "float64", "float64"),
        ("dtype", "nonsense", "nonsense"),
        ("dtype", "uint32", "take 8400 bytes"),
        ("format", 2, "format is 2"),
        ("vocab_size", 65, "vocab_size=65"),
        ("n_tokens", None, "n_tokens"),
    ],
)
def test_records_that_do_not_fit_are_refused_by_name(prepared, entry, value, message):
    meta = json.loads((prepared / "meta.json").read_text())
    meta[entry] = value
    (prepared / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=f"meta.json is damaged: .*{message}"):
        load_tokens(prepared)
    del meta[entry]
    (prepared / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=f"no entry '{entry}'"):
        load_tokens(prepared)


def test_files_that_are_missing_or_cut_are_refused_by_name(prepared, tmp_path):
    tokens = (prepared / "tokens.bin").read_bytes()
    (prepared / "tokens.bin").write_bytes(tokens[:-3])
    with pytest.raises(ValueError, match=r"2100 tokens take 4200 bytes, but .*tokens\.bin has 4197"):
        load_tokens(prepared)
    (prepared / "tokens.bin").unlink()
    with pytest.raises(ValueError, match=r"tokens\.bin cannot be read"):
        load_tokens(prepared)
    for damaged in (b"", b"{", b"[]", b"\xff"):
        (prepared / "meta.json").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"meta\.json is damaged"):
            load_tokens(prepared)
    (prepared / "meta.json").unlink()
    with pytest.raises(ValueError, match=r"meta\.json cannot be read"):
        load_tokens(prepared)
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read"):
        load_tokens(tmp_path / "none")


# ---- the program


def test_the_program_makes_token_files(tmp_path):
    (tmp_path / "a.txt").write_text("To be, or not to be. " * 100)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "matgpt",
            "data",
            tmp_path / "a.txt",
            "--vocab",
            "270",
            "--out",
            tmp_path / "out",
        ],
        cwd=Path(data.__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    train_ids, val_ids, tokenizer = load_tokens(tmp_path / "out")
    assert f"{len(train_ids) + len(val_ids):,} tokens" in done.stdout
    assert tokenizer.decode(train_ids) + tokenizer.decode(val_ids) == "To be, or not to be. " * 100


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["none.txt", "--out", "out"], "no file 'none.txt'"),
        (["text.txt"], "--out"),
        (["--out", "out"], "files"),
        (["text.txt", "--out", "."], "exists already"),
        (["text.txt", "--out", "out", "--vocab", "255"], "255 must be at least 256"),
        (["text.txt", "--out", "out", "--vocab", "many"], "many"),
        (["text.txt", "--out", "out", "--tokenizer", "word"], "word"),
    ],
)
def test_a_bad_option_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("some words " * 9)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("python -m matgpt data: error: ") and message in last
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
