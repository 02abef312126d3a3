"""Folders that hold a model: written as a whole, checked when read, and never run as code."""

import dataclasses
import json
import os
from hashlib import sha256

import safetensors.torch
import torch

from ..config import GPTConfig, Size
from ..generation.writing import check_vocabulary
from ..model import MatryoshkaEmbeddingsGPT, MatryoshkaGPT, NestedGPT
from ..nested import check_finite
from ..ranges import Between
from ..text.tokenizer import Tokenizer, load_tokenizer
from .atomic import as_path, parsed, write_all

FORMAT = 1
MODELS = {model.__name__: model for model in (MatryoshkaGPT, MatryoshkaEmbeddingsGPT)}
TYPES = torch.float32, torch.bfloat16, torch.float16, torch.float64  # in which a model can run


def save(model, folder, tokenizer=None, overwrite=False):
    """Write a model to `folder`: config.json, model.safetensors and, if given, its tokenizer.json.

    tokenizer: None keeps the one in the folder. overwrite: replace another model in the folder.
    Raises ValueError for weights that are not finite or not of one type, a tokenizer (given or in the folder)
    of another vocabulary, or, without `overwrite`, if other files would be replaced.
    """
    folder = as_path(folder)
    replace(folder, model_files(model, folder, tokenizer), overwrite)


def model_files(model, folder, tokenizer=None):
    """Return {name: bytes} of the files that `save` writes; raises what it raises."""
    model, weights = checked(model)
    check_tokenizer(model.config, tokenizer, folder)
    config = {"format": FORMAT, "model": type(model).__name__, "config": dataclasses.asdict(model.config)}
    files, own = {"config.json": as_json(config)}, folder / "tokenizer.json"
    if tokenizer is not None:
        files[own.name] = tokenizer.to_json()
    elif own.exists():
        files[own.name] = own.read_bytes()
    beside = " ".join(f"{name} {sha256(data).hexdigest()}" for name, data in files.items())
    return files | {"model.safetensors": safetensors.torch.save(weights, {"beside": beside})}


@torch.inference_mode(False)  # parameters made in inference mode could not be trained outside it
def load(folder):
    """Return the model that `save` wrote to `folder`, on the CPU in eval mode, and its tokenizer or None.

    Raises ValueError, naming the file, if one is missing, damaged, of an unknown format or not from the same
    `save` as the others, or if the weights do not fit the configuration.
    """
    folder = as_path(folder)
    weights, beside = read_weights(folder / "model.safetensors")
    check_weights(weights, folder / "model.safetensors")
    with parsed(folder / "config.json") as saved:
        if "model_type" in saved:
            raise ValueError("it describes a model of transformers: use matgpt.import_gpt2")
        if saved["format"] != FORMAT:
            raise ValueError(f"format {saved['format']!r} is unknown; this program reads format {FORMAT}")
        if saved["config"]["n_layer"] > len(weights):  # before anything is made that grows with it
            raise ValueError(f"n_layer={saved['config']['n_layer']} are more layers than there are weights")
        config = GPTConfig(**saved["config"] | {"nesting": read_nesting(saved["config"]["nesting"])})
        model = on_meta(MODELS[saved["model"]], config)
        model.load_state_dict(weights, assign=True)  # not copied: they keep the type in which they were saved
    tokenizer = check_tokenizer(config, None, folder)
    for path in (folder / "config.json", folder / "tokenizer.json"):
        if path.name in beside and not path.exists():
            raise ValueError(f"{path} is missing: it was saved with model.safetensors")
        if path.name in beside and sha256(path.read_bytes()).hexdigest() not in beside:
            raise ValueError(f"{path} is not the file that was saved with model.safetensors")
    return model.eval(), tokenizer


def check_tokenizer(config, tokenizer, folder):
    """Return the tokenizer, or else that of the folder, if any. ValueError unless it fits the model."""
    if tokenizer is None and (folder / "tokenizer.json").exists():
        tokenizer = load_tokenizer(folder)
    if not isinstance(tokenizer, Tokenizer | None):
        raise ValueError(f"tokenizer={tokenizer!r:.60} must be a CharTokenizer or a BPETokenizer")
    check_vocabulary(config, tokenizer, f"{folder}: ")
    return tokenizer


def unwrapped(model):
    """Return (model, {name: weight}) without torch.compile's wrapper. ValueError unless it is one of ours."""
    own = getattr(model, "_orig_mod", model)
    if not isinstance(own, NestedGPT):
        raise ValueError(f"model={model!r:.60} must be a {' or a '.join(MODELS)}")
    return own, {name.replace("_orig_mod.", ""): p.detach() for name, p in model.state_dict().items()}


def checked(model):
    """Return a model of ours and its weights on the CPU. ValueError unless `load` could read them."""
    model, weights = unwrapped(model)
    if type(model) not in MODELS.values():
        raise ValueError(f"model={model!r:.60} must be a {' or a '.join(MODELS)}")
    check_weights(weights, "the model")
    return model, {name: p.cpu().contiguous() for name, p in weights.items()}


def check_weights(weights, where):
    """Raise ValueError unless all weights are finite and of one type in which a model can run."""
    types = {p.dtype for p in weights.values()}
    if len(types) > 1 or not types <= {*TYPES}:
        raise ValueError(f"{where} has weights of type {types}: all must have one type of {TYPES}")
    check_finite(weights, where)


def on_meta(kind, config):
    """Make a model without memory for its weights."""
    with torch.device("meta"):
        return kind(config)


def read_weights(path):
    """Return {name: tensor} of a safetensors file, and what `save` noted of the files beside it."""
    if not path.exists():
        folder = str(path.parent)
        source = folder if path.with_name("config.json").exists() else "gpt2"  # in several files, or not yet
        hint = f'.from_pretrained({source!r}).save_pretrained({folder!r}, max_shard_size="99GB")'
        raise ValueError(f"{path} is missing; for a GPT-2, transformers writes it: GPT2LMHeadModel{hint}")
    try:
        with safetensors.safe_open(path, "pt") as file:  # a clone does not depend on the file
            weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return weights, (file.metadata() or {}).get("beside", "")
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def read_nesting(nesting):
    """Return the nesting whose JSON this is: None, a list of widths and Sizes, or a range."""
    if isinstance(nesting, dict):
        return Between(Size(**nesting["smallest"]), Size(**nesting["largest"]), nesting["multiple_of"])
    return nesting and [Size(**doll) if isinstance(doll, dict) else doll for doll in nesting]


def as_json(content):
    return json.dumps(content, indent=2).encode()  # a path may hold bytes that are not UTF-8


def replace(folder, files, overwrite, companions=()):
    """Write {name: bytes or a JSON object} into `folder`.

    Raises ValueError if it would replace other content without `overwrite`, or if the folder holds one of
    `companions`: other files that a library would read with these.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    paths = {folder / name: x if isinstance(x, bytes) else as_json(x) for name, x in files.items()}
    for name in companions:
        if name not in files and (folder / name).exists():
            raise ValueError(f"{folder} holds {name} of another model: remove it, or name another folder")
    there = {path: data for path, data in paths.items() if os.path.lexists(path)}  # also a link to nowhere
    other = [path.name for path, data in there.items() if not path.exists() or path.read_bytes() != data]
    if other and not overwrite:
        raise ValueError(f"{folder} already holds {', '.join(other)}: pass overwrite=True to replace it")
    write_all(paths)
