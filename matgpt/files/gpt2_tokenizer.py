"""A BPETokenizer in the file format of the library `tokenizers`, for AutoTokenizer of transformers."""

from .atomic import parsed


def tokenizer_files(tokenizer, block_size):
    """{file name: JSON object}, by which AutoTokenizer.from_pretrained encodes as `tokenizer` does."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]  # GPT-2 shows these as the characters from 256 on
    shown = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
    text = lambda token: "".join(shown[b] for b in token)
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


def check_tokenizer(path, vocab_size):
    """ValueError if there is a tokenizer.json at `path` that has not `vocab_size` tokens."""
    if path.exists():
        with parsed(path, "a tokenizer of GPT-2") as found:
            tokens = {*found["model"]["vocab"], *(token["content"] for token in found["added_tokens"])}
            if len(tokens) != vocab_size:
                raise ValueError(f"the tokenizer there has {len(tokens)} tokens, the model {vocab_size=}")
