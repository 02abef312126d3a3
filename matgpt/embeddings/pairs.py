"""Pairs of a question and the text that answers it: one's own, or functions of Python sources."""

import ast
import hashlib
import re
import sysconfig
import textwrap
import warnings
from dataclasses import dataclass

import numpy as np

from ..files.atomic import as_path
from ..sizes import number, positive

STDLIB = "python-stdlib"
SKIPPED = {"test", "tests", "idlelib", "lib2to3", "encodings", "site-packages", "dist-packages"}


def words(text):
    """Return the lower-case words and numbers of a text; names are split at capitals and underscores."""
    return [word.lower() for word in re.findall(r"[^\W\d_]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])|\d+", text)]


@dataclass
class Pairs:
    """N questions, the N documents that answer them, and, for functions, names and top-level modules."""

    queries: list[str]
    documents: list[str]
    names: list[str]
    modules: list[str]

    def __len__(self):
        return len(self.queries)

    def __add__(self, other):
        return Pairs(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))

    def take(self, positions):
        """Return the pairs at these positions."""
        return Pairs(*([column[i] for i in positions] for column in vars(self).values()))

    def plain(self):
        """Return the pairs with each text reduced to its `words`, as BM25 reads it."""
        queries, documents = ([" ".join(words(text)) for text in x] for x in (self.queries, self.documents))
        return Pairs(queries, documents, self.names, self.modules)

    def digest(self):
        """Return 16 hex digits of a SHA-256 of all texts."""
        return hashlib.sha256(repr(vars(self)).encode(errors="replace")).hexdigest()[:16]

    def split(self, held_out=0.2, seed=0):
        """Return (train, test): test is a random share of the modules, train the rest without copies of test.

        Raises ValueError if a part would be empty.
        """
        modules, held_out = sorted(set(self.modules)), number("held_out", held_out, "(0, 1)")
        order = np.random.default_rng(positive("seed", seed, 0)).permutation(len(modules))
        drawn = {modules[i] for i in order[: round(held_out * len(modules))]}
        test = self.take([i for i, module in enumerate(self.modules) if module in drawn])
        train = self.without(test)
        if not train or not test:
            raise ValueError(f"held_out={held_out!r} of {len(modules)} modules leaves a part empty")
        return train, test

    def without(self, test):
        """Return the pairs that share no module, no copied document and no question with `test`.

        A copy shares at least half of its runs of five words. Questions may agree if the functions' names
        differ, since many docstrings are alike.
        """

        def questions(pairs):
            return [(query, name.rpartition(".")[2]) for query, name in zip(pairs.queries, pairs.names)]

        modules, asked = {*test.modules} - {""}, {*questions(test)}
        known = set().union(*map(_runs, test.documents))
        rest = []
        for i, question in enumerate(questions(self)):
            runs = _runs(self.documents[i])
            copied = len(runs & known) >= len(runs) / 2
            if not copied and question not in asked and self.modules[i] not in modules:
                rest.append(i)
        return self.take(rest)


def _runs(text):
    """Return the set of all runs of five words of a text."""
    all_words = words(text)
    return {tuple(all_words[i : i + 5]) for i in range(max(1, len(all_words) - 4))}


def as_pairs(name, pairs):
    """Return `pairs` as Pairs. Raises ValueError unless they are, or are two lists of N texts each."""
    if isinstance(pairs, Pairs):
        return pairs
    try:
        queries, documents = ([] if isinstance(texts, str) else list(texts) for texts in pairs)
    except (TypeError, ValueError):
        queries, documents = [], []
    are_texts = all(isinstance(text, str) and text for text in queries + documents)
    if not queries or len(queries) != len(documents) or not are_texts:
        expected = "Pairs or two lists of equal length, of texts that are not empty"
        raise ValueError(f"{name}={pairs!r:.60} must be {expected}")
    unnamed = [""] * len(queries)
    return Pairs(queries, documents, unnamed, unnamed)


def load_pairs(source=STDLIB, queries="docstrings"):
    """Load pairs from the library of the running Python ("python-stdlib"), or from a folder of sources.

    queries: "docstrings": the question is the first sentence of a docstring of 20 characters or more, the
        answer the rest of the code, 80 or more. "names": for functions without one, the question is the words
        of the name, 6 characters or more and not such as `__init__`, the answer the code without the name.
    Files are parsed, not run. Leaves out those that do not parse, tests, installed packages, `idlelib`,
    `lib2to3`, `encodings`, and code that occurs twice.
    Raises ValueError for a folder that is missing or holds no such function.
    """
    if queries not in ("docstrings", "names"):
        raise ValueError(f'queries={queries!r} must be "docstrings" or "names"')
    root = as_path(sysconfig.get_paths()["stdlib"] if source == STDLIB else source)
    if not root.is_dir():
        raise ValueError(f'there is no folder {str(root)!r}: give a folder of sources, or "{STDLIB}"')
    pairs = {}  # {code: (question, code, name, module)}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED.intersection(parts) or any(part.startswith("test_") for part in parts):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        try:
            text = path.read_text("utf-8-sig")  # splits lines as `ast` counts them
            with warnings.catch_warnings(action="ignore"):
                functions = list(_functions(ast.parse(text), module))
        except (ValueError, SyntaxError, RecursionError, MemoryError, OSError):
            continue
        lines = text.split("\n")
        for name, function in functions:
            question, code = _pair(function, lines, queries)
            if words(question):
                pairs.setdefault(code, (question, code, name, parts[0]))
    if not pairs:
        raise ValueError(f"{root} holds no Python source with functions for queries={queries!r}")
    return Pairs(*map(list, zip(*pairs.values())))


def _functions(node, name):
    """Yield (dotted name, node) of each function in a syntax tree, in the order of the file."""
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        own = f"{name}.{child.name}" if is_function or isinstance(child, ast.ClassDef) else name
        if is_function:
            yield own, child
        if not isinstance(child, ast.expr):
            yield from _functions(child, own)


def _pair(function, lines, queries):
    """Return (question, code) of a function; the question is "" if the function makes no pair."""
    docstring, first, start = ast.get_docstring(function) or "", function.body[0], function.lineno
    code = lines[start - 1 : function.end_lineno]
    if docstring:  # it takes whole lines; in a function of one line, all of it
        del code[first.lineno - start : first.end_lineno - start + 1]
    code = textwrap.dedent("\n".join(code)).strip()
    if queries == "docstrings":
        first_paragraph = " ".join(re.split(r"\n\s*\n", docstring)[0].split())
        question = re.split(r"(?<=[.!?])\s", first_paragraph)[0]
        fits = len(docstring) >= 20
    else:
        question, code = " ".join(words(function.name)), re.sub(rf"\b{function.name}\b", "_", code)
        fits = not docstring and len(question) >= 6 and not function.name.startswith("__")
    return (question if fits and len(code) >= 80 else ""), code
