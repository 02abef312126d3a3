"""The package: every public name is there, is what its module defines, and nothing is loaded before use."""

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import matgpt

ROOT = Path(__file__).parent.parent


def test_public_names_are_the_objects_of_their_modules():
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
        "import matgpt, sys; assert 'torch' not in sys.modules; assert callable(matgpt.plot.losses)",
        "import matgpt.commands.run, matgpt; assert callable(matgpt.train) and callable(matgpt.save)",
        "from matgpt import *; from matgpt import plot; assert callable(train) and callable(plot.losses)",
    ],
)
def test_in_a_fresh_process(code):
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
