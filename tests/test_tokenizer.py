"""Both tokenizers: exact round trips of hostile text, errors that name what is wrong, and strict files."""

import base64
import json
import random
from collections import Counter

import numpy as np
import pytest
import regex
import requests
import tiktoken
import torch

from matgpt.text.corpus import load_text
from matgpt.text.tokenizer import GPT2_SPLIT, BPETokenizer, CharTokenizer, load_tokenizer

HOSTILE = [
    "",
    " ",
    "\n",
    "\r\n\r\n",
    "\0",
    "a\0b",
    "tabs\tand\vmore\f\x1c\x85",
    "no-break\u00a0and\u2028line\u2029ends",
    "<|endoftext|>",
    "a <|endoftext|><|fim_prefix|>",
    "<|unknown|>",
    "it's we'll I'VE 'tis '",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇫🇷",
    "e\u0301 é Å Å ﬁ",
    "Z̸͖͋a̷l̵g̶o̵",
    "שלום עולם مرحبا بالعالم \u202eoverride\u202c",
    "的一是不了。漢字かな한글",
    "\ufeffbyte order",
    "\ufffd \uffff \U0010ffff",
    "".join(map(chr, range(256))),
    " " * 77 + "x" + " " * 77,
]
EVERYTHING = "".join(HOSTILE)


@pytest.fixture(scope="module")
def docs():
    return load_text("python-docs")


@pytest.fixture(scope="module")
def bpe(docs):
    return BPETokenizer.train(docs[:100_000], vocab_size=400)


@pytest.fixture
def char():
    return CharTokenizer.from_text(EVERYTHING)


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_comes_back_exactly(text, char, bpe):
    for tokenizer in (char, bpe):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode_bytes(ids) == text.encode()
        assert all(type(i) is int and 0 <= i < tokenizer.vocab_size for i in ids)


def test_random_text_comes_back_exactly(bpe):
    rng = random.Random(0)
    for _ in range(300):
        planes = [range(128), range(0xD800), range(0xE000, 0x110000)]
        text = "".join(chr(rng.choice(rng.choice(planes))) for _ in range(30))
        assert bpe.decode(bpe.encode(text)) == text


def test_a_tokenizer_of_one_letter_still_encodes_everything():
    tokenizer = BPETokenizer.train("a")
    assert tokenizer.vocab_size == 256  # nothing occurs twice: there is no pair worth a token
    assert tokenizer.decode(tokenizer.encode(EVERYTHING)) == EVERYTHING


@pytest.mark.slow
@pytest.mark.parametrize("blanks", [" " * 1_100_000, "\r\n" * 600_000, "\u00a0" * 1_100_000])
def test_a_million_blanks_are_encoded(blanks, bpe):
    assert bpe.decode(bpe.encode(blanks + "x")) == blanks + "x"


def test_words_are_cut_as_gpt2_cuts_them():
    # GPT-2's published pattern, on which tiktoken runs out of stack where blanks are too many
    original = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    rng = random.Random(0)
    for text in [EVERYTHING, *("".join(rng.choices(" \n\t\r\u00a0ab1'.s中", k=40)) for _ in range(500))]:
        assert regex.findall(GPT2_SPLIT, text) == regex.findall(original, text)


def test_training_learns_what_the_textbook_algorithm_learns(docs):
    """Count all pairs anew for every merge, most frequent first, the lower ids first among equals."""
    text = docs[:1500]
    words = Counter(tuple(bytes([b]) for b in word.encode()) for word in regex.findall(GPT2_SPLIT, text))
    tokens = [bytes([b]) for b in range(256)]
    while len(tokens) < 400:
        counts = Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                counts[pair] += n
        pair = min(counts, key=lambda pair: (-counts[pair], *map(tokens.index, pair)))
        tokens.append(pair[0] + pair[1])
        merged = Counter()
        for word, n in words.items():
            word = list(word)
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == pair:
                    word[i : i + 2] = [tokens[-1]]
                i += 1
            merged[tuple(word)] += n
        words = merged
    assert BPETokenizer.train(text, 400).tokens == tokens


def test_training_compresses_and_repeats_itself(docs, bpe):
    again = BPETokenizer.train(docs[:100_000], vocab_size=400)
    assert again == bpe and again.tokens == bpe.tokens
    assert bpe.vocab_size == 400
    assert len(bpe.encode(docs)) < 0.6 * len(docs.encode())
    assert BPETokenizer.train(docs[:100_000], vocab_size=300) != bpe


def test_long_words_do_not_stop_the_training():
    word = "".join(random.Random(0).choices("ACGT", k=20_000))
    tokenizer = BPETokenizer.train(word, 300)
    assert tokenizer.vocab_size == 300 and tokenizer.decode(tokenizer.encode(word)) == word


def test_ids_of_every_kind_are_decoded(char, bpe):
    for tokenizer in (char, bpe):
        ids = tokenizer.encode("some words")
        array = np.array(ids)
        for same in (tuple(ids), iter(ids), array, array.astype(np.uint16), list(array), torch.tensor(ids)):
            assert tokenizer.decode(same) == "some words"
        assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("wrong", [-1, "size", 10**30])
def test_an_id_outside_the_vocabulary_is_named(char, bpe, wrong):
    for tokenizer in (char, bpe):
        i = tokenizer.vocab_size if wrong == "size" else wrong
        for decode in (tokenizer.decode, tokenizer.decode_bytes):
            with pytest.raises(ValueError, match=rf"{i} .*0 to {tokenizer.vocab_size - 1}$"):
                decode([0, i])


@pytest.mark.parametrize(
    "ids", [[0.5], [None], "text", 3, torch.zeros(2, 2, dtype=torch.int64), torch.tensor(3), np.ones(2)]
)
def test_ids_that_are_not_one_row_are_refused(char, bpe, ids):
    for tokenizer in (char, bpe):
        with pytest.raises(ValueError, match="one row of whole numbers"):
            tokenizer.decode(ids)


def test_bytes_of_tokens_join_to_the_text(bpe):
    text = "naïve 👩‍👩‍👧"
    ids = bpe.encode(text)
    assert b"".join(bpe.decode_bytes([i]) for i in ids) == text.encode()
    first = bpe.encode("👩")[0]  # a part of a character is no text of its own
    assert bpe.decode([first]) == "\ufffd" and bpe.decode_bytes([first]) == b"\xf0"


def test_an_unknown_character_is_named_with_its_place():
    tokenizer = CharTokenizer.from_text("hello")
    assert tokenizer.vocab_size == 4 and tokenizer.encode("hole") == [1, 3, 2, 0]
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at position 3 .*'ehlo'.*BPETokenizer"):
        tokenizer.encode("helé")


def test_characters_that_make_no_vocabulary_are_refused():
    with pytest.raises(ValueError, match="empty"):
        CharTokenizer.from_text("")
    with pytest.raises(ValueError, match="'a' is not"):
        CharTokenizer("aba")


def test_a_lone_surrogate_is_named(bpe):
    for take in (bpe.encode, BPETokenizer.train, CharTokenizer.from_text):
        with pytest.raises(ValueError, match=r"'\\ud800', at position 2"):
            take("ab\ud800c")


@pytest.mark.parametrize("wrong", [b"bytes", None, 7, ["a"]])
def test_what_is_no_text_is_named(bpe, char, wrong):
    for take in (bpe.encode, char.encode, BPETokenizer.train, CharTokenizer, CharTokenizer.from_text):
        with pytest.raises(ValueError, match=f"must be a str, not {type(wrong).__name__}"):
            take(wrong)


def test_a_vocabulary_must_hold_every_byte():
    with pytest.raises(ValueError, match="vocab_size=255 .* 256"):
        BPETokenizer.train("text", vocab_size=255)
    with pytest.raises(ValueError, match="byte 7 is missing"):
        BPETokenizer([bytes([b]) for b in range(256) if b != 7])
    with pytest.raises(ValueError, match="b'a'"):
        BPETokenizer([bytes([b]) for b in range(256)] + [b"a"])


def test_gpt2_brings_its_special_token_along(monkeypatch, tmp_path):
    ranks = {bytes([255 - b]): b for b in range(256)} | {b"en": 256, b"end": 257}
    encoding = tiktoken.Encoding(
        "gpt2", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 258}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: {"gpt2": encoding}[name])
    tokenizer = BPETokenizer.gpt2()
    assert tokenizer.vocab_size == 259 and tokenizer.decode_bytes([258]) == b"<|endoftext|>"
    text = "<|endoftext|> at the end"
    assert tokenizer.encode(text) == encoding.encode_ordinary(text) and 258 not in tokenizer.encode(text)
    assert tokenizer.decode([258, 257]) == "<|endoftext|>end"
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path) == tokenizer
    assert BPETokenizer(tokenizer.tokens) != tokenizer


def test_gpt2_without_a_network_says_what_works_without_one(monkeypatch):
    def offline(name):
        raise requests.exceptions.ConnectionError("no route")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(ConnectionError, match=r"BPETokenizer\.train"):
        BPETokenizer.gpt2()


def test_saved_tokenizers_come_back(char, bpe, tmp_path):
    assert char != bpe
    for tokenizer in (char, bpe):  # the second replaces the first
        tokenizer.save(tmp_path / "deep" / "folder")
        back = load_tokenizer(tmp_path / "deep" / "folder")
        assert back == tokenizer and type(back) is type(tokenizer) and back.vocab_size == tokenizer.vocab_size
        assert back.encode(EVERYTHING) == tokenizer.encode(EVERYTHING)
        assert [file.name for file in (tmp_path / "deep" / "folder").iterdir()] == ["tokenizer.json"]


def test_a_failed_save_keeps_what_was_there(char, bpe, tmp_path, monkeypatch):
    char.save(tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        bpe.save(tmp_path)
    assert load_tokenizer(tmp_path) == char
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]


BYTES = [base64.b64encode(bytes([b])).decode() for b in range(256)]
SOUND = {"type": "bpe", "vocab_size": 256, "special_tokens": [], "tokens": BYTES}


@pytest.mark.parametrize(
    "state, message",
    [
        ({"type": "char", "vocab_size": 3, "characters": "ab"}, "vocab_size is 3, where 2 belongs"),
        ({"type": "char", "vocab_size": 2, "characters": "aa"}, "'a' is not"),
        ({"type": "char", "vocab_size": 0, "characters": ""}, "empty"),
        ({"type": "char", "vocab_size": 1, "characters": "\ud800"}, "surrogate"),
        ({"type": "char", "vocab_size": 1, "characters": ["a"]}, r"must be a str, not list: \['a'\]"),
        ({"type": "char", "characters": "ab"}, "vocab_size is 'nothing', where 2 belongs"),
        (
            {"type": "char", "vocab_size": 2, "characters": "ab", "more": 1},
            "more is 1, where 'nothing' belongs",
        ),
        ({"type": "pickle", "vocab_size": 2}, "'pickle', which must be 'char' or 'bpe'"),
        ({"type": ["bpe"]}, "must be 'char' or 'bpe'"),
        ({"type": "char", "vocab_size": 2}, "KeyError\\('characters'"),
        ({"vocab_size": 2}, "its type is None"),
        ([1, 2], "its type is None"),
        (SOUND | {"tokens": BYTES[:-1], "vocab_size": 255}, "byte 255 is missing"),
        (SOUND | {"tokens": BYTES + BYTES[:1], "vocab_size": 257}, "unlike each other"),
        (SOUND | {"tokens": BYTES + [""], "vocab_size": 257}, "not empty"),
        (SOUND | {"tokens": BYTES + ["a*=="], "vocab_size": 257}, "base64"),
        (SOUND | {"tokens": BYTES + [5], "vocab_size": 257}, "not 'int'"),
        (SOUND | {"vocab_size": 1024}, "vocab_size is 1024, where 256 belongs"),
        (SOUND | {"special_tokens": ["a", "a"], "vocab_size": 258}, "unlike each other"),
        (SOUND | {"special_tokens": [5], "vocab_size": 257}, "'int' object"),
        (SOUND | {"special_tokens": "ab", "vocab_size": 258}, "special_tokens is 'ab', where"),
        (SOUND | {"special_tokens": None}, "NoneType"),
        (SOUND | {"tokens": {}}, "byte 0 is missing"),
    ],
)
def test_a_damaged_file_is_refused_by_name(state, message, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), "utf-8")
    with pytest.raises(ValueError, match=message) as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(error.value)


def test_a_sound_file_written_by_hand_is_read(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(SOUND), "utf-8")
    assert load_tokenizer(tmp_path).encode("hi") == [104, 105]


def test_a_missing_or_truncated_file_is_refused_by_name(bpe, tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read: No such file"):
        load_tokenizer(tmp_path)
    bpe.save(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_bytes()
    cut = (whole[:0], whole[:1], whole[: len(whole) // 2], whole[:-1])
    for damaged in (*cut, whole + b"}", b"\xff" + whole, b"[" * 100_000):
        (tmp_path / "tokenizer.json").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"tokenizer\.json is not JSON"):
            load_tokenizer(tmp_path)
