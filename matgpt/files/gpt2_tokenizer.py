"""A BPETokenizer in the file format of the library `tokenizers`, as transformers reads it; and back."""

from ..text.tokenizer import BPETokenizer
from .atomic import as_path, parsed

PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
REST = [b for b in range(256) if b not in PRINTABLE]  # GPT-2 shows these as the characters from 256 on
SHOWN = {b: chr(b) for b in PRINTABLE} | {b: chr(256 + i) for i, b in enumerate(REST)}


def read_tokenizer(folder):
    """The BPETokenizer of a GPT-2 folder of transformers, by its tokenizer.json.

    Raises ValueError if that is missing, or is anything but byte-level BPE that merges by rising id.
    """
    path, byte = as_path(folder) / "tokenizer.json", {c: b for b, c in SHOWN.items()}
    with parsed(path, "a tokenizer of GPT-2") as kept:
        splits = {"use_regex": True, **kept["pre_tokenizer"]}
        kinds = kept["model"].get("type", "BPE"), splits["type"]
        if kinds != ("BPE", "ByteLevel") or kept.get("normalizer"):
            raise ValueError("it is not byte-level BPE, without a normalizer")
        if splits["add_prefix_space"] or not splits["use_regex"]:
            raise ValueError("it splits texts otherwise than GPT-2 does")
        model, special = kept["model"], {token["content"]: token["id"] for token in kept["added_tokens"]}
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        ids = {token: i for token, i in model["vocab"].items() if token not in special}
        made = [ids["".join(merge)] for merge in merges]
        tokens = [*sorted(ids, key=ids.get), *sorted(special, key=special.get)]
        in_a_row = [{**ids, **special}[token] for token in tokens] == list(range(len(tokens)))
        # tiktoken merges what has the lowest id, transformers what stands first among the merges
        if not in_a_row or sorted(set(made)) != list(dict.fromkeys(made)):
            raise ValueError("its tokens do not stand in the order of their merges, special ones last")
        return BPETokenizer(
            [bytes(byte[c] for c in token) for token in tokens[: len(ids)]], tokens[len(ids) :]
        )


def tokenizer_files(tokenizer, block_size):
    """{file name: JSON object}, by which AutoTokenizer.from_pretrained encodes as `tokenizer` does."""
    text = lambda token: "".join(SHOWN[b] for b in token)
    ids, merges = {token: i for i, token in enumerate(tokenizer.tokens)}, []
    for token in ids:  # tiktoken joins two neighbours if the whole is a token, however it was learnt
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ids and token[i:] in ids]
        cuts.sort(key=lambda cut: (ids[cut[0]], ids[cut[1]]))
        merges += [f"{text(a)} {text(b)}" for a, b in cuts]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = list(enumerate(tokenizer.special_tokens, len(ids)))
    end = "<|endoftext|>"
    return {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": block_size,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
            **({"bos_token": end, "eos_token": end} if end in tokenizer.special_tokens else {}),
        },
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [{"id": i, "content": token, **flags} for i, token in special],
            "pre_tokenizer": level,
            "decoder": level,
            "model": {
                "type": "BPE",
                "ignore_merges": True,
                "vocab": {text(token): i for token, i in ids.items()},
                "merges": merges,
            },
        },
    }
