"""What keeping the state of a run costs, as a share of the run: at each evaluation, and once a minute between."""

import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from ..config import GPTConfig
from ..model import MatryoshkaGPT
from ..training.loop import train
from ..training.state import RunState
from .common import device, markdown, report


def add_arguments(parser):
    parser.add_argument("--n-embd", type=int, nargs="+", default=[128, 256], help="widths of the full model")
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--block-size", type=int, default=64, help="tokens")
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--steps", type=int, default=200, help="with ten evaluations among them")
    parser.add_argument(
        "--out", default="runs/checkpoint", help="folder for the table, on the disk that is measured"
    )
    parser.add_argument("--quick", action="store_true", help="20 steps")


def measure(n_embd, args):
    """(parameters, bytes of a state, seconds of each save, seconds of the whole run)."""
    torch.manual_seed(0)
    model = MatryoshkaGPT(GPTConfig(65, args.block_size, n_embd, 4, args.n_layer, (n_embd // 4, n_embd // 2)))
    ids, saves, save = np.random.default_rng(0).integers(0, 65, 100_000), [], RunState.save

    def timed(*state):
        start = time.perf_counter()
        save(*state)
        saves.append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory(dir=args.out) as folder, patch.object(RunState, "save", timed):
        start = time.perf_counter()
        train(
            model.to(device()),
            ids[:90_000],
            ids[90_000:],
            20 if args.quick else args.steps,
            args.batch_size,
            checkpoint_dir=folder,
        )
        seconds = time.perf_counter() - start
        size = max(path.stat().st_size for path in Path(folder).iterdir())
    return model.num_params(), size, saves, seconds


def run(args):
    Path(args.out).mkdir(parents=True, exist_ok=True)
    rows = []
    for n_embd in args.n_embd:
        params, size, saves, seconds = measure(n_embd, args)
        save = sum(saves) / len(saves)
        rows.append(
            [
                f"{params / 1e6:.1f} M",
                f"{size / 2**20:.0f}",
                f"{1000 * save:.0f}",
                f"{sum(saves) / seconds:.1%}",
                f"{save / max(60, 100 * save):.2%}",
            ]
        )
    report(
        args.out,
        "checkpoint",
        markdown(
            [
                "parameters",
                "MiB of a state",
                "ms to save it",
                f"share of {20 if args.quick else args.steps} steps with ten evaluations",
                "share of a long run, saved each minute",
            ],
            rows,
        ),
    )
