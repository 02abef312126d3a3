"""Folders that keep a model: written atomically, read strictly, and never run as code."""

import dataclasses
import json
from pathlib import Path

import safetensors.torch
import torch

from ..config import GPTConfig, Size
from ..model import MatryoshkaEmbeddingsGPT, MatryoshkaGPT
from ..ranges import Between
from ..text.tokenizer import load_tokenizer
from .atomic import read, write

FORMAT = 1
MODELS = {model.__name__: model for model in (MatryoshkaGPT, MatryoshkaEmbeddingsGPT)}


def save(model, folder, tokenizer=None):
    """Keep a model in `folder`: config.json, model.safetensors and, if given, its tokenizer.

    Each file is replaced atomically. Raises ValueError if the tokenizer does not fit the model, OSError if
    the folder cannot be written.
    """
    folder = Path(folder)
    check_vocabulary(model.config, tokenizer, folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, "model": type(model).__name__, "config": dataclasses.asdict(model.config)}
    weights = {name: p.detach().cpu().contiguous() for name, p in model.state_dict().items()}
    write(folder / "config.json", json.dumps(config, indent=2).encode())
    write(folder / "model.safetensors", safetensors.torch.save(weights))
    if tokenizer is None:
        (folder / "tokenizer.json").unlink(missing_ok=True)  # of another model, kept here before
    else:
        tokenizer.save(folder)


def load(folder):
    """The model kept in `folder`, on the CPU and ready to use (eval mode), and its tokenizer or None.

    Raises ValueError, naming the file and what is wrong with it, for a folder or file that is missing,
    truncated, of an unknown format version, or that does not hold exactly the weights of its configuration.
    """
    folder = Path(folder)
    model = read_config(folder / "config.json")
    path = folder / "model.safetensors"
    try:
        weights = safetensors.torch.load(read(path))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from None
    try:
        # assigned, not copied: the weights keep the type that they were saved in
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not hold the weights of {path.parent / 'config.json'}: {error}"
        ) from None
    tokenizer = None
    if (folder / "tokenizer.json").exists():
        tokenizer = load_tokenizer(folder)
        check_vocabulary(model.config, tokenizer, folder)
    return model.eval(), tokenizer


def read_config(path):
    """A model without memory for its weights (on the meta device), as config.json describes it."""
    try:
        kept = json.loads(read(path))
        if kept["format"] != FORMAT:
            raise ValueError(f"{path} has format version {kept['format']!r}; this program reads {FORMAT}")
        if kept["model"] not in MODELS:
            raise ValueError(f"{path} names the model {kept['model']!r}; known are {', '.join(MODELS)}")
        config = kept["config"]
        config = GPTConfig(**{**config, "nesting": read_nesting(config["nesting"])})
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON (truncated?): {error}") from None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a configuration: {error!r}") from None
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None
    with torch.device("meta"):
        return MODELS[kept["model"]](config)


def read_nesting(kept):
    """A nesting, named Sizes or all that lie between two, from what `dataclasses.asdict` makes of it."""
    if isinstance(kept, dict):
        smallest, largest = Size(**kept["smallest"]), Size(**kept["largest"])
        return Between(smallest, largest, kept["multiple_of"])
    return [Size(**size) for size in kept]


def check_vocabulary(config, tokenizer, folder):
    """ValueError if the tokenizer does not know exactly the tokens of the model."""
    if tokenizer is not None and tokenizer.vocab_size != config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, "
            f"the model vocab_size={config.vocab_size}"
        )
