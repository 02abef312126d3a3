"""Export any doll as a GPT-2 of `transformers`, which is not needed for it; import a GPT-2 to nest it."""

import dataclasses
import math

import safetensors.torch
import torch
import torch.nn.functional as F

from ..config import GPTConfig
from ..model import MatryoshkaGPT
from ..nested import corner
from . import checkpoint
from .atomic import as_path, parsed

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
# other files that transformers, peft or sentence-transformers read with a GPT-2 and that change what it does
COMPANIONS = "adapter_config.json", "added_tokens.json", "chat_template.jinja", "modules.json"


def theirs(name, p):
    """Return a parameter's name and tensor in GPT-2, where a linear map is one matrix (in, out)."""
    if name.endswith("qkv.weight"):
        p = p.flatten(0, -2).t()  # (3, H, S, D) -> (D, 3 H S)
    elif name.endswith(("proj.weight", "expand.weight")):
        p = p.flatten(1).t()
    elif name.endswith("bias"):
        p = p.flatten()
    for ours, other in NAMES.items():
        name = name.replace(ours, other)
    return name, p


def padded(config, weights):
    """Put a doll into the corner of a GPT-2 that is otherwise 0; returns the config and tensors of that.

    GPT-2 has one feedforward width, biases, and n_embd = n_head * head_size. Units, biases, heads and
    dimensions of a head that are 0 change nothing, once queries are scaled for the wider head. If no number
    of heads divides the width with enough room for each, the width grows by a factor k: on a residual of mean
    0, LayerNorm then gives sqrt(k) times as much, if eps is divided by k. So the mean is subtracted from all
    that writes to the residual. The readout must not change, so this GPT-2 has a head (V, n_embd) of its own.
    """
    token = weights["embedding.token"]
    d, h, s = config.n_embd, config.n_head, config.full_head_size
    fits = [n for n in range(h, d + 1) if d % n == 0 and d // n >= s]
    width, n_head = (d, fits[0]) if fits else (h * -(-d // h), h)
    heads = dict(n_embd=width, n_head=n_head, head_size=None)
    wide = dataclasses.replace(config, **heads, n_inner=max(config.full.inner), bias=True, nesting=None)
    shapes = checkpoint.on_meta(MatryoshkaGPT, wide).state_dict()
    out = {name: torch.zeros(p.shape, dtype=token.dtype) for name, p in shapes.items()}
    for name, p in weights.items():
        if width > d and (name.startswith("embedding") or "proj" in name):
            p = p - p.mean(int(name.startswith("embedding")), keepdim=True)  # over the axis of the residual
        elif width > d and "norm" in name and name.endswith("weight"):
            p = p * math.sqrt(d / width)
        corner(out[name], *p.shape).copy_(p)
        if "qkv" in name:
            out[name][0] *= math.sqrt(width // n_head / s)
    tensors = {} if width == d else {"lm_head.weight": F.pad(token, (0, width - d))}
    for name, p in map(theirs, out, out.values()):
        tensors[f"transformer.{name}"] = p.contiguous()
    return wide, tensors


def export_gpt2(model, path, size=None, tokenizer=None, overwrite=False):
    """Write one doll to the folder `path`, as transformers' GPT2LMHeadModel.from_pretrained reads it.

    The logits are the same to rounding, for every Size: shapes that GPT-2 does not have are padded with 0.
    tokenizer: AutoTokenizer.from_pretrained(path) then encodes as it does; None keeps the one in the folder.
    overwrite: replace another model in the folder.
    Raises ValueError as `save` does, for a size that does not fit, a smaller size of an output-only model, or
    a folder with other files that transformers would read with this model.
    """
    path = as_path(path)
    has_tokenizer = tokenizer is not None or (path / "tokenizer.json").exists()
    companions = COMPANIONS if has_tokenizer else (*COMPANIONS, "vocab.json")
    checkpoint.replace(path, gpt2_files(model, path, size, tokenizer), overwrite, companions)


def gpt2_files(model, path, size=None, tokenizer=None):
    """Return {file name: JSON object, or bytes} of that checkpoint."""
    model, weights = checkpoint.checked(model)
    checkpoint.check_tokenizer(model.config, tokenizer, path)
    if model.config.resolve(size) != model.config.full:
        model, weights = checkpoint.checked(model.slice(size))
    config, tensors = padded(model.config, weights)
    settings = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_positions": config.block_size,
        **{name: getattr(config, name) for name in ("vocab_size", "n_embd", "n_head", "n_layer", "n_inner")},
        "activation_function": "gelu_new",
        "layer_norm_epsilon": EPS * model.config.n_embd / config.n_embd,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
    }
    files = {
        "config.json": settings,
        "generation_config.json": {"_from_model_config": True},  # in place of what another model left there
        "model.safetensors": safetensors.torch.save(tensors, {"format": "pt"}),
    }
    if tokenizer is not None:
        end = "<|endoftext|>" if "<|endoftext|>" in tokenizer.special_tokens else None
        files["tokenizer.json"] = tokenizer.to_json()
        files["special_tokens_map.json"] = {}
        files["tokenizer_config.json"] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.block_size,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
            **dict.fromkeys(("bos_token", "eos_token"), end),
        }
    return files


@torch.inference_mode(False)  # as in `load`
def import_gpt2(path, nesting=None):
    """Load a folder that holds a GPT-2 of transformers (config.json, safetensors) as a float32 MatryoshkaGPT.

    The full doll's logits are those of the checkpoint, and dropout is its resid_pdrop; the smaller dolls of
    `nesting` mean nothing until they are trained. Raises ValueError, naming it, for what our GPT-2 does not
    have (another activation, a head of its own), a missing, unknown or differently shaped weight, and weights
    in pickles, which can run code.
    """
    path = as_path(path)
    file = path / "model.safetensors"
    weights, state = {}, {}
    for name, p in checkpoint.read_weights(file)[0].items():
        if not name.endswith((".attn.bias", ".attn.masked_bias")):  # the causal mask, in older checkpoints
            weights[name.removeprefix("transformer.")] = p.float() if p.dtype in checkpoint.TYPES else p
    checkpoint.check_weights(weights, file)
    head = weights.pop("lm_head.weight", None)
    with parsed(path / "config.json") as saved:
        if "format" in saved:
            raise ValueError("it describes a model that matgpt.save wrote: use matgpt.load")
        for name, allowed in SUPPORTED.items():
            if saved.get(name, allowed[0]) not in allowed:
                raise ValueError(f"{name}={saved[name]!r:.60} is not supported: allowed is {allowed}")
        shape = [saved[name] for name in ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")]
        if saved["n_layer"] > len(weights):
            raise ValueError(f"n_layer={saved['n_layer']} are more layers than there are weights")
        config = GPTConfig(*shape, None, saved.get("n_inner"), dropout=saved.get("resid_pdrop", 0.1))
    model = checkpoint.on_meta(MatryoshkaGPT, dataclasses.replace(config, nesting=nesting))
    for ours, p in model.state_dict().items():
        name, expected = theirs(ours, p)
        weight = weights.pop(name, torch.empty(0))
        if weight.shape != expected.shape:
            raise ValueError(f"{file}: {name} must have the shape {tuple(expected.shape)} of config.json")
        state[ours] = (weight if ours.startswith("embedding") else weight.t()).reshape(p.shape).contiguous()
    if head is not None and not torch.equal(head, state["embedding.token"]):
        raise ValueError(f"{file}: lm_head.weight is not the token embedding; only a tied head is supported")
    if weights:
        raise ValueError(f"{file}: the model of config.json has no {', '.join(sorted(weights)[:2])}")
    model.load_state_dict(state, assign=True)
    return model.eval()


def is_gpt2(folder):
    """Say whether the folder holds a GPT-2 of transformers, by its config.json."""
    config = as_path(folder) / "config.json"
    return config.is_file() and b'"model_type"' in config.read_bytes()
