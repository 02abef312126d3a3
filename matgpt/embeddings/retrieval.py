"""Retrieval by nearest neighbour against dimension: the central figure of MRL (2205.13147, section 4.2).

Embeddings are rows of length one, (N, D) of an index and (Q, D) of queries, so that a product is a cosine.
"""

import re

import numpy as np
import torch

from ..config import positive
from .pooling import cut


def passages(topics, length=512):
    """Passages of `length` characters and their labels, from a dict of topic -> text.

    A paragraph that stands in several topics (four in ten characters of the Python documentation do) is kept
    in the shortest of them alone, and white space becomes one blank: else the search would be for copies, whose
    label is a matter of chance. What is left of a topic behind its last whole passage is dropped, and so is a
    topic with fewer than two passages. Returns (list of str, labels (N,) int64, names of the labels).
    """
    length, seen, kept = positive("length", length), set(), {}
    for name in sorted(topics, key=lambda name: (len(topics[name]), name)):
        paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", topics[name])]
        paragraphs = [p for p in dict.fromkeys(paragraphs) if p and p not in seen]
        seen.update(paragraphs)
        text = " ".join(paragraphs)
        pieces = [text[i : i + length] for i in range(0, len(text) - length + 1, length)]
        if len(pieces) >= 2:
            kept[name] = pieces
    names = sorted(kept)
    labels = np.repeat(np.arange(len(names)), [len(kept[name]) for name in names])
    return [piece for name in names for piece in kept[name]], torch.from_numpy(labels), names


def halves(labels, seed=0):
    """Positions of index and of queries: of each label a random half, the odd one to the index."""
    rng = np.random.default_rng(seed)
    index, queries = [], []
    for label in labels.unique():
        where = rng.permutation(np.flatnonzero(labels.numpy() == label.item()))
        middle = (len(where) + 1) // 2
        index.extend(where[:middle])
        queries.extend(where[middle:])
    return torch.tensor(index), torch.tensor(queries)


def token_counts(rows, vocab_size):
    """How often each token occurs in each text, at length one (N, V): the opponent that needs no training."""
    return cut(
        torch.stack([torch.bincount(torch.as_tensor(row), minlength=vocab_size) for row in rows]).float(),
        vocab_size,
    )


def nearest(index, queries, k=1):
    """Positions (Q, k) of the k nearest rows of `index` (N, d) for each of `queries` (Q, d), nearest first."""
    return (queries @ index.T).topk(min(k, len(index)), dim=1).indices


def accuracy(found, index_labels, query_labels):
    """Share of queries whose nearest row, `found` (Q,) or the first column of (Q, k), has their label."""
    found = found if found.dim() == 1 else found[:, 0]
    return (index_labels[found] == query_labels).float().mean().item()


def chance(index_labels, query_labels):
    """Accuracy of drawing a row of the index blindly, and of always naming its most frequent label."""
    share = torch.bincount(index_labels, minlength=int(query_labels.max()) + 1) / len(index_labels)
    return share[query_labels].mean().item(), (query_labels == share.argmax()).float().mean().item()


def center(index, queries):
    """Both without the mean of the index, at length one again: the direction that all texts share says nothing."""
    mean = index.mean(0)
    return tuple(cut(x - mean, x.size(1)) for x in (index, queries))


def pca(index, queries):
    """Both turned into the principal axes of the index, most variance first; `cut` then keeps the best d."""
    mean = index.mean(0)
    axes = torch.linalg.svd(index - mean, full_matrices=False).Vh  # (min(N, D), D)
    return tuple((x - mean) @ axes.T for x in (index, queries))


def adaptive(index, queries, d, shortlist):
    """Shortlist with the first d dimensions, rank again with all D (2205.13147, section 4.3.1).

    Returns the nearest row (Q,) and the multiply-adds of one query: N d + shortlist D, against N D for all.
    """
    N, D = index.shape
    some = nearest(cut(index, d), cut(queries, d), positive("shortlist", shortlist))  # (Q, shortlist)
    again = torch.einsum("qkd,qd->qk", index[some], queries)
    found = some.gather(1, again.argmax(1, keepdim=True))[:, 0]
    return found, N * d + some.size(1) * D


def overlap(found, others):
    """Mean share of neighbours that two lists (Q, k) have in common, in whatever order."""
    return (found[:, :, None] == others[:, None, :]).any(-1).float().mean().item()


def by_dimension(index, queries, index_labels, query_labels, dims):
    """Accuracy with the first d dimensions of embeddings (N, D) and (Q, D), for each d of dims."""
    return [accuracy(nearest(cut(index, d), cut(queries, d)), index_labels, query_labels) for d in dims]


def overlaps(index, queries, dims, k=10):
    """Share of the k nearest rows that two numbers of dimensions agree on: rows (dims x dims) of shares."""
    found = [nearest(cut(index, d), cut(queries, d), k) for d in dims]
    return [[overlap(a, b) for b in found] for a in found]
