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
from .generation.writing import stream, write
from .measure.evaluation import agreement, evaluate
from .measure.shapes import best_size, frontier, lattice
from .model import MatryoshkaEmbeddingsGPT, MatryoshkaGPT
from .plot.slider import slider
from .ranges import between
from .sizes import Size
from .text.corpus import load_text, split
from .text.tokenizer import BPETokenizer, CharTokenizer
from .training.history import History
from .training.loop import DivergedError, train
from .training.loss import matryoshka_loss
from .training.nesting import nest

__all__ = [name for name, value in globals().items() if callable(value)]  # not the rooms
