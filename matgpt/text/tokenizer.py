"""Text to token ids and back: one id a character, or byte-pair encoding (BPE) on tiktoken."""

import base64
import heapq
import json
import operator
from collections import Counter, defaultdict
from pathlib import Path

import regex
import tiktoken

from ..files.atomic import write

FILE = "tokenizer.json"

# How GPT-2 cuts a text into the words that are merged. `{1,100000}` stands for its `+`: tiktoken's regex engine
# runs out of stack on a run of a million blanks, and only runs longer than this are cut otherwise than by GPT-2.
GPT2_SPLIT = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"
    r"|\s++$|\s{1,100000}(?!\S)|\s"
)

LONGEST = 32  # bytes; training cuts longer words, since its time grows with the length (DNA, writing without blanks)


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
        Path(folder).mkdir(parents=True, exist_ok=True)
        write(Path(folder) / FILE, self.to_json())

    def _checked(self, ids):
        """Ids, a list, an array or a tensor, all (N,), as a list of ints. Raises ValueError outside the vocabulary."""
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
        _utf8(characters)
        if not characters:
            raise ValueError("a vocabulary needs at least one character, and the text is empty")
        twice = [c for c, n in Counter(characters).items() if n > 1]
        if twice:
            raise ValueError(
                f"each character of a vocabulary must occur once, and {twice[0]!r} occurs more often"
            )
        self.characters, self.vocab_size = characters, len(characters)
        self._ids = {c: i for i, c in enumerate(characters)}

    @classmethod
    def from_text(cls, text):
        """The tokenizer of the characters of `text`, sorted. Raises ValueError for no text or a lone surrogate."""
        _utf8(text)
        return cls("".join(sorted(set(text))))

    def encode(self, text):
        """Ids (N,) of the N characters of `text`. Raises ValueError for a character that is not in the vocabulary."""
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
    """Byte-pair encoding: id i is the bytes `tokens[i]`, and of two neighbours the pair with the lowest id merges
    first. All 256 single bytes are tokens, so any text can be encoded and comes back exactly.

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
        if len(ranks) + len(special) < self.vocab_size or b"" in ranks:
            twice = [
                token for token, n in Counter(self.tokens + self.special_tokens).items() if n > 1 or not token
            ]
            raise ValueError(f"each BPE token must be unlike the others and not empty: {twice[0]!r}")
        self._encoding = tiktoken.Encoding(
            "matgpt", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens=special
        )

    @classmethod
    def train(cls, text, vocab_size=1024):
        """Learn the vocabulary from `text`: the most frequent pair becomes a token, again and again.

        It ends earlier, with fewer tokens than `vocab_size`, where no pair occurs twice. The same text gives the
        same tokens. Raises ValueError for a `vocab_size` below 256 or a lone surrogate.
        """
        if vocab_size < 256:
            raise ValueError(f"vocab_size={vocab_size} must be at least 256, one token for each byte")
        _utf8(text)
        tokens = [bytes([b]) for b in range(256)]
        # A text has far fewer different words than words: merge each once, and let its pairs count as often as it.
        counted = Counter()
        for word, n in Counter(regex.findall(GPT2_SPLIT, text)).items():
            word = word.encode()
            for i in range(0, len(word), LONGEST):
                counted[word[i : i + LONGEST]] += n
        words, times = [list(word) for word in counted], list(counted.values())
        counts, where = (
            Counter(),
            defaultdict(set),
        )  # of a pair of ids: its occurrences, and the words that hold it
        for w, word in enumerate(words):
            for pair in zip(word, word[1:]):
                counts[pair] += times[w]
                where[pair].add(w)
        queue = [(-n, pair) for pair, n in counts.items()]
        heapq.heapify(queue)
        while queue and len(tokens) < vocab_size:
            n, pair = heapq.heappop(queue)
            if counts[pair] != -n:  # other merges took some of its occurrences: back in line
                if counts[pair] > 1:
                    heapq.heappush(queue, (-counts[pair], pair))
                continue
            if n > -2:
                break
            new, grown = len(tokens), set()
            tokens.append(tokens[pair[0]] + tokens[pair[1]])
            for w in where.pop(pair):
                for old in zip(words[w], words[w][1:]):
                    counts[old] -= times[w]
                words[w] = _merge(words[w], pair, new)
                for fresh in zip(words[w], words[w][1:]):
                    counts[fresh] += times[w]
                    if new in fresh:
                        where[fresh].add(w)
                        grown.add(fresh)
            for fresh in grown:
                heapq.heappush(queue, (-counts[fresh], fresh))
        return cls(tokens)

    @classmethod
    def gpt2(cls):
        """GPT-2's own 50,257 tokens, which tiktoken downloads once. Raises ConnectionError without a network."""
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
        _utf8(text)  # tiktoken would put U+FFFD in its place
        return self._encoding.encode_ordinary(text)

    def decode(self, ids):
        """Text of ids (N,); bytes that are no UTF-8, as an untrained model writes them, become U+FFFD.

        Raises ValueError for an id outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids):
        """Bytes of ids (N,), which may begin or end inside a character. Raises ValueError as `decode` does."""
        return self._encoding.decode_bytes(self._checked(ids))

    def token_bytes(self, id):
        """Bytes of one token. Raises ValueError for an id outside the vocabulary."""
        return self.decode_bytes([id])

    def _state(self):
        return {
            "type": "bpe",
            "vocab_size": self.vocab_size,
            "special_tokens": self.special_tokens,
            "tokens": [base64.b64encode(token).decode() for token in self.tokens],
        }


def load_tokenizer(folder):
    """The tokenizer that was saved in `folder`.

    Raises ValueError, naming the file and what is wrong with it, if it is missing, damaged or of another kind.
    """
    path = Path(folder) / FILE
    try:
        state = json.loads(path.read_bytes())
        match state:
            case {"type": "char", "vocab_size": size, "characters": str(characters), **rest}:
                tokenizer = CharTokenizer(characters)
            case {
                "type": "bpe",
                "vocab_size": size,
                "special_tokens": [*special],
                "tokens": [*tokens],
                **rest,
            }:
                if not all(isinstance(token, str) for token in special + tokens):
                    raise ValueError("a token is not a string")
                tokenizer = BPETokenizer(
                    [base64.b64decode(token, validate=True) for token in tokens], special
                )
            case {"type": "char" | "bpe" as kind}:
                raise ValueError(f"an entry of type {kind!r} is missing or not of its kind")
            case {"type": kind}:
                raise ValueError(f"its type is {kind!r:.60}, which must be 'char' or 'bpe'")
            case _:
                raise ValueError("it has no entry 'type', which must be 'char' or 'bpe'")
        if rest:
            raise ValueError(f"unknown entry {next(iter(rest))!r}")
        if size != tokenizer.vocab_size:
            raise ValueError(f"vocab_size is {size!r:.60}, but it lists {tokenizer.vocab_size} tokens")
    except OSError as error:
        raise ValueError(f"tokenizer {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"tokenizer {path} is damaged: {error}") from error
    return tokenizer


def _merge(word, pair, new):
    """`word`, a list of ids, with each occurrence of `pair` replaced by the one id `new`."""
    merged, i = [], 0
    while i < len(word):
        if word[i] == pair[0] and i + 1 < len(word) and word[i + 1] == pair[1]:
            merged.append(new)
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged


def _utf8(text):
    """Raises ValueError, naming it, for a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds a lone surrogate, {text[error.start]!r}, at position {error.start}: "
            "it is half a character, which UTF-8 cannot hold; remove or replace it"
        ) from None
