"""Folders that hold a model: written as a whole, checked when read, and never run as code."""

import dataclasses
import hashlib
import json

import safetensors.torch
import torch

from ..config import GPTConfig, Size
from ..generation.writing import check_vocabulary
from ..model import MatryoshkaEmbeddingsGPT, MatryoshkaGPT
from ..ranges import Between
from ..text.tokenizer import Tokenizer, load_tokenizer
from .atomic import as_path, parsed, read, write_all

FORMAT = 1
MODELS = {model.__name__: model for model in (MatryoshkaGPT, MatryoshkaEmbeddingsGPT)}
TYPES = torch.float32, torch.bfloat16, torch.float16, torch.float64  # in which a model can run


def save(model, folder, tokenizer=None, overwrite=False):
    """Write a model to `folder`: config.json, model.safetensors and, if given, its tokenizer.json.

    tokenizer: None: the one in the folder, if any, stays.
    overwrite: replace another model in the folder.
    Raises ValueError for weights that are not finite or not of one type, a tokenizer (given or in the folder)
    of another vocabulary, or, without `overwrite`, if other files would be replaced; OSError, with nothing
    changed, if there is no room.
    """
    folder, (model, weights) = as_path(folder), checked(model)
    config = {"format": FORMAT, "model": type(model).__name__, "config": dataclasses.asdict(model.config)}
    files, own = {"config.json": as_json(config)}, folder / "tokenizer.json"
    if tokenizer is not None:
        if not isinstance(tokenizer, Tokenizer):
            raise ValueError(f"tokenizer={tokenizer!r:.60} must be a CharTokenizer or a BPETokenizer")
        files[own.name] = tokenizer.to_json()
    elif own.exists():
        tokenizer, files[own.name] = load_tokenizer(folder), read(own)
    check_vocabulary(model.config, tokenizer, folder)
    weights = {name: p.cpu().contiguous() for name, p in weights.items()}
    beside = " ".join(f"{name} {digest(data)}" for name, data in files.items())
    files["model.safetensors"] = safetensors.torch.save(weights, {"beside": beside})
    replace(folder, files, overwrite)


@torch.inference_mode(False)  # parameters made in inference mode could not be trained outside it
def load(folder):
    """Return the model that `save` wrote to `folder`, on the CPU in eval mode, and its tokenizer or None.

    Raises ValueError, naming the file and what is wrong with it, if a file is missing, damaged, of an unknown
    format version or not from the same `save` as the others, or if the weights do not fit the configuration.
    """
    folder = as_path(folder)
    path, file = folder / "config.json", folder / "model.safetensors"
    with parsed(path, "a configuration") as saved:
        if "model_type" in saved:
            raise ValueError("it describes a model of transformers: use matgpt.import_gpt2")
        if saved["format"] != FORMAT or saved["model"] not in MODELS:
            found = f"format {saved['format']!r} and model {saved['model']!r}"
            raise ValueError(f"it has {found}; this program reads format {FORMAT} and {', '.join(MODELS)}")
        weights, beside = read_weights(file)
        check_weights(weights, file)
        check_depth(saved["config"]["n_layer"], weights, file)
        config = GPTConfig(**saved["config"] | {"nesting": read_nesting(saved["config"]["nesting"])})
    try:
        # assigned, not copied: the weights keep the type in which they were saved
        model = on_meta(MODELS[saved["model"]], config)
        model.load_state_dict(weights, assign=True)
    except (RuntimeError, TypeError) as error:  # also for sizes that 64 bits cannot count
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
    """Return (model, {name: weight}) without torch.compile's wrappers of the model or of its parts."""
    weights = {name.replace("_orig_mod.", ""): p.detach() for name, p in model.state_dict().items()}
    return getattr(model, "_orig_mod", model), weights


def checked(model):
    """Return `unwrapped(model)`. Raises ValueError unless it is a model of ours that `load` could read."""
    kind = type(getattr(model, "_orig_mod", model))
    if kind not in MODELS.values():
        raise ValueError(f"model={model!r:.60} must be a {' or a '.join(MODELS)}, not a {kind.__name__}")
    model, weights = unwrapped(model)
    check_weights(weights, "the model")
    for name, p in weights.items():
        if not p.isfinite().all():
            raise ValueError(f"{name} contains NaN or infinity: did the training of this model diverge?")
    return model, weights


def check_weights(weights, where):
    """Raise ValueError unless all weights have one type in which a model can run."""
    types = {p.dtype for p in weights.values()}
    if len(types) > 1 or not types <= {*TYPES}:
        found, allowed = (", ".join(sorted(map(str, names))) for names in (types, TYPES))
        raise ValueError(f"{where} has weights of type {found}: all must have one type of {allowed}")


def check_depth(n_layer, weights, where):
    """Raise ValueError for more layers than weights, before anything is made that grows with n_layer."""
    if n_layer > len(weights):
        raise ValueError(f"{where} does not hold the weights of n_layer={n_layer}: there are {len(weights)}")


def on_meta(kind, config):
    """Make a model without memory for its weights."""
    with torch.device("meta"):
        return kind(config)


def read_weights(path):
    """Return {name: tensor} of a safetensors file and what `save` noted of the files beside it.

    Raises ValueError, naming the file, if it is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:  # a clone does not depend on the file
            weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return weights, (file.metadata() or {}).get("beside", "")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from None


def read_nesting(nesting):
    """Return the nesting whose JSON this is: None, a list of widths and Sizes, or a range."""
    if isinstance(nesting, dict):
        return Between(Size(**nesting["smallest"]), Size(**nesting["largest"]), nesting["multiple_of"])
    return nesting and [Size(**doll) if isinstance(doll, dict) else doll for doll in nesting]


def as_json(content):
    return json.dumps(content, indent=2, ensure_ascii=False).encode()


def replace(folder, files, overwrite, companions=()):
    """Write {name: bytes or a JSON object} into `folder`.

    companions: names of files that another library would read with these.
    Raises ValueError if it would replace other content without `overwrite`, or leave a companion of another
    model.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    paths = {folder / name: x if isinstance(x, bytes) else as_json(x) for name, x in files.items()}
    stale = [name for name in companions if name not in files and (folder / name).exists()]
    if stale:
        raise ValueError(
            f"{folder} holds {', '.join(stale)} of another model: remove it, or name another folder"
        )
    other = [path.name for path, data in paths.items() if path.exists() and read(path) != data]
    if other and not overwrite:
        there = ", ".join(other)
        raise ValueError(f"{folder} already holds {there}: name another folder, or pass overwrite=True")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    write_all(paths)
