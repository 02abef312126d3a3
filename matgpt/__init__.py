"""matgpt: one GPT that holds a set of smaller GPTs, each of which can be sliced out."""
from .agreement import agreement
from .checkpoint import load, save
from .config import GPTConfig, Size
from .corpus import load_text, split
from .embed import embed
from .frontier import best_size, frontier, lattice
from .generation import stream
from .model import MatryoshkaEmbeddingsGPT, MatryoshkaGPT
from .progress import slider
from .tokenizer import BPETokenizer, CharTokenizer
from .training import DivergedError, History, evaluate, matryoshka_loss, train
from .gpt2 import export_gpt2, import_gpt2
