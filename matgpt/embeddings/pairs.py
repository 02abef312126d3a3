"""Pairs of a question and the text that answers it: one's own, or functions of Python sources."""

import ast
import hashlib
import re
import sysconfig
import textwrap
import warnings
from dataclasses import dataclass

import numpy as np

from ..config import positive
from ..files.atomic import as_path

STDLIB = "python-stdlib"
SKIPPED = {"test", "tests", "idlelib", "lib2to3", "encodings", "site-packages", "dist-packages"}
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef


def words(text):
    """Return the lower-case words and numbers of a text; names are split at capitals and underscores."""
    return [word.lower() for word in re.findall(r"[^\W\d_]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])|\d+", text)]


@dataclass
class Pairs:
    """N questions (`queries`) and the N documents that answer them, as lists of texts.

    names, modules: the dotted names of functions and their top-level modules, which `split` and `without`
        compare; left out, each is "".
    Raises ValueError for lists of unequal lengths, and for an empty text or anything but a string.
    """

    queries: list[str]
    documents: list[str]
    names: list[str] | None = None
    modules: list[str] | None = None

    def __post_init__(self):
        for name, texts in vars(self).items():
            if texts is None and name in ("names", "modules"):
                texts = [""] * len(self.queries)
            if not hasattr(texts, "__iter__") or isinstance(texts, (str, bytes)):
                raise ValueError(f"{name}={texts!r:.60} must be a list of texts")
            texts = list(texts)
            setattr(self, name, texts)
            if len(texts) != len(self.queries):
                raise ValueError(f"{len(self.queries)} queries need as many {name}, not {len(texts)}")
            for i, text in enumerate(texts):
                if not isinstance(text, str) or not text and name in ("queries", "documents"):
                    raise ValueError(f"{name}[{i}]={text!r:.60} must be a text of at least one character")

    def __len__(self):
        return len(self.queries)

    def __add__(self, other):
        return Pairs(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))

    def take(self, positions):
        """Return the pairs at these positions."""
        return Pairs(*([column[i] for i in positions] for column in vars(self).values()))

    def plain(self):
        """Return the pairs with each text reduced to its `words`, as BM25 reads it."""
        texts = ([" ".join(words(text)) for text in column] for column in (self.queries, self.documents))
        return Pairs(*texts, self.names, self.modules)

    def digest(self):
        """Return 16 hex digits of a SHA-256 of all texts."""
        return hashlib.sha256(repr(vars(self)).encode(errors="replace")).hexdigest()[:16]

    def split(self, held_out=0.2, seed=0):
        """Return (train, test): test is a random share of the modules, train the rest without copies of test.

        Raises ValueError if a part would be empty.
        """
        modules, rng = sorted(set(self.modules)), np.random.default_rng(positive("seed", seed, 0))
        n = round(held_out * len(modules)) if isinstance(held_out, float) and 0 < held_out < 1 else 0
        if not 0 < n < len(modules):
            raise ValueError(
                f"held_out={held_out!r} of {len(modules)} modules leaves a part empty: give another share, "
                "or use set_aside, which draws single pairs"
            )
        drawn = {modules[i] for i in rng.permutation(len(modules))[:n]}
        test = self.take([i for i, module in enumerate(self.modules) if module in drawn])
        return self.without(test), test

    def set_aside(self, n, seed=0):
        """Return (the other pairs, n pairs drawn at random); n is raised to at least 1."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(order[max(1, n) :]), self.take(order[: max(1, n)])

    def without(self, test):
        """Return the pairs that share no module, no copied document and no question with `test`.

        A copy has at least half of its runs of five words in common with the documents of `test`. The same
        question about functions of different names stays: many docstrings are alike.
        """
        modules, asked = set(test.modules) - {""}, set(test._asked())
        known, rest = set().union(*map(_runs, test.documents)), []
        for i, question in enumerate(self._asked()):
            runs = _runs(self.documents[i])
            copied = len(runs & known) >= len(runs) / 2
            if not copied and question not in asked and self.modules[i] not in modules:
                rest.append(i)
        return self.take(rest)

    def _asked(self):
        """Return (question, name of the function without its module) of each pair."""
        return [(query, name.rpartition(".")[2]) for query, name in zip(self.queries, self.names)]


def as_pairs(name, pairs):
    """Return `pairs`, or the Pairs of (queries, documents). ValueError, naming it, for anything else."""
    if isinstance(pairs, Pairs):
        return pairs
    try:
        queries, documents = pairs
    except (TypeError, ValueError):
        raise ValueError(f"{name}={pairs!r:.60} must be Pairs or two lists, (queries, documents)") from None
    return Pairs(queries, documents)


def _runs(text):
    all_words = words(text)
    return {tuple(all_words[i : i + 5]) for i in range(max(1, len(all_words) - 4))}


def load_pairs(source=STDLIB, queries="docstrings"):
    """Load pairs from the library of the running Python ("python-stdlib"), or from a folder of sources.

    queries: "docstrings": the first sentence of a docstring asks, the code without the docstring answers;
        at least 20 and 80 characters. "names": for functions without a docstring, the words of the name ask,
        and the code without the name answers.
    Leaves out tests, `idlelib`, `lib2to3`, `encodings`, installed packages and repetitions of the same code.
    Files are parsed, not run; one that does not parse is skipped.
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
        try:
            text = path.read_text("utf-8")  # which counts lines as `ast` does
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, OSError):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        for name, function in _functions(tree, module):
            question, code = _pair(function, text.split("\n"), queries)
            if words(question):
                pairs.setdefault(code, (question, code, name, parts[0]))
    if not pairs:
        what = f"with{'' if queries == 'docstrings' else 'out'} a docstring"
        raise ValueError(f"{root} holds no Python source with functions {what}: give a folder of sources")
    return Pairs(*zip(*pairs.values()))


def _functions(tree, module):
    """Yield (dotted name, node) of each function of a syntax tree, in the order of the file."""
    nodes = [(tree, module)]
    while nodes:
        node, name = nodes.pop()
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            name = f"{name}.{node.name}"
        if isinstance(node, FUNCTIONS):
            yield name, node
        nodes += [(child, name) for child in reversed(list(ast.iter_child_nodes(node)))]


def _pair(function, lines, queries):
    """Return (question, code) of a function; the question is "" if the function makes no pair."""
    docstring, first = ast.get_docstring(function), function.body[0]
    positions = range(function.lineno - 1, function.end_lineno)
    if docstring:  # it takes whole lines; in a function of one line, all of it
        positions = [i for i in positions if not first.lineno - 1 <= i < first.end_lineno]
    code = textwrap.dedent("\n".join(lines[i] for i in positions)).strip()
    if queries == "docstrings":
        first_paragraph = " ".join(re.split(r"\n\s*\n", docstring or "")[0].split())
        question, long_enough = re.split(r"(?<=[.!?])\s", first_paragraph)[0], len(docstring or "") >= 20
    else:
        question, code = " ".join(words(function.name)), re.sub(rf"\b{function.name}\b", "_", code)
        long_enough = not docstring and len(question) >= 6 and not function.name.startswith("__")
    return (question if long_enough and len(code) >= 80 else ""), code
