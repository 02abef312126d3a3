"""Slice anywhere: Sizes that nobody named, out of a model that nests a range, beside one that names a few.

Both are trained at the price of --budget steps of the full model alone. A Size lies on the line if its loss
is that between its two named neighbours in FLOPs; what is above the line is the price of having no name.
"""

import dataclasses
from statistics import mean

import numpy as np

from .. import plot
from ..config import GPTConfig, Size
from ..measure.shapes import Point, costs
from ..model import MatryoshkaGPT
from ..ranges import between
from ..text.batches import loss_unit
from ..text.token_files import read_corpus
from ..training.optimizer import default_lr
from .common import markdown, mean_sd, report
from .quality import Bench, add_price


def add_arguments(parser):
    add = add_price(parser)
    add("--between", nargs=2, default=["32,1,1", "128,4,4"], help="the smallest and the full Size")
    add("--batch", type=int, default=16, help="of both runs")
    add("--held", type=int, default=30, help="Sizes without a name that are measured")
    add("--out", default="runs/anywhere", help="folder for finished runs, table and figure")
    add("--quick", action="store_true", help="one seed, 100 steps")


def run(args):
    if args.quick:
        args.budget, args.seeds, args.out = 100, args.seeds[:1], args.out + "-quick"
    train_ids, val_ids, tokenizer = read_corpus(args.corpus)
    low, high = map(Size.parse, args.between)
    shape = dict(block_size=args.block_size, n_embd=high.n_embd, n_head=high.n_head, n_layer=high.n_layer)
    anywhere = GPTConfig(tokenizer.vocab_size, **shape, nesting=between(low, high))
    named = dataclasses.replace(anywhere, nesting=anywhere.sizes)
    held, rng = set(), np.random.default_rng(0)
    while len(held) < args.held:
        held |= {anywhere.draw(rng)} - set(anywhere.sizes)
    bench = Bench(args, train_ids, val_ids)
    flops = args.budget * bench.step_flops(named.doll(named.full))
    settings = dict(flops=flops, batch_size=args.batch, lr=default_lr(named))
    held, losses = named.in_order(held)[:-1], {}
    for name, config in (("range", anywhere), ("named", named)):
        runs = [bench.one(config, seed, also=held, **settings)["losses"] for seed in args.seeds]
        losses[name] = {size: [run[str(size)] for run in runs] for size in (*named.sizes, *held)}
    show(args, named, held, losses, bench.label, loss_unit(tokenizer, val_ids))


def above_the_line(flops, losses, sizes, named):
    """{size: its mean loss less that of the line between its named neighbours, over log FLOPs}."""
    place = lambda some: np.log([flops[size] for size in some])
    line = np.interp(place(sizes), place(named), [mean(losses[size]) for size in named])
    return dict(zip(sizes, [mean(losses[size]) - on_line for size, on_line in zip(sizes, line)]))


def show(args, config, held, losses, label, unit):
    """The table and the figure."""
    model, everything = MatryoshkaGPT(config), (*config.sizes, *held)
    cost = {size: costs(model, size) for size in everything}
    flops = {size: cost[size]["flops"] for size in everything}
    above = {n: above_the_line(flops, losses[n], everything, config.sizes) for n in losses}
    number = lambda value: f"{value:+.3f}"
    rows = []
    for size in sorted(everything, key=flops.get):
        name = f"**{size}**" if size in config.sizes else size
        both = [text for n in losses for text in (mean_sd(losses[n][size]), number(above[n][size]))]
        rows.append([name, f"{flops[size] / 1e6:.2f}", *both])
    header = ["doll (**named**)", "MFLOPs a token", "range", "above the line", "named ones alone", "above it"]
    lost = [mean(losses["range"][s]) - mean(losses["named"][s]) for s in config.sizes]
    inside = lambda b, a: a.covers(b) and config.head_size_of(a) >= config.head_size_of(b)
    pairs = [(a, b) for a in everything for b in everything if a != b and inside(b, a)]
    beside = lambda a, b: mean(losses["range"][a]) - mean(losses["range"][b])
    large, small = max(pairs, key=lambda pair: beside(*pair))
    of = {n: [above[n][size] for size in held] for n in losses}
    text = (
        f"{args.corpus}, {label}, at the price of {args.budget:g} steps of the full model, "
        f"seeds {args.seeds}; validation loss, {unit}.\n"
        f"Without a name, above the line: {number(mean(of['range']))} on average, at most "
        f"{number(max(of['range']))}, {sum(d <= 0.02 for d in of['range'])} of {len(held)} by 0.02 or less; "
        f"where only the named are trained, {number(mean(of['named']))} on average.\n"
        f"What the named lose to a nesting of them alone: {', '.join(map(number, lost))}.\n"
        f"Worst beside a doll that it contains: {large}, {number(beside(large, small))} beside {small}.\n\n"
    )
    name = f"anywhere-{label}-{args.budget:g}"
    points = lambda sizes: [Point(s, loss=mean(losses["range"][s]), **cost[s]) for s in sizes]
    figure = plot.slices(points(held), points(config.sizes))
    report(args.out, name, text + markdown(header, rows), {name: figure})
