"""Questions and the functions that answer them, from Python sources: a docstring, and the code."""

import ast
import hashlib
import re
import sysconfig
import textwrap
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

from ..config import positive
from ..files.atomic import as_path

STDLIB = "python-stdlib"
SKIPPED = {"test", "tests", "idlelib", "lib2to3", "encodings", "site-packages", "dist-packages"}
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef


def words(text):
    """Lower-case words and numbers of a text, names split at capitals and underscores."""
    return [word.lower() for word in re.findall(r"[^\W\d_]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])|\d+", text)]


@dataclass
class Pairs:
    """N questions and the documents that answer them, with each function's dotted name and its top module."""

    queries: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)

    def __len__(self):
        return len(self.queries)

    def __add__(self, other):
        return Pairs(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))

    def take(self, positions):
        """The pairs at these positions."""
        return Pairs(*([column[i] for i in positions] for column in vars(self).values()))

    def plain(self):
        """The same pairs with texts as their `words` alone, which is what BM25 and the embeddings read."""
        plain = lambda texts: [" ".join(words(text)) for text in texts]
        return Pairs(plain(self.queries), plain(self.documents), self.names, self.modules)

    def digest(self):
        """What tells one set of pairs from another: a SHA-256, 16 digits of it."""
        return hashlib.sha256(repr(vars(self)).encode(errors="replace")).hexdigest()[:16]

    def split(self, held_out=0.2, seed=0):
        """(train, test): a share of the modules, drawn at random, is test; train has no copy of it.

        Raises ValueError where a part would be empty.
        """
        modules, rng = sorted(set(self.modules)), np.random.default_rng(positive("seed", seed, 0))
        n = round(held_out * len(modules)) if isinstance(held_out, float) and 0 < held_out < 1 else 0
        if not 0 < n < len(modules):
            found = f"{len(modules)} modules (files and folders at the top of the source)"
            raise ValueError(f"held_out={held_out!r} of {found} leaves a part empty: give another share")
        drawn = {modules[i] for i in rng.permutation(len(modules))[:n]}
        test = self.take([i for i, module in enumerate(self.modules) if module in drawn])
        return self.without(test), test

    def set_aside(self, n, seed=0):
        """(the others, n pairs drawn at random, at least one)."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(order[max(1, n) :]), self.take(order[: max(1, n)])

    def without(self, test):
        """The pairs that share with `test` no module, no question about a function of that name, no code."""
        asks = lambda pairs: [(q, name.rpartition(".")[2]) for q, name in zip(pairs.queries, pairs.names)]
        modules, known = set(test.modules), set(asks(test))
        rows = zip(self.modules, asks(self), copied(self.documents, test.documents))
        held = [module in modules or ask in known or copy for module, ask, copy in rows]
        return self.take([i for i in range(len(self)) if not held[i]])


def copied(documents, others):
    """Whether one of the others holds at least half of a document's runs of five words: N bools."""
    runs = lambda text: {tuple(w[i : i + 5]) for w in [words(text)] for i in range(max(1, len(w) - 4))}
    where, out = defaultdict(list), []
    for i, other in enumerate(others):
        for run in runs(other):
            where[run].append(i)
    for document in documents:
        mine = runs(document)
        hits = Counter(i for run in mine for i in where.get(run, ()))
        out.append(bool(hits) and max(hits.values()) >= len(mine) / 2)
    return out


def load_pairs(source=STDLIB, queries="docstrings"):
    """Pairs from the running Python's own library ("python-stdlib") or from a folder of sources.

    queries: "docstrings": a docstring's first sentence against the function's code without it, of at least 20
        and 80 characters; "names": of functions without one, the name's words against the code without name.
    Tests, `idlelib`, `lib2to3`, `encodings` and installed packages are left out. Files are parsed, not run;
    one that does not parse is passed over. The same code occurs once.
    Raises ValueError for a folder that holds no such function, or for a Python without its sources.
    """
    if queries not in ("docstrings", "names"):
        raise ValueError(f'queries={queries!r} must be "docstrings" or "names"')
    root = as_path(sysconfig.get_paths()["stdlib"] if source == STDLIB else source)
    found = {}  # by code
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED.intersection(parts) or any(part.startswith("test_") for part in parts):
            continue
        try:
            source_text = path.read_text("utf-8")  # lines end as `ast` counts them
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(source_text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, OSError):
            continue
        dotted = ".".join(part for part in parts if part != "__init__")
        for name, query, code in _functions(tree, source_text.split("\n"), queries, dotted):
            if words(query):
                found.setdefault(code, (query, code, name, parts[0]))
    if not found:
        what = f"with{'' if queries == 'docstrings' else 'out'} a docstring"
        raise ValueError(f"{root} holds no Python source with functions {what}: give a folder of sources")
    return Pairs(*map(list, zip(*found.values())))


def _functions(node, lines, queries, prefix):
    """(dotted name, question, code) of the functions below a node of the tree, in the order of the file."""
    for child in ast.iter_child_nodes(node):
        name = f"{prefix}.{child.name}" if isinstance(child, (*FUNCTIONS, ast.ClassDef)) else prefix
        if isinstance(child, FUNCTIONS):
            doc, first = ast.get_docstring(child), child.body[0]
            keep = range(child.lineno - 1, child.end_lineno)
            if doc:  # on its own lines, or those of the whole function
                keep = [i for i in keep if not first.lineno - 1 <= i < first.end_lineno]
            code = textwrap.dedent("\n".join(lines[i] for i in keep)).strip()
            if queries == "names":
                query, code = " ".join(words(child.name)), re.sub(rf"\b{child.name}\b", "_", code)
                if not doc and len(query) >= 6 and not child.name.startswith("__") and len(code) >= 80:
                    yield name, query, code
            elif doc and len(doc) >= 20 and len(code) >= 80:
                paragraph = " ".join(re.split(r"\n\s*\n", doc)[0].split())
                yield name, re.split(r"(?<=[.!?])\s", paragraph)[0], code
        yield from _functions(child, lines, queries, name)
