"""What the benchmarks share: results stored on disk, timings side by side, tables."""

import hashlib
import json
import shutil
import statistics
import time
from pathlib import Path

import torch

from ..files.atomic import write

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stored(folder, settings, compute):
    """The result of `compute(state)`, a JSON object, or what an earlier run with these settings stored.

    settings: everything that the result depends on, the digest of a corpus too. state: a folder for what an
    interrupted run resumes from; it is removed once the result is there.
    """
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(folder) / "runs" / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["result"]
    state = path.with_suffix("")
    state.mkdir(parents=True, exist_ok=True)
    result = compute(state)
    write(path, json.dumps({"settings": settings, "result": result}, indent=1).encode())
    shutil.rmtree(state)
    return result


def whole(history, steps=None, flops=None):
    """The history of a run that spent its budget. Ctrl-C, which ends `train` early, ends this too."""
    if history.steps[-1:] < [steps or 0] or history.flops[-1:] < [flops or 0]:
        raise KeyboardInterrupt
    return history


def medians(calls, rounds=15, warmup=2):
    """Median seconds of each function of {name: function}, called in turn so that all meet the same noise."""
    seconds = {name: [] for name in calls}
    for i in range(warmup + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(s) for name, s in seconds.items()}


def mean_sd(values):
    """Return "mean ± sd" as text; the sd is that of a sample, left out for one value; "" for none."""
    sd = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{sd}" if values else ""


def markdown(rows):
    """A Markdown table of rows {column: cell}; a row may lack a cell."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[row.get(column, "") for column in columns] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report(folder, name, text, figures=None):
    """Print a result; write it to NAME.md in the folder, and each figure under its name."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    print("\n" + text)
    for title, figure in (figures or {}).items():
        figure.savefig(f"{folder}/{title}.png", dpi=150)
