"""How well is found what was asked for: BM25, ranks, measures, and what else embeddings can be cut by.

The document that answers question i is the i-th, so scores (Q, N) have their right answers on the diagonal.
"""

from collections import Counter

import torch

from .pairs import words
from .pooling import cut
from .searching import PRECISIONS, Index, search


class BM25:
    """Okapi BM25 (Robertson and Zaragoza 2009) over the `words` of N documents, with Lucene's idf."""

    def __init__(self, documents, k1=1.2, b=0.75):
        counts = [Counter(words(document)) for document in documents]
        self.ids = {word: i for i, word in enumerate(sorted(set().union(*counts)))}
        length = torch.tensor([count.total() for count in counts]).float()
        self.weights = torch.zeros(len(self.ids), len(counts))  # (words, N): what a word of a query adds
        for n, count in enumerate(counts):
            rows = torch.tensor([self.ids[word] for word in count], dtype=torch.long)
            self.weights[rows, n] = torch.tensor(list(count.values())).float()
        df = (self.weights > 0).sum(1, keepdim=True)
        idf = torch.log1p((len(counts) - df + 0.5) / (df + 0.5))
        slack = k1 * (1 - b + b * length / length.mean().clamp(min=1))
        self.weights *= idf * (k1 + 1) / (self.weights + slack)

    def __call__(self, queries):
        """Scores (Q, N) of the documents for each question."""
        rows = [[self.ids[word] for word in words(query) if word in self.ids] for query in queries]
        return torch.stack([self.weights[row].sum(0) for row in rows])


def ranks(scores):
    """The rank (Q,), from 1, of the i-th document for question i; of equals the earlier document leads."""
    own = scores.diagonal()[:, None]
    before = torch.ones_like(scores, dtype=torch.bool).tril(-1)
    return 1 + ((scores > own) | ((scores == own) & before)).sum(1)


def measures(ranks):
    """Recall in the first 1 and 10, MRR@10 and nDCG@10, of the ranks (Q,) of each question's answer."""
    ranks = ranks.double()
    near = (ranks <= 10).double()
    return {
        "recall@1": (ranks <= 1).double().mean().item(),
        "recall@10": near.mean().item(),
        "MRR@10": (near / ranks).mean().item(),
        "nDCG@10": (near / torch.log2(1 + ranks)).mean().item(),
    }


def fuse(*scores, k=60):
    """Reciprocal rank fusion (Cormack 2009) of several scores (Q, N): the sum of 1 / (k + rank), (Q, N)."""
    rank = lambda s: s.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
    return sum(1 / (k + rank(s).double()) for s in scores)


def pca(documents, queries):
    """Both (N, D) turned into the documents' principal axes, most variance first; `cut` keeps the best."""
    mean = documents.mean(0)
    axes = torch.linalg.eigh((documents - mean).T @ (documents - mean)).eigenvectors.flip(1)  # (D, D)
    return tuple((x - mean) @ axes for x in (documents, queries))


def by_dimension(documents, queries, dims, what="recall@10"):
    """A measure of embeddings (N, D) and (N, D) cut to their first d dimensions, for each d of dims."""
    return [measures(ranks(cut(queries, d) @ cut(documents, d).T))[what] for d in dims]


def searches(documents, queries, dims, shortlist):
    """{precision of the first look: {d: (bytes a document, multiply-adds a query, recall@10)}}.

    "all" is the exact search. 64 bits, compared and counted at once, are put down as one multiply-add; signs
    are looked at where d is a multiple of 8.
    """
    N, D = documents.shape
    recall = lambda found: (found.positions == torch.arange(N)[:, None]).any(1).double().mean().item()
    out = {precision: {} for precision in PRECISIONS}
    for precision, points in out.items():
        for d in (d for d in dims if precision != "binary" or d % 8 == 0):
            index = Index(documents, d, precision)
            work = N * (-(-d // 64) if precision == "binary" else d) + min(shortlist, N) * D
            points[d] = index.bytes, work, recall(search(index, queries, shortlist=shortlist))
    return {**out, "all": (4 * D, N * D, recall(search(documents, queries)))}
