"""Dolls smaller along every dimension, beside width-only dolls and twins of the same shapes trained alone."""
import statistics

from .. import plot
from ..config import GPTConfig, Size
from ..frontier import Point, flops_per_token, lattice, mark_front
from ..training import default_lr
from .common import corpus, markdown, mean_sd, report, train_and_measure


def add_arguments(parser):
    parser.add_argument("--corpus", default="shakespeare", help="a corpus or file, as load_text takes it")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--head-size", type=int, default=32)
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--random-sizes", type=int, default=3, help="of the lattice, drawn in a step")
    parser.add_argument("--grid", type=float, nargs="+", default=[0.25, 0.5, 1.0, 2.0],
                        help="learning rates tried for each twin, as multiples of the default at its width")
    parser.add_argument("--out", default="runs/frontier", help="folder for finished runs, table and figures")
    parser.add_argument("--quick", action="store_true", help="one seed, 100 steps, one learning rate")


def run(args):
    if args.quick:
        args.steps, args.seeds, args.grid, args.out = 100, args.seeds[:1], [0.5], args.out + "-quick"
    data = corpus(args.corpus)
    D, L = max(args.widths), max(args.depths)
    shape = dict(vocab_size=data[2].vocab_size, block_size=args.block_size, n_embd=D, n_head=D // args.head_size, n_layer=L)
    sizes = lattice(args.widths, args.depths, args.head_size)
    full = GPTConfig(**shape, nesting=sizes)
    # the diagonal of the lattice: as many steps down in depth as in width
    diagonal = [Size(d, d // args.head_size, l) for d, l in zip(sorted(args.widths), sorted(args.depths))]
    families = {"width only": [str(full.width(d)) for d in args.widths],
                "every dimension": [str(s) for s in diagonal],
                "lattice": [str(s) for s in full.sizes]}
    print(f"{len(args.seeds) * (len(families) + len(sizes) * len(args.grid))} runs of {args.steps} steps; what {args.out} "
          "holds already is not run again")

    losses = {name: {} for name in families}
    for name, nesting in families.items():
        for seed in args.seeds:
            print(f"{name}, seed {seed}", flush=True)
            settings = dict(steps=args.steps, batch_size=args.batch_size, seed=seed, lr=default_lr(full))
            if name == "lattice":
                settings["random_sizes"] = args.random_sizes
            found = train_and_measure(args.out, data, {
                "corpus": args.corpus, "config": {**shape, "nesting": nesting}, "train": settings})
            for size, loss in found.items():
                losses[name].setdefault(Size.parse(size), []).append(loss)
    twin = {}
    for size in full.sizes:
        tried = {}
        for rate in (float(f"{factor * default_lr(full.doll(size)):.3g}") for factor in args.grid):
            for seed in args.seeds:
                print(f"twin {size}, lr {rate:g}, seed {seed}", flush=True)
                found = train_and_measure(args.out, data, {
                    "corpus": args.corpus, "config": {**shape, "n_embd": size.n_embd, "n_head": size.n_head,
                                                      "n_layer": size.n_layer, "head_size": args.head_size},
                    "train": dict(steps=args.steps, batch_size=args.batch_size, seed=seed, lr=rate)})
                tried.setdefault(rate, []).extend(found.values())
        twin[size] = min(tried.values(), key=statistics.mean)
    show(args, full, losses, twin)


def show(args, full, losses, twin):
    def points(runs):
        return mark_front([Point(s, full.num_params(s), flops_per_token(full, s), statistics.mean(runs[s])) for s in runs])
    families = {name: points(runs) for name, runs in losses.items()}
    rows = [[name, p.size, f"{p.params:,}", f"{p.flops:,}", mean_sd(losses[name][p.size]),
             mean_sd(twin[p.size]) if p.size in twin else "", "yes" if p.on_front else ""]
            for name, family in families.items() for p in family]
    report(args.out, "frontier", f"{args.corpus}, {args.steps} steps, seeds {args.seeds}; validation loss in nats per token, "
           "mean ± sd; each twin at its best learning rate.\n\n" + markdown(
               ["dolls", "width, heads, layers", "parameters", "FLOPs per token", "doll", "twin alone", "on its front"], rows))
    figures = {f"frontier-{x}": plot.frontier(families, x, points(twin)) for x in ("params", "flops")}
    figures["lattice"] = plot.loss_grid(families["lattice"])
    for name, figure in figures.items():
        figure.savefig(f"{args.out}/{name}.png", dpi=150)
        plot.close(figure)
