"""matgpt: one GPT that contains a set of smaller GPTs, and lets any of them be sliced out."""

import sys

if sys.version_info < (3, 11):
    raise ImportError(f"matgpt needs Python 3.11 or later; this is {sys.version.split()[0]}")

from importlib import import_module
from importlib.util import find_spec

__version__ = "0.1.0"

MODULES = {  # where each public name lives; a module, and PyTorch with it, is imported when it is first used
    "config": ("GPTConfig",),
    "embeddings.contrastive": ("train_embeddings",),
    "embeddings.exporting": ("export_sentence_transformers",),
    "embeddings.pairs": ("load_pairs",),
    "embeddings.pooling": ("embed",),
    "embeddings.retrieval": ("search",),
    "files.checkpoint": ("load", "save"),
    "files.gpt2": ("export_gpt2", "import_gpt2"),
    "generation.writing": ("stream", "write"),
    "measure.evaluation": ("agreement", "evaluate"),
    "measure.shapes": ("best_size", "frontier", "lattice"),
    "model": ("MatryoshkaEmbeddingsGPT", "MatryoshkaGPT"),
    "plot.slider": ("slider",),
    "ranges": ("between",),
    "sizes": ("Size",),
    "text.corpus": ("load_text", "split"),
    "text.tokenizer": ("BPETokenizer", "CharTokenizer"),
    "training.history": ("History",),
    "training.loop": ("DivergedError", "train"),
    "training.loss": ("matryoshka_loss",),
    "training.nesting": ("nest",),
}
__all__ = [name for names in MODULES.values() for name in names]


def __getattr__(name):
    """Import a public name, or a module such as `matgpt.plot`, when it is first asked for."""
    module = next((module for module, names in MODULES.items() if name in names), None)
    if module:
        value = getattr(import_module(f".{module}", __name__), name)
    elif find_spec(f"{__name__}.{name}"):
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
