"""Which tokens are close at each size: groups, neighbours, and kinds of pairs that grow closer or part.

Token embeddings are (V, d), as `model.token_embeddings(size)` gives them; names are the V tokens as text.
"""

import string
from itertools import combinations

import numpy as np
import torch

from ..config import positive
from .pooling import cut

VOWELS = "aeiou"


def token_names(tokenizer):
    """The text of every token, V strings; a token that is only part of a character shows as "\ufffd"."""
    return [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]


def frequent(ids, vocab_size, at_least=30):
    """Tokens that occur at least so often in `ids`: the others hardly left where they were drawn at the start."""
    return np.flatnonzero(np.bincount(np.asarray(ids), minlength=vocab_size) >= at_least).tolist()


def char_groups(names, among=None):
    """Tokens (positions in `names`) that are vowels, capitals, digits and punctuation; `among` leaves only those."""
    kinds = {
        "vowels": VOWELS,
        "capitals": string.ascii_uppercase,
        "digits": string.digits,
        "punctuation": string.punctuation,
    }
    among = set(range(len(names)) if among is None else among)
    groups = {
        kind: [i for i, name in enumerate(names) if i in among and len(name) == 1 and name in members]
        for kind, members in kinds.items()
    }
    return {kind: group for kind, group in groups.items() if group}


def cosines(embeddings, d=None):
    """Cosine similarity between all tokens (V, V), by their first d dimensions (None: all)."""
    unit = cut(embeddings, embeddings.size(1) if d is None else d)
    return unit @ unit.T


def nearest_tokens(embeddings, token, d=None, k=8, among=None):
    """The k tokens nearest to one by cosine, itself left out, and their cosines: two lists, nearest first."""
    row = cosines(embeddings, d)[token]
    keep = torch.zeros(len(row), dtype=torch.bool)
    keep[list(range(len(row))) if among is None else among] = True
    keep[token] = False
    values, found = row.masked_fill(~keep, -torch.inf).topk(min(positive("k", k), int(keep.sum())))
    return found.tolist(), values.tolist()


def _joined(names, among, partners):
    """Pairs of `name` and whatever `partners` makes of it, where both are tokens."""
    at = {names[i]: i for i in (range(len(names)) if among is None else among)}
    return sorted(
        {
            (i, at[other])
            for name, i in at.items()
            for other in partners(name)
            if other in at and other != name
        }
    )


def char_pairs(names, among=None):
    """Kinds of pairs of characters: {kind: [(token, token), ...]}; kinds without a pair are left out.

    Plain kinds are all pairs in a group that counts of characters give away; subtle ones share a role or meaning.
    """
    groups = char_groups(names, among)
    brackets = dict(zip("([{<", ")]}>"))
    pairs = {
        "vowel, vowel": list(combinations(groups.get("vowels", []), 2)),
        "capital, capital": list(combinations(groups.get("capitals", []), 2)),
        "digit, digit": list(combinations(groups.get("digits", []), 2)),
        "letter, its capital": _joined(
            names, among, lambda c: [c.upper()] if c in string.ascii_lowercase else []
        ),
        "bracket, its partner": _joined(names, among, lambda c: [brackets[c]] if c in brackets else []),
    }
    return {kind: some for kind, some in pairs.items() if some}


def word_pairs(names, among=None):
    """The same for tokens of several characters (BPE): words as such, with a blank, a capital or an s."""
    word = lambda s: (
        len(s.strip()) > 1
        and s.strip().isascii()
        and s.strip().isalpha()
        and s == " " * (s[0] == " ") + s.strip()
    )
    words = [i for i in (range(len(names)) if among is None else among) if word(names[i])]
    bare = lambda s: s if s[0] != " " else ""
    capital = lambda s: " " * (s[0] == " ") + s.strip().capitalize()
    pairs = {
        "blank + word, blank + word": list(combinations([i for i in words if names[i][0] == " "], 2)),
        "bare, bare": list(combinations([i for i in words if names[i][0] != " "], 2)),
        "word, blank + word": _joined(names, words, lambda s: [" " + s] if bare(s) else []),
        "word, its capital": _joined(names, words, lambda s: [capital(s)] if s.islower() else []),
        "word, its plural": _joined(names, words, lambda s: [s + "s"]),
    }
    return {kind: some for kind, some in pairs.items() if some}


def pair_trends(embeddings, pairs, dims, among=None):
    """How close each kind of pair is at each number of dimensions.

    Returns {kind: {"mean", "excess", "se", "standing": one number for each of dims, "change", "change_se"}}
    and, under "all pairs", the average over all pairs of the tokens `among` (None: every token).
    mean: cosine. excess: less that of all pairs at the same size. se: standard error of the excess over the pairs (as if
    independent, though pairs share tokens; nan for one pair). standing: the excess in standard deviations of all pairs, since
    cosines of fewer dimensions scatter more. change: excess at the last size less that at the first, pair by pair.
    """
    tokens = list(range(len(embeddings)) if among is None else among)
    pairs = {"all pairs": list(combinations(tokens, 2)), **pairs}
    values = {kind: [] for kind in pairs}  # (pairs,) for each of dims
    for d in dims:
        cosine = cosines(embeddings, d)
        for kind, some in pairs.items():
            i, j = torch.tensor(some).T
            values[kind].append(cosine[i, j])
    every = torch.stack(values["all pairs"]).double()  # (dims, pairs)
    out = {}
    for kind, some in values.items():
        some = torch.stack(some).double()
        excess = some - every.mean(1, keepdim=True)
        change = excess[-1] - excess[0]
        error = lambda x: (x.std(-1) / x.size(-1) ** 0.5) if x.size(-1) > 1 else x.mean(-1) * torch.nan
        out[kind] = {
            "mean": some.mean(1).tolist(),
            "excess": excess.mean(1).tolist(),
            "se": error(excess).tolist(),
            "standing": (excess.mean(1) / every.std(1)).tolist(),
            "pairs": some.size(1),
            "change": change.mean().item(),
            "change_se": error(change).item(),
        }
    return out


def what_changed(trends, dims):
    """A sentence for each kind of pair: does it draw together or part, beside all pairs, by two standard errors?"""
    lines = []
    for kind, trend in trends.items():
        if kind == "all pairs":
            lines.append(
                f"All pairs: mean cosine {trend['mean'][0]:+.2f} at {dims[0]} dimensions, "
                f"{trend['mean'][-1]:+.2f} at {dims[-1]}."
            )
            continue
        clear = abs(trend["change"]) > 2 * trend["change_se"]
        verdict = ("draws together" if trend["change"] > 0 else "parts") if clear else "shows no clear trend"
        lines.append(
            f"{kind} ({trend['pairs']} pairs): {verdict}; beside all pairs {trend['excess'][0]:+.2f} at {dims[0]}, "
            f"{trend['excess'][-1]:+.2f} at {dims[-1]} (change {trend['change']:+.2f} ± {trend['change_se']:.2f}); "
            f"in standard deviations of all pairs {trend['standing'][0]:+.1f}, then {trend['standing'][-1]:+.1f}."
        )
    return lines
