"""A BPETokenizer in the file format of the library `tokenizers`, for AutoTokenizer of transformers; and back."""

import json
from pathlib import Path

from ..text.tokenizer import BPETokenizer
from .atomic import read

PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
REST = [b for b in range(256) if b not in PRINTABLE]  # GPT-2 shows these as the characters from 256 on
SHOWN = {b: chr(b) for b in PRINTABLE} | {b: chr(256 + i) for i, b in enumerate(REST)}


def read_tokenizer(folder):
    """The BPETokenizer of a GPT-2 folder of transformers, from its tokenizer.json.

    Raises ValueError if the file is missing, or holds anything but byte-level BPE that merges by rising id.
    """
    path, byte = Path(folder) / "tokenizer.json", {c: b for b, c in SHOWN.items()}
    try:
        kept = json.loads(read(path))
        vocab, special = dict(kept["model"]["vocab"]), {t["content"]: t["id"] for t in kept["added_tokens"]}
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in kept["model"]["merges"]]
        made = [vocab["".join(merge)] for merge in merges]
        ids = {token: i for token, i in vocab.items() if token not in special}
        if made != sorted(made) or sorted({**ids, **special}.values()) != list(range(len({**ids, **special}))):
            raise ValueError("its merges or ids are not in a row")
        tokens, ends = (sorted(some, key=some.get) for some in (ids, special))
        if special and min(special.values()) < len(tokens):
            raise ValueError("a special token stands before an ordinary one")
        return BPETokenizer([bytes(byte[c] for c in token) for token in tokens], ends)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} holds no tokenizer of GPT-2's kind: {error}") from None


def tokenizer_files(tokenizer, block_size):
    """{file name: JSON object}, by which AutoTokenizer.from_pretrained encodes as `tokenizer` does."""
    text = lambda token: "".join(SHOWN[b] for b in token)
    ids = {token: i for i, token in enumerate(tokenizer.tokens)}
    merges = []
    for (
        token
    ) in tokenizer.tokens:  # tiktoken joins two neighbours if the whole is a token, however it was learnt
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ids and token[i:] in ids]
        merges += [
            f"{text(a)} {text(b)}" for a, b in sorted(cuts, key=lambda cut: (ids[cut[0]], ids[cut[1]]))
        ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    ends = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **(ends if ends["eos_token"] in tokenizer.special_tokens else {}),
    }
    return {
        "tokenizer_config.json": config,
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "normalizer": None,
            "post_processor": None,
            "added_tokens": [
                {"id": i, "content": token, **flags, "special": True}
                for i, token in enumerate(tokenizer.special_tokens, len(ids))
            ],
            "pre_tokenizer": level,
            "decoder": level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": True,
                "vocab": {text(token): i for token, i in ids.items()},
                "merges": merges,
            },
        },
    }
