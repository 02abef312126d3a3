"""Text to token ids and back: one id per character, or byte-pair encoding (BPE).

The library `tokenizers` learns the byte pairs; tiktoken encodes. Both kinds are saved as a tokenizer.json
with which transformers encodes alike.
"""

import json
import re
import warnings

import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ..files.atomic import as_path, parsed, write
from ..sizes import positive

FILE = "tokenizer.json"
# How GPT-2 splits a text into words. `{1,100000}` replaces its `+`: tiktoken's engine runs out of stack on a
# million blanks, so only longer runs of blanks are split differently from GPT-2.
GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s{1,100000}(?!\S)|\s"
# Pieces of a text that no token reaches across: each ends before a blank or newline that follows a word.
PIECE = re.compile(r"(?s).{65536,}?\S(?=[ \n])|.+")
LONGEST = 32  # bytes; training cuts longer words (DNA, text without blanks), which cost quadratic time

# In tokenizer.json a character stands for each byte: itself if it can be printed.
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
BYTES = dict(zip(ALPHABET, sorted(range(256), key=lambda byte: chr(byte) not in ALPHABET)))
CHARACTERS = {byte: character for character, byte in BYTES.items()}


class Tokenizer:
    """What both tokenizers share: the bytes of each id. Two are equal if they hold the same tokens."""

    def __init__(self, token_bytes, special_tokens=()):
        if not token_bytes or len({b"", *token_bytes}) <= len(token_bytes):
            raise ValueError("a vocabulary needs at least one token, and none may be empty or occur twice")
        self._bytes, self.vocab_size = dict(enumerate(token_bytes)), len(token_bytes)
        self.special_tokens = list(special_tokens)

    def __eq__(self, other):
        same = type(self) is type(other) and self._bytes == other._bytes
        return same and self.special_tokens == other.special_tokens

    def __repr__(self):
        return f"{type(self).__name__}({self.vocab_size} tokens)"

    def decode(self, ids):
        """Return the text of ids (N,), with U+FFFD for bytes that are not UTF-8. Raises as `decode_bytes`."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids):
        """Return the bytes of ids (N,), a list, array or tensor. ValueError for one that is not a token."""
        try:
            return b"".join([self._bytes[i] for i in (ids.tolist() if hasattr(ids, "tolist") else ids)])
        except (KeyError, TypeError) as error:
            allowed = f"one row of whole numbers from 0 to {self.vocab_size - 1}"
            raise ValueError(f"cannot decode {error}: token ids are {allowed}") from None

    def save(self, folder):
        """Write `folder`/tokenizer.json atomically. Raises OSError if it cannot be written."""
        write(as_path(folder) / FILE, self.to_json())


class CharTokenizer(Tokenizer):
    """One token per character, in the order of `characters`: ValueError for none, or for one twice."""

    def __init__(self, characters):
        super().__init__([character.encode() for character in as_text(characters)])
        self.characters = characters
        self._ids = {character: i for i, character in enumerate(characters)}

    @classmethod
    def from_text(cls, text):
        """Make the tokenizer of the sorted characters of `text`. ValueError for "" or a lone surrogate."""
        return cls("".join(sorted(set(as_text(text)))))

    def encode(self, text):
        """Return the ids of the characters of `text`. ValueError for one outside the vocabulary."""
        try:
            return [self._ids[character] for character in as_text(text)]
        except KeyError as error:
            known = f"the {self.vocab_size} known ones, {self.characters!r:.80}"
            raise ValueError(f"{error} is not among {known}; a BPETokenizer encodes any text") from None

    def to_json(self):
        """Return what `save` writes, as bytes."""
        # "" is not a token, so transformers, too, raises an error for an unknown character
        model = {"type": "WordLevel", "vocab": self._ids, "unk_token": ""}
        split = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
        state = {"version": "1.0", "added_tokens": [], "pre_tokenizer": split, "decoder": {"type": "Fuse"}}
        return json.dumps(state | {"model": model}, indent=1, ensure_ascii=False).encode()


class BPETokenizer(Tokenizer):
    """Byte-pair encoding: id i stands for the bytes `tokens[i]`, and pairs merge in the order of their ids.

    All 256 single bytes are tokens (ValueError otherwise), so any text can be encoded and comes back exactly.
    `special_tokens` have the ids after these; no text is encoded to them, even if it looks like them.
    """

    def __init__(self, tokens, special_tokens=()):
        super().__init__([*tokens, *(token.encode() for token in special_tokens)], special_tokens)
        self.tokens = list(tokens)
        ranks = {token: i for i, token in enumerate(self.tokens)}
        if any(bytes([byte]) not in ranks for byte in range(256)):  # tiktoken would panic, past any `except`
            raise ValueError("BPE needs all 256 single bytes among its tokens")
        for token in special_tokens:  # in tokenizer.json it would be the other token
            if {*token} <= {*BYTES} and to_bytes(token) in ranks:
                raise ValueError(f"special token {token!r} is written as the bytes {to_bytes(token)!r} are")
        options = dict(pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={})
        self._encoding = tiktoken.Encoding("matgpt", **options)

    @classmethod
    def train(cls, text, vocab_size=1024):
        """Learn the vocabulary from `text`: the most frequent pair becomes a token, again and again.

        Warns if no pair occurs twice any more before `vocab_size`, which must be at least 256.
        """
        pieces = PIECE.findall(as_text(text))  # whole, a text takes 100 times its memory
        vocab_size = positive("vocab_size", vocab_size, 256)  # one token for each byte
        library = tokenizers.Tokenizer(models.BPE())
        words = [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.FixedLength(LONGEST)]
        library.pre_tokenizer = pre_tokenizers.Sequence(words)
        options = dict(min_frequency=2, initial_alphabet=ALPHABET, show_progress=False)
        library.train_from_iterator(pieces, trainers.BpeTrainer(vocab_size=vocab_size, **options))
        ids = library.get_vocab()
        if len(ids) < vocab_size:
            size = f"the vocabulary has {len(ids)} tokens, not {vocab_size}"
            warnings.warn(f"{size}: no other pair occurs twice in the text", stacklevel=2)
        return cls([to_bytes(token) for token in sorted(ids, key=ids.get)])

    @classmethod
    def gpt2(cls):
        """Return GPT-2's 50,257 tokens, which tiktoken downloads once. ConnectionError without a network."""
        try:
            encoding = tiktoken.get_encoding("gpt2")
        except OSError as error:  # also those of requests, with which tiktoken downloads
            raise ConnectionError("tiktoken could not download it; BPETokenizer.train needs none") from error
        end = encoding.eot_token  # <|endoftext|>, the last of its tokens and the only special one
        return cls([encoding.decode_single_token_bytes(i) for i in range(end)], [encoding.decode([end])])

    def encode(self, text):
        """Return ids (N,) of `text`. ValueError for a lone surrogate, which tiktoken would replace."""
        return self._encoding.encode_ordinary(as_text(text))

    def to_json(self):
        """Return what `save` writes, as bytes."""
        ids = {"".join(CHARACTERS[byte] for byte in token): i for i, token in enumerate(self.tokens)}
        # tiktoken joins any two neighbours that form a token, however it was learnt
        merges = [pair for token in ids for pair in pairs_of(token, ids)]
        library = tokenizers.Tokenizer(models.BPE(ids, merges, ignore_merges=True))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        library.add_special_tokens(self.special_tokens)
        return library.to_str(pretty=True).encode()


def load_tokenizer(folder):
    """Load the tokenizer that `save` wrote into `folder`, or that of a GPT-2 of transformers.

    Raises ValueError, naming the file and the reason, if it is missing, damaged or would encode differently.
    """
    with parsed(as_path(folder) / FILE) as state:
        model, vocab, split = state["model"], state["model"]["vocab"], state["pre_tokenizer"] or {}
        kind = model.get("type", "BPE"), split.get("type")
        if kind == ("WordLevel", "Split"):
            tokenizer = CharTokenizer("".join(sorted(vocab, key=vocab.get)))
            own = json.loads(tokenizer.to_json())
            parts = "model", "normalizer", "pre_tokenizer", "post_processor"
            if any(state.get(part) != own.get(part) for part in parts):
                raise ValueError("its tokens are not all single characters with ids from 0 on")
            return tokenizer
        other_words = not split.get("use_regex", True) or split.get("add_prefix_space")
        other_pairs = map(model.get, ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        after = (state.get("post_processor") or {}).get("type", "ByteLevel")  # may add tokens around a text
        others = other_words, *other_pairs, state.get("normalizer"), after != "ByteLevel"
        if kind != ("BPE", "ByteLevel") or any(others):
            raise ValueError("it is not byte-level BPE that splits texts as GPT-2 does")
        if not all(token["special"] for token in state["added_tokens"]):
            raise ValueError("its added_tokens are not all special: texts may hold the others")
        special = {token["content"]: token["id"] for token in state["added_tokens"]}
        ids = vocab | special
        plain, last = sorted(ids.keys() - special, key=ids.get), sorted(special, key=ids.get)
        merged = [ids["".join(merge).replace(" ", "")] for merge in model["merges"]]  # a list or "left right"
        # tiktoken merges the pair with the lowest id first, transformers the one listed first
        if merged != sorted(merged) or [ids[token] for token in plain + last] != [*range(len(ids))]:
            raise ValueError("its ids do not follow the order of its merges, with special tokens last")
        if {*merged} != {ids[token] for token in plain if any(pairs_of(token, ids))}:
            raise ValueError("its merges lack some that its tokens allow")
        return BPETokenizer([to_bytes(token) for token in plain], last)


def pairs_of(token, ids):
    """Yield the pairs of tokens that a token can be merged from."""
    cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
    return ((left, right) for left, right in cuts if left in ids and right in ids)


def to_bytes(token):
    return bytes(BYTES[character] for character in token)


def as_text(text):
    """Return `text`. Raises ValueError, naming it, for a lone surrogate or anything but a str."""
    if not isinstance(text, str):
        raise ValueError(f"a text must be a str, not {type(text).__name__}: {text!r:.60}")
    text.encode()  # UnicodeEncodeError, a ValueError, names a lone surrogate
    return text
