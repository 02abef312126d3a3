"""The package: every public name is there, nothing is loaded before use, a room imports downwards only."""

import ast
import graphlib
import importlib
import importlib.util
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import matgpt

ROOT = Path(matgpt.__file__).parent


def test_public_names_are_the_objects_of_their_modules():
    """Also after every submodule is imported, since none has the name of something public."""
    for module in pkgutil.walk_packages(matgpt.__path__, "matgpt."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for module, names in matgpt.MODULES.items():
        for name in names:
            value = getattr(importlib.import_module(f"matgpt.{module}"), name)
            assert getattr(matgpt, name) is value and pickle.loads(pickle.dumps(value)) is value


def test_only_the_public_names_are_listed():
    assert dir(matgpt) == sorted(matgpt.__all__) and "train" in dir(matgpt)
    with pytest.raises(AttributeError, match="module 'matgpt' has no attribute 'trian'"):
        matgpt.trian  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import matgpt, sys; assert not {'torch', 'matplotlib'} & {*sys.modules}; matgpt.plot.losses",
        "import matgpt.commands.run, matgpt; assert callable(matgpt.train) and callable(matgpt.save)",
        "from matgpt import *; from matgpt import plot; assert callable(train) and callable(plot.losses)",
    ],
)
def test_in_a_fresh_process(code):
    subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, check=True)


# ---- rooms, from the ground up; a room imports from those before it, and from itself

GROUND = ("sizes", "ranges", "config", "nested", "embedding", "attention", "feedforward", "residual")
UPPER = [("generation",), ("model",), ("files.atomic",), ("text",), ("files", "measure"), ("plot",)]
FLOORS = [GROUND, *UPPER, ("training",), ("embeddings",), ("benchmarks",), ("commands",)]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in ROOT.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
}


def imports(name, path):
    """Yield the modules of the package that a file imports, wherever in the file."""
    package = f"matgpt.{name}".rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for target in (f"{origin}.{alias.name}" for alias in node.names):
                if target.startswith("matgpt."):
                    target = target.removeprefix("matgpt.")
                    target = next((m for m, names in matgpt.MODULES.items() if target in names), target)
                    yield next((m for m in MODULES if f"{target}.".startswith(f"{m}.")), target)


GRAPH = {name: set(imports(name, path)) for name, path in MODULES.items()}


def floor(name):
    return next(i for i, rooms in enumerate(FLOORS) for r in rooms if f"{name}.".startswith(f"{r}."))


@pytest.mark.parametrize("name", GRAPH)
def test_a_file_imports_downwards_only(name):
    for other in GRAPH[name]:
        same_room = "." not in name or name.split(".")[0] == other.split(".")[0]
        assert floor(other) < floor(name) or floor(other) == floor(name) and same_room, other


def test_no_circle():
    assert list(graphlib.TopologicalSorter(GRAPH).static_order()), "or it raises CycleError, naming one"
