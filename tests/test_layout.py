"""The house: a room imports downwards only, no circle, and every public name stays what it is."""

import ast
import graphlib
import importlib
import pkgutil
from pathlib import Path

import pytest

import matgpt

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


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in ROOT.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
}


def imports(name, path):
    """Yield the modules of the package that a file imports, wherever in the file."""
    package = ["matgpt", *name.split(".")][:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = [*base, *(node.module.split(".") if node.module else [])]
            for target in (
                ".".join([*full, alias.name][1:]) for alias in node.names if full[:1] == ["matgpt"]
            ):
                known = [m for m in MODULES if target == m or target.startswith(m + ".")]
                yield from known or [".".join(full[1:])]


def floor(name):
    return next(i for i, rooms in enumerate(FLOORS) for r in rooms if name == r or name.startswith(r + "."))


GRAPH = {name: sorted(set(imports(name, path)) - {""}) for name, path in MODULES.items()}


@pytest.mark.parametrize("name", GRAPH)
def test_a_file_imports_downwards_only(name):
    for other in GRAPH[name]:
        same_room = "." not in name or name.split(".")[0] == other.split(".")[0]
        assert floor(other) < floor(name) or floor(other) == floor(name) and same_room, other


def test_no_circle():
    graph = {name: [other for other in others if other in GRAPH] for name, others in GRAPH.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order()), "or it raises CycleError, naming one"


def test_importing_every_submodule_leaves_every_public_name_what_it_was():
    for module in pkgutil.walk_packages(matgpt.__path__, "matgpt."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert {name: getattr(matgpt, name) for name in PUBLIC} == PUBLIC
