"""Dolls leave as GPT-2 checkpoints of `transformers` (not needed for it), any GPT-2 comes in to be nested."""

import dataclasses
import math
from contextlib import suppress

import safetensors.torch
import torch
import torch.nn.functional as F

from ..config import GPTConfig, inner_sizes
from ..model import MatryoshkaGPT
from ..nested import corner
from ..text.tokenizer import BPETokenizer
from .atomic import as_path, parsed
from .checkpoint import check_depth, check_vocabulary, on_meta, read_weights, replace, unwrapped
from .gpt2_tokenizer import read_tokenizer, tokenizer_files

NAMES = {  # ours, theirs
    "embedding.token": "wte.weight",
    "embedding.position": "wpe.weight",
    "norm.": "ln_f.",
    "blocks.": "h.",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attention.qkv": "attn.c_attn",
    "attention.proj": "attn.c_proj",
    "feedforward.expand": "mlp.c_fc",
    "feedforward.proj": "mlp.c_proj",
}
EPS = 1e-5  # of our LayerNorm, PyTorch's default
SUPPORTED = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (EPS,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


def theirs(name, p):
    """Name and tensor that a parameter of ours is in GPT-2, where a linear map is one matrix (in, out)."""
    if name.endswith("qkv.weight"):
        p = p.flatten(0, -2).t()  # (3, H, S, D) -> (D, 3 H S)
    elif name.endswith(("proj.weight", "expand.weight")):
        p = p.flatten(1).t()
    elif name.endswith("bias"):
        p = p.flatten()
    for ours, other in NAMES.items():
        name = name.replace(ours, other)
    return name, p


def padded(doll):
    """(config, {name: tensor}, eps, head): the doll in the corner of a GPT-2 that is otherwise 0.

    GPT-2 knows one feedforward width, has biases, and wants n_embd = n_head * head_size. Units, biases, heads
    and dimensions of a head that are 0 change nothing, once queries are scaled for the wider head. Where no
    number of heads divides the width with room for each, the width grows by a factor k: on a residual of
    mean 0, LayerNorm is then sqrt(k) times the same, if eps is k times smaller. So the mean goes from all
    that writes to the residual; the readout would notice, and this GPT-2 has a `head` (V, n_embd) of its own.
    """
    config, weights = doll.config, unwrapped(doll)[1]
    d, h, s = config.n_embd, config.n_head, config.full_head_size
    fits = [n for n in range(h, d + 1) if d % n == 0 and d // n >= s]
    width, n_head = (d, fits[0]) if fits else (h * -(-d // h), h)
    inner = max(inner_sizes(config.full.n_inner, config.n_layer))
    shape = dict(n_embd=width, n_head=n_head, head_size=None, n_inner=inner, bias=True, nesting=None)
    wide = dataclasses.replace(config, **shape)
    shapes = on_meta(MatryoshkaGPT, wide).to(weights["embedding.token"].dtype).state_dict()
    out = {name: torch.zeros_like(p, device="cpu") for name, p in shapes.items()}
    for name, p in weights.items():
        if width > d and (name.startswith("embedding") or "proj" in name):
            p = p - p.mean(int(name.startswith("embedding")), keepdim=True)  # over the axis of the residual
        elif width > d and "norm" in name and name.endswith("weight"):
            p = p * math.sqrt(d / width)
        corner(out[name], *p.shape).copy_(p)
        if "qkv" in name:
            out[name][0] *= math.sqrt(width // n_head / s)
    head = F.pad(weights["embedding.token"].cpu(), (0, width - d)) if width > d else None
    return wide, out, EPS * d / width, head


@torch.no_grad()
def export_gpt2(model, path, size=None, tokenizer=None, overwrite=False):
    """Write one doll to the folder `path`, as transformers' GPT2LMHeadModel.from_pretrained reads it.

    The logits are the same to rounding, for every Size: shapes that GPT-2 does not know are padded with 0.
    tokenizer: if it is a BPETokenizer, AutoTokenizer.from_pretrained(path) will encode as it does; without
        one, what is there of a tokenizer stays.
    overwrite: replace another model in the folder.
    Raises ValueError for a size that does not fit, a smaller size of an output-only model, a tokenizer (given
    or there) of another vocabulary, or, unless told to overwrite, where other files would be replaced;
    OSError, with nothing changed, if there is no room.
    """
    path = as_path(path)
    check_vocabulary(model.config, tokenizer, path)
    files = gpt2_files(model, size, tokenizer)
    if "tokenizer.json" not in files and (path / "tokenizer.json").exists():
        check_vocabulary(model.config, read_tokenizer(path), path / "tokenizer.json")
    replace(path, files, overwrite)


def gpt2_files(model, size=None, tokenizer=None):
    """{file name: JSON object, or the weights as bytes} of that checkpoint; errors as in `export_gpt2`."""
    model = unwrapped(model)[0]
    full = model.config.resolve(size) == model.config.full
    config, weights, eps, head = padded(model if full else model.slice(size))
    tensors = {} if head is None else {"lm_head.weight": head}
    for name, p in weights.items():
        name, p = theirs(name, p)
        tensors[f"transformer.{name}"] = p.contiguous()
    settings = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_positions": config.block_size,
        **{name: getattr(config, name) for name in ("vocab_size", "n_embd", "n_head", "n_layer", "n_inner")},
        "activation_function": "gelu_new",
        "layer_norm_epsilon": eps,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
        "tie_word_embeddings": head is None,
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
    }
    files = tokenizer_files(tokenizer, config.block_size) if isinstance(tokenizer, BPETokenizer) else {}
    weights = safetensors.torch.save(tensors, {"format": "pt"})
    return {"config.json": settings, "model.safetensors": weights, **files}


def import_gpt2(path, nesting=None):
    """A folder that holds a GPT-2 of transformers (config.json, model.safetensors) as a MatryoshkaGPT.

    The full doll's logits are those of the checkpoint; the smaller ones of `nesting`, as in `GPTConfig`, mean
    nothing until they are trained. Weights become float32; the dropout is its resid_pdrop.
    Raises ValueError, naming it, for what this GPT-2 does not have (another activation, a head of its own),
    for a missing, unknown or differently shaped weight, and for weights in pickle files, which can run code.
    """
    path = as_path(path)
    file = path / "model.safetensors"
    with parsed(path / "config.json", "a configuration") as found:
        for name, allowed in SUPPORTED.items():
            if found.get(name, allowed[0]) not in allowed:
                raise ValueError(f"{path}: {name}={found[name]!r:.60} is not supported: allowed is {allowed}")
        shape = [found[name] for name in ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")]
        if not file.exists() and (path / "pytorch_model.bin").exists():
            raise ValueError(
                f"{path / 'pytorch_model.bin'} is a pickle, which can run code: have transformers write "
                f"{file} with save_pretrained"
            )
        weights = {
            name.removeprefix("transformer."): p.float()
            for name, p in read_weights(file)[0].items()
            if not name.endswith((".attn.bias", ".attn.masked_bias"))
        }  # the causal mask, as older versions kept it
        check_depth(shape[-1], weights, file)
        config = GPTConfig(*shape, nesting, found.get("n_inner"), dropout=found.get("resid_pdrop", 0.1))
        model, state = on_meta(MatryoshkaGPT, config), {}
    head = weights.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, weights.get("wte.weight", head[:0])):
        raise ValueError(f"{file}: lm_head.weight is not the token embedding; only a tied head is supported")
    for name, p in model.state_dict().items():
        other, shape = theirs(name, p)
        if other not in weights or weights[other].shape != shape.shape:
            what = f"has shape {tuple(weights[other].shape)}" if other in weights else "is missing"
            raise ValueError(f"{file}: {other} {what}; config.json asks for {tuple(shape.shape)}")
        weight = weights.pop(other)
        state[name] = (weight if name.startswith("embedding") else weight.t()).reshape(p.shape).contiguous()
    if weights:
        raise ValueError(f"{file}: {next(iter(weights))} is no weight of a GPT-2 of {config.n_layer} layers")
    model.load_state_dict(state, assign=True)
    return model.eval()


def is_gpt2(folder):
    """Whether the folder holds a GPT-2 of transformers, by its config.json."""
    with suppress(ValueError), parsed(as_path(folder) / "config.json", "a configuration") as found:
        return "model_type" in found
    return False  # whoever loads it says what is wrong
