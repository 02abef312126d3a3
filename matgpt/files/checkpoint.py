"""Folders that keep a model: written as a whole, read strictly, and never run as code."""

import dataclasses
import hashlib
import json
from contextlib import suppress

import safetensors.torch
import torch

from ..config import GPTConfig, Size
from ..model import MatryoshkaEmbeddingsGPT, MatryoshkaGPT
from ..ranges import Between
from ..text.tokenizer import load_tokenizer
from .atomic import as_path, parsed, read, write_all

FORMAT = 1
MODELS = {model.__name__: model for model in (MatryoshkaGPT, MatryoshkaEmbeddingsGPT)}
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def save(model, folder, tokenizer=None, overwrite=False):
    """Keep a model in `folder`: config.json, model.safetensors and, if given, its tokenizer.

    Without a tokenizer, one that is there stays. overwrite: replace another model in the folder.
    Raises ValueError for a tokenizer (given or there) that does not fit the model, or, unless told to
    overwrite, where other files would be replaced; OSError, with nothing changed, if there is no room.
    """
    folder, (model, weights) = as_path(folder), unwrapped(model)
    if type(model) not in MODELS.values():
        raise ValueError(f"save keeps a {' or a '.join(MODELS)}, not a {type(model).__name__}")
    config = {"format": FORMAT, "model": type(model).__name__, "config": dataclasses.asdict(model.config)}
    files, there = {"config.json": json.dumps(config, indent=2).encode()}, folder / "tokenizer.json"
    stays = load_tokenizer(folder) if tokenizer is None and there.exists() else None
    check_vocabulary(model.config, stays or tokenizer, folder)
    if stays or tokenizer:
        files["tokenizer.json"] = read(there) if stays else tokenizer.to_json()
    weights = {name: p.cpu().contiguous() for name, p in weights.items()}
    beside = " ".join(f"{name} {digest(data)}" for name, data in files.items())
    files["model.safetensors"] = safetensors.torch.save(weights, {"beside": beside})
    replace(folder, files, overwrite)


def load(folder):
    """The model kept in `folder`, on the CPU and ready to use (eval mode), and its tokenizer or None.

    Raises ValueError, naming the file and what is wrong with it, for a folder or file that is missing,
    truncated, of an unknown format version, that does not hold exactly the weights of its configuration, or
    that is not of the same `save` as the others.
    """
    folder = as_path(folder)
    path, file = folder / "config.json", folder / "model.safetensors"
    with parsed(path, "a configuration") as kept:
        if kept["format"] != FORMAT:
            raise ValueError(f"{path} has format version {kept['format']!r}; this program reads {FORMAT}")
        if kept["model"] not in MODELS:
            raise ValueError(f"{path} names the model {kept['model']!r}; known are {', '.join(MODELS)}")
        config, (weights, beside) = kept["config"], read_weights(file)
        check_depth(config["n_layer"], weights, file)
        config = GPTConfig(**{**config, "nesting": read_nesting(config["nesting"])})
        model = on_meta(MODELS[kept["model"]], config)
    try:
        # assigned, not copied: the weights keep the type that they were saved in
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{file} does not hold the weights of {path}: {error}") from None
    tokenizer = load_tokenizer(folder) if (folder / "tokenizer.json").exists() else None
    check_vocabulary(config, tokenizer, folder)
    for name in ("config.json", "tokenizer.json"):
        if name in beside and (folder / name).exists() and digest(read(folder / name)) not in beside:
            raise ValueError(f"{folder / name} is not the file that was saved with {file.name}")
    return model.eval(), tokenizer


def digest(data):
    return hashlib.sha256(data).hexdigest()


def unwrapped(model):
    """(model, {name: weight}) without what torch.compile puts around the model, or around parts of it."""
    weights = {name.replace("_orig_mod.", ""): p.detach() for name, p in model.state_dict().items()}
    return getattr(model, "_orig_mod", model), weights


def on_meta(kind, config):
    """A model without memory for its weights."""
    try:
        with torch.device("meta"):
            return kind(config)
    except (RuntimeError, TypeError):  # more numbers than 64 bits can count
        raise ValueError(f"no memory has room for the weights of {config}") from None


def read_weights(path):
    """({name: tensor}, what `save` noted of the files beside it); ValueError, naming it, for a bad file."""
    try:
        with safetensors.safe_open(path, "pt") as file:  # clones depend on the file no more
            weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            if any(p.is_complex() for p in weights.values()):
                raise ValueError("complex numbers are no weights")
            return weights, (file.metadata() or {}).get("beside", "")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except Exception as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from None


def check_depth(n_layer, weights, path):
    """ValueError for more layers than there are weights, before anything as long as n_layer is made."""
    if n_layer > len(weights):
        raise ValueError(f"{path} does not hold the weights of n_layer={n_layer}: there are {len(weights)}")


def read_nesting(kept):
    """A nesting, named Sizes or all that lie between two, from what `dataclasses.asdict` makes of it."""
    if isinstance(kept, dict):
        return Between(Size(**kept["smallest"]), Size(**kept["largest"]), kept["multiple_of"])
    return [Size(**size) for size in kept]


def check_vocabulary(config, tokenizer, folder):
    """ValueError if the tokenizer does not know exactly the tokens of the model."""
    want = config.vocab_size
    if tokenizer is not None and (have := getattr(tokenizer, "vocab_size", None)) != want:
        raise ValueError(f"{folder}: the tokenizer has {have} tokens, the model vocab_size={want}")


def held(folder):
    """What a folder holds under the names of a model's files, in words; "" if nothing."""
    names, kind = [name for name in FILES if (folder / name).exists()], None
    with suppress(ValueError), parsed(folder / "config.json", "a configuration") as config:
        kind = config.get("model") or config.get("model_type")
    return f"{kind or 'files of another'} ({', '.join(names)})" if names else ""


def replace(folder, files, overwrite):
    """Write {name: bytes or a JSON object}; ValueError if others would be lost by it, unless `overwrite`."""
    as_bytes = lambda x: x if isinstance(x, bytes) else json.dumps(x, indent=2, ensure_ascii=False).encode()
    paths = {folder / name: as_bytes(data) for name, data in files.items()}
    other = [path.name for path, data in paths.items() if path.exists() and read(path) != data]
    if other and not overwrite:
        there = held(folder) or ", ".join(other)
        raise ValueError(f"{folder} already holds {there}: name another folder, or pass overwrite=True")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    write_all(paths)
