"""What the benchmarks share: a corpus, runs that are kept, timings side by side."""

import hashlib
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path

import torch

from ..config import Size
from ..measure.evaluation import evaluate
from ..model import MatryoshkaGPT
from ..text.corpus import load_text, split
from ..text.tokenizer import BPETokenizer, CharTokenizer
from ..training.loop import DivergedError, train
from ..training.optimizer import default_lr


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


def add_training_arguments(parser):
    """What the benchmarks that train share."""
    parser.add_argument("--corpus", default="shakespeare", help="a corpus or file, as load_text takes it")
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--optimizer", choices=("adamw", "muon"), default="adamw", help="nanoGPT's, or the default of train"
    )
    parser.add_argument(
        "--grid",
        type=float,
        nargs="+",
        default=[0.5, 1.0],
        help="learning rates tried for each twin, as multiples of the default at its width; where the best "
        "lies at an end, the grid grows; a single one is taken as it is",
    )


def train_and_measure(args, data, config, seed, **settings):
    """Train one model and return {Size: validation loss over the whole text}, or what an earlier run kept."""
    train_ids, val_ids, _ = data
    shape = {**vars(config), "nesting": [str(size) for size in config.sizes]}
    settings = dict(
        steps=args.steps, batch_size=args.batch_size, optimizer=args.optimizer, seed=seed, **settings
    )

    def compute():
        torch.manual_seed(seed)
        model = MatryoshkaGPT(config).to(device())
        train(
            model,
            train_ids,
            val_ids,
            eval_interval=args.steps,
            eval_blocks=1,
            progress=sys.stderr.isatty(),
            **settings,
        )
        return {str(size): evaluate(model, val_ids, size) for size in model.sizes}

    print(f"{args.corpus}, {' / '.join(shape['nesting'])}, {settings}", flush=True)
    found = kept(args.out, {"corpus": args.corpus, "config": shape, "train": settings}, compute)
    print("   " + "  ".join(f"{size}: {loss:.4f}" for size, loss in found.items()), flush=True)
    return {Size.parse(size): loss for size, loss in found.items()}


def best_twin(args, data, config):
    """A doll's shape trained alone: its best learning rate, the losses of all seeds there, {rate: first seed's loss}.

    Of the rates tried on the first seed, the two best are run on all seeds and the better mean counts, since one seed's
    best rate can be one at which another seed nearly diverges. The grid grows until half and double that rate were tried.
    """

    def loss(rate, seed):
        try:
            return train_and_measure(args, data, config, seed, lr=rate)[config.full]
        except DivergedError:
            return math.inf

    def untried(rate):
        return [
            r
            for r in (rate / 2, rate * 2)
            if len(args.grid) > 1 and not any(math.isclose(r, other, rel_tol=0.01) for other in tried)
        ]

    rates = [float(f"{factor * default_lr(config):.3g}") for factor in args.grid]
    tried, everywhere = {}, {}
    while rates:
        tried.update({rate: loss(rate, args.seeds[0]) for rate in rates})
        rates = untried(min(tried, key=tried.get))
        if not rates:
            for rate in sorted(tried, key=tried.get)[:2]:
                everywhere[rate] = [loss(rate, seed) for seed in args.seeds]
            best = min(everywhere, key=lambda rate: statistics.mean(everywhere[rate]))
            rates = untried(best)
    return best, everywhere[best], dict(sorted(tried.items()))


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
    """ "mean ± sd" as text; the sd is that of a sample, left out for one value."""
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
