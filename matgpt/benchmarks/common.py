"""What the benchmarks share: a corpus, runs that are kept, timings side by side."""
import hashlib
import json
import os
import statistics
import time
from pathlib import Path

import torch

from ..config import GPTConfig, Size
from ..corpus import load_text, split
from ..model import MatryoshkaGPT
from ..tokenizer import BPETokenizer, CharTokenizer
from ..training import evaluate, train


def device():
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def corpus(name, tokenizer="char"):
    """(train_ids, val_ids, tokenizer) of a corpus that `load_text` knows."""
    text = load_text(name)
    tokenizer = BPETokenizer.train(text) if tokenizer == "bpe" else CharTokenizer.from_text(text)
    return *split(tokenizer.encode(text)), tokenizer


def kept(folder, settings, compute):
    """The result of `compute()`, a JSON object, or the one that an earlier run with these settings left."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(folder) / "runs" / f"{digest}.json"
    if path.exists():
        return json.loads(path.read_text())["result"]
    result = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    partial.write_text(json.dumps({"settings": settings, "result": result}, indent=1))
    os.replace(partial, path)
    return result


def train_and_measure(folder, data, settings, progress=True):
    """Train one model and return {str(size): validation loss over the whole text}, or what a run kept.

    settings: `corpus` and `tokenizer`, `config` (arguments of GPTConfig, sizes as text) and `train`
    (arguments of train); everything that the result depends on, since it is the key under which it is kept.
    """
    def compute():
        train_ids, val_ids, _ = data
        config = dict(settings["config"])
        if config.get("nesting"):
            config["nesting"] = [Size.parse(s) if "," in s else int(s) for s in config["nesting"]]
        torch.manual_seed(settings["train"]["seed"])
        model = MatryoshkaGPT(GPTConfig(**config)).to(device())
        once = {"eval_interval": settings["train"]["steps"], "eval_blocks": 1}
        train(model, train_ids, val_ids, progress=progress, **{**once, **settings["train"]})
        return {str(size): evaluate(model, val_ids, size) for size in model.sizes}

    return kept(folder, settings, compute)


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
    """"mean ± sd" as text; the sd is that of a sample, left out for one value."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"


def markdown(header, rows):
    """A Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines)


def report(folder, name, text):
    """Print a result and keep it as NAME.md in the folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{name}.md").write_text(text + "\n")
    print("\n" + text)


def minutes(seconds):
    """A duration for people."""
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{max(1, round(seconds / 60))} minutes"
