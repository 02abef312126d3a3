"""The tokenizer of a GPT-2 folder, as transformers reads it."""

from ..text.tokenizer import BPETokenizer, load_tokenizer
from .atomic import as_path


def read_tokenizer(folder):
    """Return the BPETokenizer of a GPT-2 folder of transformers, by its tokenizer.json.

    Raises ValueError if that is missing, or is anything but byte-level BPE that merges in the order of ids.
    """
    tokenizer = load_tokenizer(folder)
    if not isinstance(tokenizer, BPETokenizer):
        raise ValueError(f"{as_path(folder)}: {tokenizer} is not a tokenizer of GPT-2")
    return tokenizer


def tokenizer_files(tokenizer, block_size):
    """Return {file name: content}, with which AutoTokenizer.from_pretrained encodes as `tokenizer` does."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    end = "<|endoftext|>"
    if end in tokenizer.special_tokens:
        config |= {"bos_token": end, "eos_token": end}
    return {"tokenizer_config.json": config, "tokenizer.json": tokenizer.to_json()}
