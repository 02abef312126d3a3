"""Is a doll as good as a twin: the same shape trained alone, at its own best learning rate?"""

import statistics
import time

import torch

from .. import plot
from ..config import GPTConfig, parse_doll
from ..model import MatryoshkaGPT
from ..training.loop import train
from ..training.optimizer import default_lr
from .common import (
    add_training_arguments,
    best_twin,
    corpus,
    device,
    markdown,
    mean_sd,
    minutes,
    report,
    train_and_measure,
)


def add_arguments(parser):
    add_training_arguments(parser)
    parser.add_argument(
        "--nesting", nargs="+", default=["32", "64", "128"], help="widths, or width,heads,layers"
    )
    parser.add_argument("--n-embd", type=int, default=128)
    parser.add_argument("--n-head", type=int, default=4)
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--lr", type=float, help="of the nested run; default: that of train")
    parser.add_argument(
        "--loss-weights",
        type=float,
        nargs="+",
        help="of the nested run, smallest doll first; default: all alike",
    )
    parser.add_argument("--out", default="runs/dolls", help="folder for finished runs, table and figure")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, 200 steps, one learning rate: two minutes"
    )


def run(args):
    if args.quick:
        args.steps, args.seeds, args.grid, args.out = 200, args.seeds[:1], [0.5], args.out + "-quick"
    data = corpus(args.corpus)
    full = GPTConfig(
        data[2].vocab_size,
        args.block_size,
        args.n_embd,
        args.n_head,
        args.n_layer,
        dropout=args.dropout,
        nesting=[parse_doll(doll) for doll in args.nesting],
    )
    lr = default_lr(full) if args.lr is None else args.lr
    print(
        f"about {minutes(estimate(args, data, full))} in all on {device()}, less what {args.out} holds already",
        flush=True,
    )
    nested = [
        train_and_measure(args, data, full, seed, lr=lr, loss_weights=args.loss_weights)
        for seed in args.seeds
    ]
    dolls = {size: [losses[size] for losses in nested] for size in full.sizes}
    twins = {size: best_twin(args, data, full.doll(size)) for size in full.sizes}
    show(args, full, lr, dolls, twins)


def estimate(args, data, full):
    """Seconds that all runs take, from a few steps of each kind on this machine."""
    seconds = 0
    for config in (full, *map(full.doll, full.sizes)):
        with torch.random.fork_rng():
            model = MatryoshkaGPT(config).to(device())
        few = dict(
            batch_size=args.batch_size,
            eval_interval=99,
            eval_blocks=1,
            progress=False,
            optimizer=args.optimizer,
        )
        train(model, *data[:2], steps=2, **few)
        start = time.perf_counter()
        train(model, *data[:2], steps=6, **few)
        runs = len(args.seeds)
        if (
            config is not full and len(args.grid) > 1
        ):  # its grid grows by one or more, and two rates are run on all seeds
            runs = 2 * runs + len(args.grid) - 1
        seconds += (time.perf_counter() - start) / 6 * args.steps * runs
    return seconds


def show(args, full, lr, dolls, twins):
    rows = []
    for size in full.sizes:
        rate, losses, _ = twins[size]
        difference = statistics.mean(dolls[size]) - statistics.mean(losses)
        rows.append(
            [
                size,
                f"{full.num_params(size):,}",
                f"{mean_sd(losses)} ({rate:g})",
                mean_sd(dolls[size]),
                f"{difference:+.3f}",
            ]
        )
    table = markdown(
        [
            "doll (width, heads, layers)",
            "parameters",
            "twin trained alone (its best lr)",
            f"doll (one run, lr {lr:g})",
            "difference",
        ],
        rows,
    )
    tried = "; ".join(
        f"{size}: " + ", ".join(f"{rate:g} → {loss:.3f}" for rate, loss in twins[size][2].items())
        for size in full.sizes
    )
    report(
        args.out,
        "quality",
        f"{args.corpus}, {args.optimizer}, {args.steps} steps, seeds {args.seeds}; validation loss in "
        f"nats per token over the whole validation text, mean ± sd.\n\n{table}\n\nTwins at every rate tried on the first "
        f"seed: {tried}.",
    )
    figure = plot.loss_against_params(
        {s: full.num_params(s) for s in full.sizes},
        dolls,
        {size: losses for size, (_, losses, _) in twins.items()},
    )
    figure.savefig(f"{args.out}/quality.png", dpi=150)
    plot.close(figure)
