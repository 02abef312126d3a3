"""Embeddings leave as a folder that the library sentence-transformers loads (which is not needed for it)."""

import copy
import dataclasses

import torch.nn.functional as F
from torch import nn

from ..files.atomic import as_path
from ..files.checkpoint import replace
from ..files.gpt2 import COMPANIONS, gpt2_files
from ..generation.writing import check_vocabulary
from ..text.tokenizer import BPETokenizer

PAD = "<|pad|>"


def export_sentence_transformers(model, path, tokenizer, overwrite=False):
    """Write a model, or a doll sliced out, so that `SentenceTransformer(path, truncate_dim=64)` loads it.

    `encode(texts, normalize_embeddings=True)` gives what `embed` gives, cut to any number of dimensions, for
    texts of at most block_size tokens; the library cuts longer ones there. A token to pad with joins the
    vocabulary. Shapes that GPT-2 does not have are padded with zeros, which may also extend the embeddings.
    Raises ValueError unless the tokenizer is a BPETokenizer of the model's vocabulary, or, without
    `overwrite`, if other files would be replaced; OSError if the folder cannot be written.
    """
    path = as_path(path)
    if not isinstance(tokenizer, BPETokenizer):
        raise ValueError(f"tokenizer={tokenizer!r} must be a BPETokenizer")
    check_vocabulary(model.config, tokenizer)
    if PAD not in tokenizer.special_tokens:
        tokenizer = BPETokenizer(tokenizer.tokens, [*tokenizer.special_tokens, PAD])
        model = copy.deepcopy(model)
        model.config = dataclasses.replace(model.config, vocab_size=tokenizer.vocab_size)
        model.embedding.token = nn.Parameter(F.pad(model.embedding.token.detach(), (0, 0, 0, 1)))
    files = gpt2_files(model, path, tokenizer=tokenizer)
    files["tokenizer_config.json"]["pad_token"] = PAD
    types = "sentence_transformers.models."
    files["modules.json"] = [
        {"idx": 0, "name": "0", "path": "", "type": f"{types}Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{types}Pooling"},
    ]
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    files["1_Pooling/config.json"] = pooling | {"word_embedding_dimension": files["config.json"]["n_embd"]}
    files["sentence_bert_config.json"] = {"max_seq_length": model.config.block_size, "do_lower_case": False}
    files["config_sentence_transformers.json"] = {"similarity_fn_name": "cosine"}
    replace(path, files, overwrite, COMPANIONS)
