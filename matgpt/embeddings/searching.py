"""Search among embeddings: a first look at few numbers or bits of each, then the shortlist again with all."""

from typing import NamedTuple

import numpy as np
import torch

from ..config import positive
from .pooling import cut

PRECISIONS = {"float32": 32, "int8": 8, "binary": 1}  # bits that a dimension takes
ROWS = 2**15  # documents that are looked at together, so that what is unpacked of them stays in the cache


class Found(NamedTuple):
    """The k best documents of each query, best first: their positions and their scores, (Q, k) or (k,)."""

    positions: torch.Tensor
    scores: torch.Tensor


def numbers(name, x, shape):
    """x as a tensor on the CPU. ValueError, naming it, for what is none."""
    try:
        return torch.as_tensor(x, dtype=torch.float32).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name}={x!r:.40} must be numbers, {shape}") from None


class Index:
    """Embeddings (N, D), on the CPU, and what a first look reads of them: `dims` dimensions, at a precision.

    precision: "float32"; "int8", 255 steps over the range of each dimension; "binary", its sign, compared by
        how many agree (dims in eights). Raises ValueError for anything else.
    """

    def __init__(self, embeddings, dims=None, precision="float32"):
        self.embeddings = numbers("embeddings", embeddings, "(N, D)")
        shape = tuple(self.embeddings.shape)
        if len(shape) != 2 or not shape[0] or not self.embeddings.isfinite().all():
            raise ValueError(f"embeddings of shape {shape} must be finite numbers, (N, D)")
        self.dims = self.embeddings.size(1) if dims is None else positive("dims", dims)
        if precision not in PRECISIONS or precision == "binary" and self.dims % 8:
            raise ValueError(
                f"precision={precision!r} with dims={self.dims} must be one of {', '.join(PRECISIONS)}, and "
                "binary takes dims in eights"
            )
        self.precision, self.embeddings = precision, cut(self.embeddings, self.embeddings.size(1))
        first = cut(self.embeddings, self.dims)
        if precision == "int8":
            self.scale = (first.abs().amax(0) / 127).clamp(min=1e-12)
            first = (first / self.scale).round().to(torch.int8)
        self.first = self._bits(first) if precision == "binary" else first.contiguous()

    def __len__(self):
        return len(self.embeddings)

    @property
    def bytes(self):
        """Bytes of a document that the first look reads."""
        return self.dims * PRECISIONS[self.precision] // 8

    def _bits(self, x):
        """Signs of x (N, dims), packed into as long words as they fill: (N, words), numpy."""
        bits = np.packbits((x > 0).numpy(), axis=1)
        return bits.view(
            next(t for t in (np.uint64, np.uint32, np.uint16, np.uint8) if not bits.shape[1] % t().nbytes)
        )

    def look(self, query):
        """Scores (Q, N) of the first look for whole queries (Q, D)."""
        query = cut(query, self.dims)
        if self.precision == "float32":
            return query @ self.first.T
        out = torch.empty(len(query), len(self), dtype=torch.float32)
        if self.precision == "int8":
            query = query * self.scale
            for start in range(0, len(self), ROWS):
                out[:, start : start + ROWS] = query @ self.first[start : start + ROWS].float().T
            return out
        for row, bits in zip(out, self._bits(query)):
            row.copy_(torch.from_numpy(np.bitwise_count(self.first ^ bits).sum(1, dtype=np.int16)))
        return 1 - out / (self.dims / 2)  # the share of bits that agree, from -1 to 1


def search(index, query, k=10, dims=None, shortlist=None, precision="float32"):
    """The k documents nearest to each query by cosine: a `Found` of positions and scores, best first.

    index: embeddings (N, D), or an `Index` of them, which keeps what a first look of its own dims reads.
    query: (Q, D), or (D,) for one.
    dims: dimensions of the first look; None: all.
    shortlist: how many documents the first look leaves, to be ranked again with all dimensions (2205.13147,
        section 4.3.1); None: the first look is all there is. A tie goes to whichever topk gives.
    precision: of the first look's documents, "float32", "int8" or "binary".
    Raises ValueError for a k, dims or shortlist that is no whole number of at least 1, and for other widths.
    """
    if not isinstance(index, Index):
        index = Index(index, dims, precision)
    query = numbers("query", query, "(Q, D) or (D,)")
    fits = query.dim() in (1, 2) and query.size(-1) == index.embeddings.size(1)
    if not fits or not query.isfinite().all():
        allowed = f"finite numbers, (Q, D) or (D,), D={index.embeddings.size(1)}"
        raise ValueError(f"query has shape {tuple(query.shape)}: allowed are {allowed}")
    queries, k = cut(query.reshape(-1, query.size(-1)), query.size(-1)), min(positive("k", k), len(index))
    n = k if shortlist is None else min(max(k, positive("shortlist", shortlist)), len(index))
    scores, positions = index.look(queries).topk(n, dim=1)
    if shortlist is not None:
        again = torch.einsum("qnd,qd->qn", index.embeddings[positions], queries)
        scores, order = again.topk(k, dim=1)
        positions = positions.gather(1, order)
    return Found(positions.view(*query.shape[:-1], k), scores.view(*query.shape[:-1], k))
