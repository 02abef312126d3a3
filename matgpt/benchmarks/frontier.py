"""Dolls smaller along every dimension, beside width-only dolls and twins of the same shapes trained alone."""
import dataclasses
import statistics

from .. import plot
from ..config import GPTConfig, Size
from ..frontier import Point, flops_per_token, lattice, mark_front
from ..optimizer import default_lr
from .common import add_training_arguments, best_twin, corpus, markdown, mean_sd, report, train_and_measure


def add_arguments(parser):
    add_training_arguments(parser)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--head-size", type=int, default=32)
    parser.add_argument("--out", default="runs/dolls", help="folder for finished runs (those of quality too), table and figures")
    parser.add_argument("--quick", action="store_true", help="one seed, 100 steps, one learning rate")


def run(args):
    if args.quick:
        args.steps, args.seeds, args.grid, args.out = 100, args.seeds[:1], [0.5], args.out + "-quick"
    data = corpus(args.corpus)
    D, L = max(args.widths), max(args.depths)
    full = GPTConfig(data[2].vocab_size, args.block_size, D, D // args.head_size, L, dropout=args.dropout,
                     nesting=lattice(args.widths, args.depths, args.head_size))
    # the diagonal of the lattice: as many steps down in depth as in width
    diagonal = [Size(d, d // args.head_size, l) for d, l in zip(sorted(args.widths), sorted(args.depths))]
    families = {"width only": [full.width(d) for d in args.widths], "every dimension": diagonal, "lattice": full.sizes}
    print(f"{len(families)} families and {len(full.sizes)} twins; what {args.out} holds already is not run again", flush=True)
    losses = {}
    for name, nesting in families.items():
        config = dataclasses.replace(full, nesting=nesting)
        runs = [train_and_measure(args, data, config, seed, lr=default_lr(full), loss_weights=None) for seed in args.seeds]
        losses[name] = {size: [found[size] for found in runs] for size in runs[0]}
    twins = {size: best_twin(args, data, full.doll(size)) for name in families for size in losses[name]}
    show(args, full, losses, twins)


def show(args, full, losses, twins):
    def points(runs):
        return mark_front([Point(s, full.num_params(s), flops_per_token(full, s), statistics.mean(runs[s])) for s in runs])
    families = {name: points(runs) for name, runs in losses.items()}
    rows = []
    for name, family in families.items():
        for p in family:
            rate, alone, _ = twins[p.size]
            rows.append([name, p.size, f"{p.params:,}", f"{p.flops:,}", mean_sd(losses[name][p.size]),
                         f"{mean_sd(alone)} ({rate:g})", f"{p.loss - statistics.mean(alone):+.3f}", "yes" if p.on_front else ""])
    report(args.out, "frontier", f"{args.corpus}, {args.optimizer}, {args.steps} steps, seeds {args.seeds}; validation loss in "
           "nats per token over the whole validation text, mean ± sd.\n\n" + markdown(
               ["dolls", "width, heads, layers", "parameters", "FLOPs per token", "doll", "twin alone (its best lr)",
                "difference", "on its front"], rows))
    alone = points({size: twins[size][1] for size in losses["lattice"]})
    figures = {f"frontier-{x}": plot.frontier(families, x, alone) for x in ("params", "flops")}
    figures["lattice"] = plot.loss_grid(families["lattice"])
    for name, figure in figures.items():
        figure.savefig(f"{args.out}/{name}.png", dpi=150)
        plot.close(figure)
