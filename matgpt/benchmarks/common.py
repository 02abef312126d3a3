"""What the benchmarks share: options, results stored on disk, timings side by side, tables."""

import hashlib
import json
import math
import shutil
import statistics
import timeit
from functools import partial
from pathlib import Path

import torch

from ..files.atomic import write
from ..training.checkpoint import FORMAT

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def add_shape(add):
    """Add the options for the shape of the full model, its batch and its precision."""
    for name, default in (("n-embd", 128), ("n-head", 4), ("n-layer", 4), ("block-size", 64)):
        add(f"--{name}", type=int, default=default)
    batch = "blocks in a step (in quality: of a step that --budget counts)"
    add("--batch-size", type=int, default=12, help=batch)
    add("--dtype", choices=("float32", "bfloat16"), help="in which all steps multiply matrices")


def stored(folder, settings, compute):
    """Return the JSON object that `compute(state)` returns, or what it returned before with these settings.

    settings: everything that it depends on, the digest of a corpus too, but not the default schedule, which
        FORMAT names. state: a folder that `compute` makes for what an interrupted run resumes from; it is
        removed once the result is there.
    """
    settings = settings | {"format": FORMAT}
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(folder) / "runs" / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["result"]
    state = path.with_suffix("")
    result = compute(state)
    write(path, json.dumps({"settings": settings, "result": result}, indent=1).encode())
    shutil.rmtree(state)
    return result


def whole(history):
    """Return the history of a run that spent its budget. Ctrl-C, which ends `train` early, ends this too."""
    if not history.finished:
        raise KeyboardInterrupt
    return history


def in_turn(calls, rounds):
    """Call each of {name: function} in turn, so that all meet the same noise; returns {name: results}."""
    results = [[call() for call in calls.values()] for _ in range(rounds)]
    return dict(zip(calls, zip(*results)))


def medians(calls, rounds):
    """Return the median seconds that each function of {name: function} takes, after a first round."""
    timed = {name: partial(timeit.timeit, call, number=1) for name, call in calls.items()}
    return {name: statistics.median(seconds[1:]) for name, seconds in in_turn(timed, 1 + rounds).items()}


def mean_sd(values):
    """Return "mean ± sd" as text; the sd of a sample, if it has one; "" for no values."""
    several = len(values) > 1 and all(map(math.isfinite, values))  # a run that diverged has inf
    sd = f" ± {statistics.stdev(values):.3f}" if several else ""
    return f"{statistics.mean(values):.3f}{sd}" if values else ""


def markdown(rows):
    """Return a Markdown table of rows {column: cell}; a row may lack a cell."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[row.get(column, "") for column in columns] for row in rows]
    lines = columns, ["---"] * len(columns), *cells
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def report(folder, name, text, figures=None):
    """Print a result; write it to NAME.md in the folder, and each figure under its name."""
    write(Path(folder) / f"{name}.md", f"{text}\n".encode())
    print("\n" + text)
    for title, figure in (figures or {}).items():
        figure.savefig(f"{folder}/{title}.png", dpi=150)
