"""Text to token ids and back: one id a character, or byte-pair encoding (BPE) on tiktoken."""

import base64
import json
import operator
from collections import Counter

import tiktoken

from ..files.atomic import as_path, parsed, write
from ..sizes import positive
from .merges import GPT2_SPLIT, learn

FILE = "tokenizer.json"


class Tokenizer:
    """What both tokenizers share. They are equal if they hold the same tokens."""

    def __eq__(self, other):
        return type(self) is type(other) and self._state() == other._state()

    def __repr__(self):
        return f"{type(self).__name__}({self.vocab_size} tokens)"

    def to_json(self):
        """What `save` writes, as bytes."""
        return json.dumps(self._state(), indent=1, ensure_ascii=False).encode()

    def save(self, folder):
        """Write `folder`/tokenizer.json, readable and atomically. Raises OSError if it cannot be written."""
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / FILE, self.to_json())

    def _checked(self, ids):
        """Ids, a list, array or tensor, (N,), as a list of ints. ValueError outside the vocabulary."""
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
        return ids


class CharTokenizer(Tokenizer):
    """One token a character, in the order of `characters`."""

    def __init__(self, characters):
        """Raises ValueError for no character, one that occurs twice, or a lone surrogate."""
        _check_text(characters)
        if not characters:
            raise ValueError("a vocabulary needs at least one character, and the text is empty")
        _check_unlike(characters)
        self.characters, self.vocab_size = characters, len(characters)
        self._ids = {c: i for i, c in enumerate(characters)}

    @classmethod
    def from_text(cls, text):
        """The tokenizer of the characters of `text`, sorted. ValueError for no text or a lone surrogate."""
        _check_text(text)
        return cls("".join(sorted(set(text))))

    def encode(self, text):
        """Ids (N,) of the N characters of `text`. Raises ValueError for one that is not in the vocabulary."""
        _check_text(text)
        try:
            return [self._ids[c] for c in text]
        except KeyError:
            at, c = next((at, c) for at, c in enumerate(text) if c not in self._ids)
            raise ValueError(
                f"character {c!r} (U+{ord(c):04X}) at position {at} is not among the {self.vocab_size} "
                f"known ones, {self.characters!r:.80}: remove it, make the tokenizer from a text that "
                "holds it, or use a BPETokenizer, which encodes any text"
            ) from None

    def decode(self, ids):
        """Text of ids (N,). Raises ValueError for an id outside the vocabulary."""
        return "".join(self.characters[i] for i in self._checked(ids))

    def decode_bytes(self, ids):
        """The same text in UTF-8."""
        return self.decode(ids).encode()

    def _state(self):
        return {"type": "char", "vocab_size": self.vocab_size, "characters": self.characters}


class BPETokenizer(Tokenizer):
    """Byte-pair encoding: id i is the bytes `tokens[i]`, and the pair with the lowest id merges first. All
    256 single bytes are tokens, so any text can be encoded and comes back exactly.

    `special_tokens` get the ids behind these; no text is encoded to them, not even one that looks like them.
    """

    def __init__(self, tokens, special_tokens=()):
        """Raises ValueError if a token occurs twice or a single byte is missing."""
        self.tokens, self.special_tokens = list(tokens), list(special_tokens)
        self.vocab_size = len(self.tokens) + len(self.special_tokens)
        ranks = {token: i for i, token in enumerate(self.tokens)}
        special = {token: i for i, token in enumerate(self.special_tokens, len(self.tokens))}
        missing = [b for b in range(256) if bytes([b]) not in ranks]
        if missing:  # tiktoken would panic on it, which no `except Exception` catches
            raise ValueError(f"BPE needs all 256 single bytes among its tokens: byte {missing[0]} is missing")
        _check_unlike(self.tokens + self.special_tokens)
        self._encoding = tiktoken.Encoding(
            "matgpt", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens=special
        )

    @classmethod
    def train(cls, text, vocab_size=1024):
        """Learn the vocabulary from `text`: the most frequent pair becomes a token, again and again.

        It ends before `vocab_size` where no pair occurs twice. The same text gives the same tokens. Raises
        ValueError for a `vocab_size` below 256 or a lone surrogate.
        """
        _check_text(text)
        return cls(learn(text, positive("vocab_size", vocab_size, 256)))  # one token for each byte

    @classmethod
    def gpt2(cls):
        """GPT-2's own 50,257 tokens, which tiktoken downloads once. ConnectionError without a network."""
        try:
            encoding = tiktoken.get_encoding("gpt2")
        except OSError as error:  # as are all errors of the library that tiktoken downloads with
            raise ConnectionError(
                "GPT-2's vocabulary could not be downloaded, which takes a network once; "
                f"BPETokenizer.train(text) takes none ({type(error).__name__})"
            ) from error
        ordinary = encoding.n_vocab - len(encoding.special_tokens_set)
        return cls(
            [encoding.decode_single_token_bytes(i) for i in range(ordinary)],
            sorted(encoding.special_tokens_set, key=encoding.encode_single_token),
        )

    def encode(self, text):
        """Ids (N,) of `text`. Raises ValueError for a lone surrogate, which is no character."""
        _check_text(text)  # tiktoken would put U+FFFD in its place
        return self._encoding.encode_ordinary(text)

    def decode(self, ids):
        """Text of ids (N,); bytes that are no UTF-8, as an untrained model writes them, become U+FFFD.

        Raises ValueError for an id outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids):
        """Bytes of ids (N,), which may begin or end inside a character. ValueError as `decode` has it."""
        return self._encoding.decode_bytes(self._checked(ids))

    def _state(self):
        return {
            "type": "bpe",
            "vocab_size": self.vocab_size,
            "special_tokens": self.special_tokens,
            "tokens": [base64.b64encode(token).decode() for token in self.tokens],
        }


def load_tokenizer(folder):
    """The tokenizer that was saved in `folder`.

    Raises ValueError, naming the file and what is wrong, if it is missing, damaged or of another kind.
    """
    path = as_path(folder) / FILE
    with parsed(path, "a tokenizer") as state:
        kind = state.get("type") if isinstance(state, dict) else None
        if kind == "char":
            tokenizer = CharTokenizer(state["characters"])
        elif kind == "bpe":
            tokens = [base64.b64decode(token, validate=True) for token in state["tokens"]]
            tokenizer = BPETokenizer(tokens, state["special_tokens"])
        else:
            raise ValueError(f"its type is {kind!r:.60}, which must be 'char' or 'bpe'")
        own = tokenizer._state()
        for entry in own | state:  # as it would be saved again, no more and no less
            found, due = state.get(entry, "nothing"), own.get(entry, "nothing")
            if found != due:
                raise ValueError(f"{entry} is {found!r:.60}, where {due!r:.60} belongs")
    return tokenizer


def _check_unlike(tokens):
    wrong = [token for token, n in Counter(tokens).items() if n > 1 or not token]
    if wrong:
        raise ValueError(f"tokens must be unlike each other and not empty, which {wrong[0]!r} is not")


def _check_text(text):
    """Raises ValueError, naming it, for a lone surrogate or what is no text at all."""
    if not isinstance(text, str):
        raise ValueError(f"a text must be a str, not {type(text).__name__}: {text!r:.60}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"the text holds a lone surrogate, {text[error.start]!r}, at position {error.start}"
        raise ValueError(f"{what}: half a character, which UTF-8 cannot hold; remove or replace it") from None
