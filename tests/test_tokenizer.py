"""Both tokenizers: exact round trips of hostile text, agreement with transformers' library, damaged files."""

import random
import warnings
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import requests
import tiktoken
import tokenizers
import torch

from matgpt.text.corpus import load_text
from matgpt.text.tokenizer import GPT2_SPLIT, BPETokenizer, CharTokenizer, load_tokenizer

from .conftest import assert_refused, edit_json

HOSTILE = [
    "",
    " ",
    "\n",
    "\r\n\r\na\0b tabs\tand\vmore\f\x1c\x85no-break\u00a0and\u2028line\u2029ends",
    "a <|endoftext|><|fim_prefix|><|unknown|> it's we'll I'VE 'tis '",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇫🇷 e\u0301 é Å Å ﬁ Z̸͖͋a̷l̵g̶o̵",
    "שלום עולם مرحبا بالعالم \u202eoverride\u202c的一是不了。漢字かな한글",
    "\ufeffbyte order\ufffd \uffff \U0010ffff",
    "".join(map(chr, range(256))),
    " " * 77 + "x" + " " * 77,
]
EVERYTHING = "".join(HOSTILE)


@pytest.fixture(scope="module")
def docs():
    return load_text("python-docs")[:100_000]


@pytest.fixture(scope="module")
def bpe(docs):
    return BPETokenizer.train(docs, vocab_size=400)


@pytest.fixture(scope="module", params=["char", "bpe"])
def tokenizer(request, bpe):
    return bpe if request.param == "bpe" else CharTokenizer.from_text(EVERYTHING)


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_comes_back_exactly(text, tokenizer):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and tokenizer.decode_bytes(ids) == text.encode()
    assert all(type(i) is int and 0 <= i < tokenizer.vocab_size for i in ids)


def test_the_file_encodes_in_the_library_as_the_tokenizer_does(bpe, docs):
    aa = BPETokenizer.train("aaaa aaaaa aaaaaaa baaab abab babab" * 40, 270)  # many ways to cut a token
    rng, planes = random.Random(0), (range(128), range(0xD800), range(0xE000, 0x110000))  # all of Unicode
    drawn = ["".join(chr(rng.choice(rng.choice(planes))) for _ in range(40)) for _ in range(300)]
    drawn += ["".join(rng.choices(" \n\t\r\u00a0\u0085\x1c\u200bab1'.stre中", k=40)) for _ in range(300)]
    for tokenizer in (bpe, aa, BPETokenizer(bpe.tokens[:256] + bpe.tokens[:255:-1])):
        library = tokenizers.Tokenizer.from_str(tokenizer.to_json().decode())
        for text in (*HOSTILE, docs, *drawn):
            ids = tokenizer.encode(text)
            assert library.encode(text).ids == ids and tokenizer.decode(ids) == text
            assert library.decode(ids) == text


@pytest.mark.slow
@pytest.mark.parametrize("blanks", [" " * 1_100_000, "\r\n" * 600_000, "\u00a0" * 1_100_000])
def test_a_million_blanks_are_encoded(blanks, bpe):
    assert bpe.decode(bpe.encode(blanks + "x")) == blanks + "x"


def test_training_takes_the_most_frequent_pairs_and_repeats_itself(docs, bpe):
    assert BPETokenizer.train("xyz,xyz xyz xyz xy", 258).tokens[256:] == [b"xy", b"xyz"]
    assert sorted(bpe.tokens[:256]) == [bytes([byte]) for byte in range(256)]
    again = BPETokenizer.train(docs, vocab_size=400)
    assert again == bpe and again.tokens == bpe.tokens and bpe.vocab_size == 400
    assert len(bpe.encode(docs)) < 0.6 * len(docs.encode())
    assert BPETokenizer.train(docs, vocab_size=300) != bpe


def test_a_vocabulary_smaller_than_asked_for_is_announced(docs):
    with pytest.warns(UserWarning, match="has 256 tokens, not 1024: no other pair occurs twice"):
        tokenizer = BPETokenizer.train("abc")
    assert tokenizer.vocab_size == 256 and tokenizer.decode(tokenizer.encode(EVERYTHING)) == EVERYTHING
    with pytest.warns(UserWarning, match="not 300"):
        tokenizer = BPETokenizer.train("ab" * 200_000, 300)  # one word: whole, it takes minutes
    assert max(map(len, tokenizer.tokens)) == 32, "long words are cut before training"
    with warnings.catch_warnings(action="error"):
        BPETokenizer.train("a", 256)
        BPETokenizer.train(docs[:20_000], 300)


def test_ids_of_every_kind_and_those_of_half_a_character_are_decoded(tokenizer, bpe):
    ids = tokenizer.encode("some words")
    array = np.array(ids)
    for same in (tuple(ids), iter(ids), array, array.astype(np.uint16), list(array), torch.tensor(ids)):
        assert tokenizer.decode(same) == "some words"
    half = bpe.encode("👩")[:1]
    assert bpe.decode(half) == "\ufffd" and bpe.decode_bytes(half) == b"\xf0"


@pytest.mark.parametrize("wrong", [-1, 10**30, 0.5, None, [0.5]])
def test_ids_that_are_none_of_the_vocabulary_are_named(tokenizer, wrong):
    size = tokenizer.vocab_size
    for ids, named in (([0, wrong], ".*"), ([0, size], size), ("text", "'t'"), (wrong, ".*")):
        message = f"cannot decode {named}: token ids are one row of whole numbers from 0 to {size - 1}$"
        assert_refused(message, tokenizer.decode, ids)


def test_an_unknown_character_is_named():
    tokenizer = CharTokenizer.from_text("hello")
    assert tokenizer.vocab_size == 4 and tokenizer.encode("hole") == [1, 3, 2, 0]
    assert_refused(r"'é' is not among .*'ehlo'.*BPETokenizer", tokenizer.encode, "helé")


def test_a_vocabulary_with_gaps_or_copies_is_refused():
    single = [bytes([byte]) for byte in range(256)]
    assert_refused("at least one token", CharTokenizer.from_text, "")
    assert_refused("none may be empty or occur twice", CharTokenizer, "aba")
    assert_refused("none may be empty or occur twice", BPETokenizer, [*single, b""])
    assert_refused("none may be empty or occur twice", BPETokenizer, single, ["a"])
    assert_refused("all 256 single bytes", BPETokenizer, single[:7] + single[8:])
    assert_refused("vocab_size=255 .* 256", BPETokenizer.train, "text", 255)


def test_anything_but_a_text_is_named(tokenizer):
    for take in (tokenizer.encode, BPETokenizer.train, CharTokenizer, CharTokenizer.from_text):
        assert_refused(r"'\\ud800' in position 2", take, "ab\ud800c")
        assert_refused("must be a str, not bytes", take, b"bytes")


def test_gpt2_brings_its_special_token_along(monkeypatch, tmp_path):
    ranks = {bytes([255 - b]): b for b in range(256)} | {b"en": 256, b"end": 257}
    special = {"<|endoftext|>": 258}
    encoding = tiktoken.Encoding("gpt2", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens=special)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: {"gpt2": encoding}[name])
    tokenizer = BPETokenizer.gpt2()
    assert tokenizer.vocab_size == 259 and tokenizer.decode_bytes([258]) == b"<|endoftext|>"
    text = "<|endoftext|> at the end"
    assert tokenizer.encode(text) == encoding.encode_ordinary(text) and 258 not in tokenizer.encode(text)
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path) == tokenizer != BPETokenizer(tokenizer.tokens)
    assert tokenizer != BPETokenizer([*tokenizer.tokens, b"<|endoftext|>"])
    offline = Mock(side_effect=requests.exceptions.ConnectionError("no route"))
    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(ConnectionError, match=r"BPETokenizer\.train"):
        BPETokenizer.gpt2()


def test_a_saved_tokenizer_comes_back_in_place_of_another(tokenizer, tmp_path):
    folder = tmp_path / "deep" / "folder"
    for other in (CharTokenizer("ab"), tokenizer):
        other.save(folder)
    loaded = load_tokenizer(folder)
    assert loaded == tokenizer != CharTokenizer("ab") and type(loaded) is type(tokenizer)
    assert loaded.encode(EVERYTHING) == tokenizer.encode(EVERYTHING)
    assert [file.name for file in folder.iterdir()] == ["tokenizer.json"]

    def reverse(state):
        state["model"]["vocab"] = dict(sorted(state["model"]["vocab"].items(), reverse=True))

    edit_json(folder / "tokenizer.json", reverse)
    assert load_tokenizer(folder) == tokenizer, "in the order of the ids, not of the file"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state["model"]["merges"].reverse(), "order of its merges"),
        (lambda state: state["model"]["vocab"].update(new=999), "order of its merges"),
        (lambda state: state["model"]["merges"].pop(), "merges lack some"),
        (lambda state: state["model"].update(dropout=0.5), "splits texts as GPT-2 does"),
        (lambda state: state["model"].update(end_of_word_suffix="y"), "splits texts as GPT-2 does"),
        (lambda state: state["model"].update(type="WordPiece"), "not byte-level BPE"),
        (lambda state: state.update(pre_tokenizer={"type": "Whitespace"}), "not byte-level BPE"),
        (lambda state: state.update(pre_tokenizer=None), "not byte-level BPE"),
        (lambda state: state.update(normalizer={"type": "Lowercase"}), "not byte-level BPE"),
        (lambda state: state["pre_tokenizer"].update(add_prefix_space=True), "splits texts as GPT-2 does"),
        (lambda state: state["pre_tokenizer"].update(use_regex=False), "splits texts as GPT-2 does"),
        (lambda state: state.update(post_processor={"type": "TemplateProcessing"}), "not byte-level BPE"),
        (lambda state: state["added_tokens"][0].update(special=False), "not all special"),
    ],
)
def test_a_file_that_encodes_differently_is_refused_by_name(change, message, tmp_path):
    tokens = BPETokenizer.train("xxy xxy xx xx", 258).tokens
    BPETokenizer(tokens, ["<end>"]).save(tmp_path)
    edit_json(tmp_path / "tokenizer.json", change)
    assert_refused(f"{tmp_path}/tokenizer.json: .*{message}", load_tokenizer, tmp_path)


VOCABS = {"a": 0, "b": 2}, {"a": 1, "b": 2}, {"ab": 0, "cd": 1}


@pytest.mark.parametrize(
    "change",
    [
        *(partial(lambda vocab, state: state["model"].update(vocab=vocab), vocab) for vocab in VOCABS),
        lambda state: state["model"].update(unk_token="a"),
        lambda state: state["pre_tokenizer"].update(behavior="Removed"),
        lambda state: state.update(normalizer={"type": "Lowercase"}),
    ],
)
def test_characters_have_the_ids_of_the_file(change, tmp_path):
    CharTokenizer("ab").save(tmp_path)
    edit_json(tmp_path / "tokenizer.json", change)
    assert_refused("single characters with ids from 0", load_tokenizer, tmp_path)


def test_a_missing_or_damaged_file_is_refused_by_name(bpe, tmp_path):
    assert_refused(r"tokenizer\.json: .*No such file", load_tokenizer, tmp_path)
    whole = bpe.to_json()
    for damaged in (b"", whole[:-1], whole + b"}", b"\xff" + whole, b"[1]", b"{}"):
        (tmp_path / "tokenizer.json").write_bytes(damaged)
        assert_refused(r"tokenizer\.json: ", load_tokenizer, tmp_path)
