"""The house: a room imports downwards only, no circle, and every public name stays what it is."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import matgpt

from .mutants import MUTANTS, mutated

ROOT = Path(matgpt.__file__).parent
PUBLIC = {name: getattr(matgpt, name) for name in matgpt.__all__}
# from the ground up; a room imports from those before it, and from itself
FLOORS = [
    ("sizes", "ranges", "config", "nested", "embedding", "attention", "feedforward", "residual"),
    ("generation",),
    ("model",),
    ("files.atomic",),
    ("text",),
    ("files", "measure"),
    ("plot",),
    ("training",),
    ("embeddings",),
    ("benchmarks",),
    ("commands",),
]


def modules():
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in ROOT.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }


def imports(name, path):
    """Modules of the package that a file imports, wherever in the file."""
    package = ["matgpt", *name.split(".")][:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        full = [*base, *(node.module.split(".") if node.module else [])]
        if full[:1] != ["matgpt"]:
            continue
        for found in (".".join([*full, alias.name][1:]) for alias in node.names):
            known = [m for m in modules() if found == m or found.startswith(m + ".")]
            yield from known or [".".join(full[1:] or [found])]


def floor(name):
    floors = [i for i, names in enumerate(FLOORS) for n in names if name == n or name.startswith(n + ".")]
    return floors[0]


GRAPH = {name: sorted(set(imports(name, path)) - {""}) for name, path in modules().items()}


@pytest.mark.parametrize("name", GRAPH)
def test_a_file_imports_downwards_only(name):
    for other in GRAPH[name]:
        same_room = "." in name and name.split(".")[0] == other.split(".")[0]
        assert floor(other) < floor(name) or floor(other) == floor(name) and (same_room or "." not in name), (
            other
        )


def test_no_circle():
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, f"a circle: {' -> '.join([*open_, name])}"
        if name in done or name not in GRAPH:
            return
        open_.append(name)
        for other in GRAPH[name]:
            visit(other)
        done.add(open_.pop())

    for name in GRAPH:
        visit(name)


def test_importing_every_submodule_leaves_every_public_name_what_it_was():
    for module in pkgutil.walk_packages(matgpt.__path__, "matgpt."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert {name: getattr(matgpt, name) for name in PUBLIC} == PUBLIC
    assert callable(matgpt.train)


def test_a_star_import_gives_the_public_names_alone():
    scope = {}
    exec("from matgpt import *", scope)
    assert set(scope) - {"__builtins__"} == set(matgpt.__all__)


def test_every_mutant_has_its_place():
    """Else mutants.py, which takes too long for this suite, would end before its first one."""
    for mutant in MUTANTS:
        mutated(mutant)
