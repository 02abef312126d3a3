"""matgpt: one GPT that holds a set of smaller GPTs, each of which can be sliced out."""
from .config import GPTConfig, Size
from .model import MatryoshkaEmbeddingsGPT, MatryoshkaGPT
from .training import DivergedError, History, evaluate, matryoshka_loss, train
from .frontier import best_size, frontier, lattice
from .checkpoint import load, save
from .generation import stream
from .embed import embed
from .agreement import agreement
