"""matgpt: one GPT that holds a set of smaller GPTs, each of which can be sliced out."""

import sys

if sys.version_info < (3, 11):
    raise ImportError(f"matgpt needs Python 3.11 or later; this is {sys.version.split()[0]}")

from .config import GPTConfig
from .embeddings.contrastive import train_embeddings
from .embeddings.exporting import export_sentence_transformers
from .embeddings.pairs import load_pairs
from .embeddings.pooling import embed
from .embeddings.searching import search
from .files.checkpoint import load, save
from .files.gpt2 import export_gpt2, import_gpt2
from .generation.writing import stream
from .measure.agreement import agreement
from .measure.evaluation import evaluate
from .measure.shapes import best_size, frontier, lattice
from .model import MatryoshkaEmbeddingsGPT, MatryoshkaGPT
from .plot.slider import slider
from .ranges import between
from .sizes import Size
from .text.corpus import load_text, split
from .text.tokenizer import BPETokenizer, CharTokenizer
from .training.history import History
from .training.loop import train
from .training.loss import matryoshka_loss
from .training.nesting import nest
from .training.run import DivergedError

__all__ = [
    "GPTConfig",
    "Size",
    "between",
    "train_embeddings",
    "export_sentence_transformers",
    "load_pairs",
    "embed",
    "search",
    "load",
    "save",
    "export_gpt2",
    "import_gpt2",
    "stream",
    "agreement",
    "evaluate",
    "best_size",
    "frontier",
    "lattice",
    "MatryoshkaEmbeddingsGPT",
    "MatryoshkaGPT",
    "slider",
    "load_text",
    "split",
    "BPETokenizer",
    "CharTokenizer",
    "History",
    "DivergedError",
    "train",
    "matryoshka_loss",
    "nest",
]
