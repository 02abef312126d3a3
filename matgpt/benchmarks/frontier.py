"""Dolls smaller along every dimension, beside width-only dolls and twins of the same shapes trained alone."""

import dataclasses
import math
import statistics

import numpy as np

from .. import plot
from ..config import GPTConfig, Size
from ..measure.shapes import Point, flops_per_token, lattice, mark_front
from ..training.optimizer import default_lr
from .common import add_training_arguments, best_twin, corpus, markdown, mean_sd, report, train_and_measure


def add_arguments(parser):
    add_training_arguments(parser)
    parser.add_argument(
        "--widths",
        type=int,
        nargs="+",
        default=[32, 64, 128],
        help="of dolls with all heads and layers; the largest is the full model's",
    )
    parser.add_argument("--n-layer", type=int, default=4, help="of the full model")
    parser.add_argument("--head-size", type=int, default=32)
    parser.add_argument(
        "--family",
        type=Size.parse,
        nargs="+",
        default=[Size(32, 1, 1), Size(64, 2, 2), Size(96, 3, 3)],
        help="dolls smaller along every dimension (width,heads,layers), trained together with the full one",
    )
    parser.add_argument("--lattice-widths", type=int, nargs="+", default=[32, 64, 96, 128])
    parser.add_argument(
        "--lattice-depths",
        type=int,
        nargs="+",
        default=[1, 2],
        help="the full model belongs to the lattice besides",
    )
    parser.add_argument(
        "--random-sizes",
        type=int,
        default=3,
        help="dolls of the lattice that a step draws besides the smallest and the largest",
    )
    parser.add_argument(
        "--narrow-weight",
        type=float,
        default=3.0,
        help="weight of the lattice's narrowest dolls; others have 1",
    )
    parser.add_argument(
        "--out",
        default="runs/dolls",
        help="folder for finished runs (those of quality too), table and figures",
    )
    parser.add_argument("--quick", action="store_true", help="one seed, 100 steps, one learning rate")


def run(args):
    if args.quick:
        args.steps, args.seeds, args.grid, args.out = 100, args.seeds[:1], [0.5], args.out + "-quick"
    data = corpus(args.corpus)
    D = max(args.widths)
    full = GPTConfig(
        data[2].vocab_size, args.block_size, D, D // args.head_size, args.n_layer, dropout=args.dropout
    )
    nestings = {
        "width only": [full.width(d) for d in args.widths],
        "every dimension": args.family,
        "lattice": lattice(args.lattice_widths, args.lattice_depths, args.head_size),
    }
    losses = {}
    print(
        f"{len(nestings)} families and the twins of their dolls; what {args.out} holds already is not run again",
        flush=True,
    )
    for name, nesting in nestings.items():
        config, settings = (
            dataclasses.replace(full, nesting=nesting),
            dict(lr=default_lr(full), loss_weights=None),
        )
        if (
            name == "lattice"
        ):  # a narrow doll is one of many in a step: alike, those 32 wide were no better than their twins
            settings["loss_weights"] = [
                args.narrow_weight if s.n_embd == min(args.lattice_widths) else 1.0 for s in config.sizes
            ]
            settings["random_sizes"] = args.random_sizes
        runs = [train_and_measure(args, data, config, seed, **settings) for seed in args.seeds]
        losses[name] = {size: [found[size] for found in runs] for size in config.sizes}
    sizes = dict.fromkeys(
        size for dolls in losses.values() for size in dolls
    )  # a shape of two families has one twin
    twins = {size: best_twin(args, data, full.doll(size)) for size in sizes}
    show(args, full, losses, twins)


def on_the_line(points, x, point):
    """Loss at the cost of `point` on the straight line, over log cost, through `points`; None for one cheaper than all."""
    costs, losses = zip(*sorted((getattr(p, x), p.loss) for p in points))
    cost = getattr(point, x)
    return None if cost < costs[0] else float(np.interp(math.log(cost), np.log(costs), losses))


def show(args, full, losses, twins):
    def points(runs):
        return mark_front(
            [Point(s, full.num_params(s), flops_per_token(full, s), statistics.mean(runs[s])) for s in runs]
        )

    def beside_width_only(p, x):
        line = on_the_line(families["width only"], x, p)
        return "" if line is None or p in families["width only"] else f"{line:.3f} ({p.loss - line:+.3f})"

    families = {name: points(runs) for name, runs in losses.items()}
    rows = []
    for name, family in families.items():
        for p in family:
            rate, alone, _ = twins[p.size]
            rows.append(
                [
                    name,
                    p.size,
                    f"{p.params:,}",
                    f"{p.flops:,}",
                    mean_sd(losses[name][p.size]),
                    f"{mean_sd(alone)} ({rate:g})",
                    f"{p.loss - statistics.mean(alone):+.3f}",
                    beside_width_only(p, "params"),
                    beside_width_only(p, "flops"),
                    "yes" if p.on_front else "",
                ]
            )
    report(
        args.out,
        "frontier",
        f"{args.corpus}, {args.optimizer}, {args.steps} steps, seeds {args.seeds}; validation loss in "
        "nats per token over the whole validation text, mean ± sd. Width-only dolls at other costs are read off the line "
        "through theirs, over the logarithm of the cost.\n\n"
        + markdown(
            [
                "dolls",
                "width, heads, layers",
                "parameters",
                "FLOPs per token",
                "doll",
                "twin alone (its best lr)",
                "difference",
                "width-only at its parameters",
                "at its FLOPs",
                "on its front",
            ],
            rows,
        ),
    )
    alone = points({size: found for size, (_, found, _) in twins.items()})
    figures = {f"frontier-{x}": plot.frontier(families, x, alone) for x in ("params", "flops")}
    figures["lattice"] = plot.loss_grid(families["lattice"])
    for name, figure in figures.items():
        figure.savefig(f"{args.out}/{name}.png", dpi=150)
        plot.close(figure)
