"""Does a test notice? Changes one place of a file at a time and runs the tests of its room.

    python .ci/mutants.py matgpt/training/loop.py training resume -n 20 --seed 0

Places are found in the syntax tree and drawn by the seed; mutants are written into a copy of the package and
its tests. Prints those that survive: each equals the original, or shows a behaviour that no test asserts.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = sorted(ROOT.glob("tests/test_*.py"))
GROUND = ["config", "model", "gpt2"]  # tests of the files that are in no room
SWAPS = {ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.Is: ast.IsNot, ast.In: ast.NotIn}
SWAPS |= {ast.And: ast.Or, ast.Add: ast.Sub, ast.Mult: ast.Div}
SWAPS |= {new: old for old, new in SWAPS.items()}


def mutant(node):
    """Return what takes the place of a node of the syntax tree, or None."""
    new = copy.copy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        new.ops = [SWAPS[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign) and type(node.op) in SWAPS:
        new.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        new.value = not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, ast.Return) and node.value is not None:
        new.value = ast.Constant(None)
    elif isinstance(node, ast.If | ast.IfExp):
        new.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        new = node.operand
    elif isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant | ast.Yield | ast.YieldFrom):
        new = ast.copy_location(ast.Pass(), node)
    else:
        new = None
    return new


def places(node):
    """Yield (container, key, new node) for every mutant below a node; error messages are left out."""
    for field, value in ast.iter_fields(node):
        container = value if isinstance(value, list) else vars(node)
        for key, child in enumerate(value) if isinstance(value, list) else [(field, value)]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr | ast.Raise):
                if new := mutant(child):
                    yield container, key, new
                yield from places(child)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file")
    parser.add_argument(
        "tests", nargs="*", help='such as "model" for tests/test_model.py; default: those of the room'
    )
    parser.add_argument("-n", type=int, default=20, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    name = str(Path(args.file).resolve().relative_to(ROOT))
    room = f"matgpt.{Path(name).parts[1]}"
    tests = args.tests or [path.stem[5:] for path in FILES if room in path.read_text()] or GROUND
    tree, survivors = ast.parse((ROOT / name).read_text()), 0
    chosen = list(places(tree))
    chosen = random.Random(args.seed).sample(chosen, min(args.n, len(chosen)))
    with tempfile.TemporaryDirectory() as folder:
        for part in ("matgpt", "tests"):
            shutil.copytree(ROOT / part, Path(folder, part), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / ".pytest.ini", folder)
        files = [f"tests/test_{test}.py" for test in tests]
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", *files]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

        def passes():
            Path(folder, name).write_text(ast.unparse(tree))
            try:
                done = subprocess.run(command, cwd=folder, capture_output=True, env=environment, timeout=900)
                return done.returncode == 0
            except subprocess.TimeoutExpired:  # a mutant that never ends is noticed
                return False

        if not passes():
            sys.exit("the tests fail without a mutant")
        for container, key, new in sorted(chosen, key=lambda place: place[2].lineno):
            old, container[key] = container[key], new
            ast.fix_missing_locations(tree)
            if passes():
                survivors += 1
                before, after = (ast.unparse(node).splitlines()[0] for node in (old, new))
                print(f"SURVIVED {name}:{old.lineno}: {before} -> {after}", flush=True)
            container[key] = old
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants were noticed")


if __name__ == "__main__":
    main()
