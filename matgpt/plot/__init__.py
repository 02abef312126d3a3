"""Figures, closed, so that a notebook shows each once, and a program saves it; `answers` returns text."""

import importlib

HOMES = dict.fromkeys(("baselines", "label", "losses", "nesting", "new_axes", "slices"), "dolls")
HOMES |= dict.fromkeys(("answers", "heat_maps", "neighbours", "retrieval"), "embeddings")


def __getattr__(name):  # at the first figure rather than with `import matgpt`, since matplotlib takes a while
    if name in HOMES:
        return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(HOMES)
