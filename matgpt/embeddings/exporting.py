"""Export a model as a folder that the library sentence-transformers loads; the library is not needed here."""

import copy
import dataclasses

import torch
from torch import nn

from ..files.atomic import as_path
from ..files.checkpoint import replace, unwrapped
from ..files.gpt2 import COMPANIONS, gpt2_files
from ..text.tokenizer import BPETokenizer

PAD = "<|pad|>"
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def export_sentence_transformers(model, path, tokenizer, overwrite=False):
    """Write a model, or a sliced doll, as `SentenceTransformer(path, truncate_dim=64)` loads it.

    `encode(texts, normalize_embeddings=True)` then returns what `embed` returns, cut to any number of
    dimensions, but cuts texts after block_size tokens, where `embed` reads on. The vocabulary gains a token
    for padding. For a Size that GPT-2 cannot express, weights and embeddings are padded with zeros.
    overwrite: replace files of these names in the folder.
    Raises ValueError for anything but a BPETokenizer of the model's vocabulary, for weights that are not
    finite, or, without `overwrite`, if other files would be replaced; OSError if nothing can be written.
    """
    path, model = as_path(path), unwrapped(model)[0]
    if not isinstance(tokenizer, BPETokenizer) or tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"tokenizer={tokenizer!r} must be a BPETokenizer of the model's {model.config.vocab_size} tokens"
        )
    if PAD not in tokenizer.special_tokens:
        tokenizer = BPETokenizer(tokenizer.tokens, [*tokenizer.special_tokens, PAD])
        model = copy.deepcopy(model)
        model.config = dataclasses.replace(model.config, vocab_size=tokenizer.vocab_size)
        token = model.embedding.token.detach()
        model.embedding.token = nn.Parameter(torch.cat([token, torch.zeros_like(token[:1])]))
    files = gpt2_files(model, tokenizer=tokenizer)
    files["tokenizer_config.json"]["pad_token"] = PAD
    files["modules.json"] = MODULES
    files["sentence_bert_config.json"] = {"max_seq_length": model.config.block_size, "do_lower_case": False}
    files["config_sentence_transformers.json"] = {"similarity_fn_name": "cosine"}
    files["1_Pooling/config.json"] = {
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "word_embedding_dimension": files["config.json"]["n_embd"],
    }
    replace(path, files, overwrite, COMPANIONS)
