"""Text to token ids and back: one id per character, or byte-pair encoding (BPE).

The library `tokenizers` learns the byte pairs, and its file format stores them; tiktoken encodes.
"""

import base64
import json
import operator
import re
import warnings
from collections import Counter

import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ..files.atomic import as_path, parsed, write
from ..sizes import positive

FILE = "tokenizer.json"
# How GPT-2 splits a text into words. `{1,100000}` replaces its `+`: tiktoken's engine runs out of stack on a
# million blanks, so only longer runs of blanks are split differently from GPT-2.
GPT2_SPLIT = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"
    r"|\s++$|\s{1,100000}(?!\S)|\s"
)
# Pieces of a text that no token reaches across: each ends before a blank or newline that follows a word.
PIECE = re.compile(r"(?s).{65536,}?\S(?=[ \n])|.+")
LONGEST = 32  # bytes; training cuts longer words (DNA, text without blanks), which cost quadratic time

# the character that stands for each byte in the file format: itself if it can be printed
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
CHARACTERS = {byte: chr(byte) for byte in PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(OTHERS)}
BYTES = {character: byte for byte, character in CHARACTERS.items()}


class Tokenizer:
    """What both tokenizers share: the bytes of each id. Two are equal if they hold the same tokens."""

    def __init__(self, token_bytes, special_tokens=()):
        wrong = [token for token, n in Counter(token_bytes).items() if n > 1 or not token]
        if wrong:
            raise ValueError(f"token {wrong[0].decode(errors='replace')!r} is empty or occurs twice")
        self._bytes, self.vocab_size = token_bytes, len(token_bytes)
        self.special_tokens = list(special_tokens)

    def __eq__(self, other):
        same = type(self) is type(other) and self._bytes == other._bytes
        return same and self.special_tokens == other.special_tokens

    def __repr__(self):
        return f"{type(self).__name__}({self.vocab_size} tokens)"

    def decode(self, ids):
        """Return the text of ids (N,); bytes that are not UTF-8, as an untrained model writes, become U+FFFD.

        Raises ValueError for an id outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids):
        """Return the bytes of ids (N,), a list, array or tensor. Raises ValueError as `decode` does."""
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        try:
            ids = [operator.index(i) for i in ids]
        except TypeError:
            raise ValueError(f"token ids must be one row of whole numbers, not {ids!r:.60}") from None
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(
                    f"token id {i} is outside the vocabulary: allowed are 0 to {self.vocab_size - 1}"
                )
        return b"".join(self._bytes[i] for i in ids)

    def save(self, folder):
        """Write `folder`/tokenizer.json atomically. Raises OSError if it cannot be written."""
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / FILE, self.to_json())


class CharTokenizer(Tokenizer):
    """One token per character, in the order of `characters`."""

    def __init__(self, characters):
        """Raises ValueError for an empty string, a character that occurs twice, or a lone surrogate."""
        _check_text(characters)
        if not characters:
            raise ValueError("a vocabulary needs at least one character, and the text is empty")
        super().__init__([character.encode() for character in characters])
        self.characters = characters
        self._ids = {character: i for i, character in enumerate(characters)}

    @classmethod
    def from_text(cls, text):
        """Make the tokenizer of the sorted characters of `text`. ValueError for "" or a lone surrogate."""
        _check_text(text)
        return cls("".join(sorted(set(text))))

    def encode(self, text):
        """Return ids (N,) of the N characters of `text`. ValueError for one outside the vocabulary."""
        _check_text(text)
        try:
            return [self._ids[character] for character in text]
        except KeyError:
            at, unknown = next((at, c) for at, c in enumerate(text) if c not in self._ids)
            raise ValueError(
                f"character {unknown!r} (U+{ord(unknown):04X}) at position {at} is not among the "
                f"{self.vocab_size} known ones, {self.characters!r:.80}: remove it, make the tokenizer from "
                "a text that contains it, or use a BPETokenizer, which encodes any text"
            ) from None

    def to_json(self):
        """Return what `save` writes, as bytes."""
        state = {"type": "char", "vocab_size": self.vocab_size, "characters": self.characters}
        return json.dumps(state, indent=1, ensure_ascii=False).encode()


class BPETokenizer(Tokenizer):
    """Byte-pair encoding: id i stands for the bytes `tokens[i]`, and pairs merge in the order of their ids.

    All 256 single bytes are tokens, so any text can be encoded and comes back exactly. `special_tokens` have
    the ids after these; no text is encoded to them, not even one that looks like them.
    """

    def __init__(self, tokens, special_tokens=()):
        """Raises ValueError if a token occurs twice or a single byte is missing."""
        super().__init__([*tokens, *(token.encode() for token in special_tokens)], special_tokens)
        self.tokens = list(tokens)
        ranks = {token: i for i, token in enumerate(self.tokens)}
        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        if missing:  # tiktoken would panic on it, which `except Exception` does not catch
            raise ValueError(f"BPE needs all 256 single bytes among its tokens: byte {missing[0]} is missing")
        self._encoding = tiktoken.Encoding(
            "matgpt", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={}
        )

    @classmethod
    def train(cls, text, vocab_size=1024):
        """Learn the vocabulary from `text`: the most frequent pair becomes a token, again and again.

        Warns if it ends before `vocab_size`, since no pair occurs twice any more. The same text gives the
        same tokens. Raises ValueError for a `vocab_size` below 256 or a lone surrogate.
        """
        _check_text(text)
        vocab_size = positive("vocab_size", vocab_size, 256)  # one token for each byte
        library = tokenizers.Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.FixedLength(LONGEST)]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=2, initial_alphabet=list(BYTES), show_progress=False
        )
        library.train_from_iterator(PIECE.findall(text), trainer)  # whole, a text takes 100 times its memory
        ids = library.get_vocab()
        if len(ids) < vocab_size:
            warnings.warn(
                f"the vocabulary has {len(ids)} tokens, not {vocab_size}: no other pair occurs twice in the "
                f"{len(text):,} characters of the text",
                stacklevel=2,
            )
        return cls([_to_bytes(token) for token in sorted(ids, key=ids.get)])

    @classmethod
    def gpt2(cls):
        """Return GPT-2's 50,257 tokens, which tiktoken downloads once. ConnectionError without a network."""
        try:
            encoding = tiktoken.get_encoding("gpt2")
        except OSError as error:  # includes all errors of requests, which tiktoken downloads with
            raise ConnectionError(
                "GPT-2's vocabulary could not be downloaded, which needs a network once; "
                f"BPETokenizer.train(text) needs none ({type(error).__name__})"
            ) from error
        end = encoding.eot_token  # <|endoftext|>, the last of its tokens and the only special one
        return cls([encoding.decode_single_token_bytes(i) for i in range(end)], [encoding.decode([end])])

    def encode(self, text):
        """Return ids (N,) of `text`. Raises ValueError for a lone surrogate."""
        _check_text(text)  # tiktoken would replace it by U+FFFD
        return self._encoding.encode_ordinary(text)

    def to_json(self):
        """Return what `save` writes, as bytes: a tokenizer.json that transformers reads and encodes alike."""
        ids = {"".join(CHARACTERS[byte] for byte in token): i for i, token in enumerate(self.tokens)}
        # tiktoken joins any two neighbours that form a token, however it was learnt
        cuts = [(token[:i], token[i:]) for token in ids for i in range(1, len(token))]
        merges = [(left, right) for left, right in cuts if left in ids and right in ids]
        library = tokenizers.Tokenizer(models.BPE(ids, merges, ignore_merges=True))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        library.add_special_tokens(self.special_tokens)
        return library.to_str(pretty=True).encode()


def load_tokenizer(folder):
    """Load the tokenizer that `save` wrote into `folder`, or that of a GPT-2 of transformers.

    Raises ValueError, naming the file and the reason, if it is missing, damaged or of another kind.
    """
    path = as_path(folder) / FILE
    with parsed(path, "a tokenizer") as state:
        if "model" in state:
            return _from_library(state)
        if state["type"] == "char":
            tokenizer = CharTokenizer(state["characters"])
        elif state["type"] == "bpe":  # as older versions of matgpt wrote it
            tokens = [base64.b64decode(token, validate=True) for token in state["tokens"]]
            tokenizer = BPETokenizer(tokens, state["special_tokens"])
        else:
            raise ValueError(f"its type is {state['type']!r:.60}, which must be 'char' or 'bpe'")
        if state["vocab_size"] != tokenizer.vocab_size:
            raise ValueError(f"vocab_size is {state['vocab_size']!r:.60}, not {tokenizer.vocab_size}")
        return tokenizer


def _from_library(state):
    """Return the tokenizer of a tokenizer.json of transformers. ValueError if it would encode differently."""
    model, split = state["model"], {"use_regex": True, **(state["pre_tokenizer"] or {"type": None})}
    characters = "".join(sorted(model["vocab"], key=model["vocab"].get))
    one_each = model["vocab"] == {character: i for i, character in enumerate(characters)}
    if (model.get("type"), split["type"]) == (
        "WordLevel",
        "Split",
    ) and one_each:  # as `export_gpt2` writes it
        return CharTokenizer(characters)
    if (model.get("type", "BPE"), split["type"]) != ("BPE", "ByteLevel") or state.get("normalizer"):
        raise ValueError("it is not byte-level BPE without a normalizer")
    if split["add_prefix_space"] or not split["use_regex"]:
        raise ValueError("it splits texts differently from GPT-2")
    special = {token["content"]: token["id"] for token in state["added_tokens"]}
    ids = {token: i for token, i in model["vocab"].items() if token not in special}
    tokens = [*sorted(ids, key=ids.get), *sorted(special, key=special.get)]
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    merged = [ids["".join(merge)] for merge in merges]
    # tiktoken merges the pair with the lowest id first, transformers the one listed first
    if [{**ids, **special}[token] for token in tokens] != list(range(len(tokens))) or (
        sorted(set(merged)) != list(dict.fromkeys(merged))
    ):
        raise ValueError("its ids do not follow the order of its merges, with special tokens last")
    return BPETokenizer([_to_bytes(token) for token in tokens[: len(ids)]], tokens[len(ids) :])


def _to_bytes(token):
    return bytes(BYTES[character] for character in token)


def _check_text(text):
    """Raises ValueError, naming it, for a lone surrogate or anything but a str."""
    if not isinstance(text, str):
        raise ValueError(f"a text must be a str, not {type(text).__name__}: {text!r:.60}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds a lone surrogate, {text[error.start]!r}, at position {error.start}: half a "
            "character, which UTF-8 cannot hold; remove or replace it"
        ) from None
