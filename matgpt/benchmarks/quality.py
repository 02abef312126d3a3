"""What nesting costs and gains: one nested run and three baselines, at one price.

The price C is that of training the full model alone, in FLOPs, optimizer included. With it stand

- nested: one run that trains the whole family, for C;
- alone: the full model alone, for C: what the largest doll pays for nesting;
- apart: each model of the family alone, for C together, each on as many tokens: why one nests at all;
- twins: each model alone on as many tokens as the full model alone reads, for more than C together.

Each model is tuned alike, over learning rates and batch sizes.
"""

import dataclasses
import itertools
import math
import sys
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from .. import GPTConfig, MatryoshkaGPT, Size, between, plot
from ..measure.evaluation import blocks, evaluate_sizes
from ..measure.shapes import flops_per_token
from ..text.batches import loss_unit
from ..text.token_files import read_corpus
from ..training.checkpoint import digest
from ..training.cost import step_flops
from ..training.loop import DivergedError, train
from ..training.optimizer import default_lr
from .common import DEVICE, add_shape, markdown, mean_sd, report, stored, whole


def add_arguments(parser):
    add = parser.add_argument
    add_shape(add)
    add("--corpus", default="shakespeare", help="a corpus, a file, or a folder of the data command")
    add("--nesting", nargs="+", default=["32,1,1", "64,2,2", "96,3,3"], help="dolls inside the full model")
    add("--budget", type=float, default=2000, help="C, in steps of the full model alone")
    add("--ratio", type=float, help="C, in tokens a parameter, in place of --budget")
    add(
        "--shares",
        type=float,
        nargs="+",
        default=[None],
        help="of passes, for smaller dolls; several: a front",
    )
    add("--optimizer", choices=("adamw", "muon"), default="muon")
    add("--rates", type=float, nargs="+", default=[0.5, 0.7, 1], help="times the default rate, tried")
    add("--batches", type=int, nargs="+", default=[12, 16], help="batch sizes, tried with these rates")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--apart", action="store_true", help="also train the family apart")
    add("--twins", action="store_true", help="also train the twins")
    add("--held", type=int, default=0, help="train a range, too, and measure so many of its Sizes")
    add("--out", default="runs/quality", help="folder for finished runs, tables and figures")
    add("--quick", action="store_true", help="one seed, rate and batch, 100 steps: a minute or two")


def run(args):
    if args.quick:
        args.budget, args.ratio, args.seeds, args.rates, args.batches = 100, None, args.seeds[:1], [1], [12]
        args.out += "-quick"
    train_ids, val_ids, tokenizer = read_corpus(args.corpus)
    dolls = [Size.parse(doll) for doll in args.nesting]
    config = GPTConfig(tokenizer.vocab_size, args.block_size, args.n_embd, args.n_head, args.n_layer, dolls)
    families = Bench(args, train_ids, val_ids).compare(config)
    show(args, config, families, loss_unit(tokenizer, val_ids))


def nested_name(share):
    return "nested" if share is None else f"nested, share {share:g}"


class Bench:
    """Runs on one corpus with one optimizer; results stay in the folder --out."""

    def __init__(self, args, *ids):
        self.args, self.ids, self.corpus = args, ids, [digest(part) for part in ids]

    def compare(self, config):
        """Train one family and its baselines at one price; returns {name: runs}, the smallest model first."""
        args, sizes = self.args, config.sizes
        tokens_of_step = args.batch_size * config.block_size
        steps = args.ratio * config.num_params() / tokens_of_step if args.ratio else args.budget
        price = steps * step_flops(config, args.batch_size, args.optimizer)

        def apart(batch_size):  # steps of each model
            return price / sum(step_flops(config, batch_size, args.optimizer, size) for size in sizes)

        def twins(batch_size):
            return steps * args.batch_size / batch_size

        if args.held:  # first, since it may not fit
            multiple = math.gcd(8, sizes[0].n_embd, config.n_embd)
            anywhere = dataclasses.replace(config, nesting=between(sizes[0], config.full, multiple))
        families = {"alone": self.tune(config.doll(config.full), flops=price)}
        for share in args.shares:
            families[nested_name(share)] = self.tune(config, flops=price, share=share)
        if args.held:
            families["range"] = self.tune(anywhere, flops=price, also=anywhere.sample(args.held))
        for number in apart, twins:
            if getattr(args, name := number.__name__):
                families[name] = [run for size in sizes for run in self.tune(config.doll(size), number)]
        return families

    def tune(self, config, steps=None, **settings):
        """Return runs of all seeds, at the rate and batch with the lowest full loss on the first seed.

        steps: function of a batch size; None: the settings give a budget of flops.
        """

        def train_cell(rate, batch_size, seed):
            lr = float(f"{rate * default_lr(config):.3g}")
            budget = settings if steps is None else {"steps": round(steps(batch_size))}
            return self.one(config, seed, lr=lr, batch_size=batch_size, **budget)

        first, *others = self.args.seeds
        cells = itertools.product(self.args.rates, self.args.batches)
        tried = {cell: train_cell(*cell, first) for cell in cells}
        best = min(tried, key=lambda cell: tried[cell]["losses"][str(config.full)])
        return [tried[best], *(train_cell(*best, seed) for seed in others)]

    def one(self, config, seed, also=(), **settings):
        """Train a model; returns {"losses": {size: over all of val}, "flops", "seconds", ...}."""
        settings = dict(optimizer=self.args.optimizer, dtype=self.args.dtype, seed=seed, **settings)
        print(f"{' / '.join(map(str, config.sizes))}, {settings}", flush=True)

        def compute(folder):
            resumed = folder.exists()  # the time before is not known
            torch.manual_seed(seed)
            model = MatryoshkaGPT(config).to(DEVICE)
            few = dict(eval_interval=10**9, eval_blocks=1, progress=sys.stderr.isatty())
            state = dict(checkpoint_dir=folder, resume=True)
            history = whole(train(model, *self.ids, **settings, **few, **state))
            losses = evaluate_sizes(model, self.ids[1], [*config.sizes, *also])
            return {
                "losses": {str(size): loss for size, loss in losses.items()},
                "seconds": math.nan if resumed else history.seconds,
                "flops": history.spent,
                "silent": silent(model, self.ids[1]),
            }

        shape = dataclasses.asdict(config) | {"nesting": str(config.nesting), "also": str(also)}
        try:
            what = dict(corpus=self.corpus, config=shape, train=settings, device=DEVICE.type)
            result = stored(self.args.out, what, compute)
        except DivergedError:
            result = dict.fromkeys(("flops", "seconds", "silent"), math.nan)
            result["losses"] = {str(size): math.inf for size in config.sizes}
        print("   " + "  ".join(f"{size}: {loss:.4f}" for size, loss in result["losses"].items()), flush=True)
        return result | dict(lr=settings["lr"], batch_size=settings["batch_size"], also=also)


@torch.no_grad()
def silent(model, ids, n_blocks=256):
    """Return the largest fraction, over layers, of hidden units that no token of these blocks turns positive.

    Fewer blocks would count units that are only rare: on 8 of them six times as many.
    """
    active = {}

    def watch(layer, _, hidden):
        active[layer] = active.get(layer, False) | (hidden > 0).flatten(0, -2).any(0)

    hooks = [block.feedforward.expand.register_forward_hook(watch) for block in model.blocks]
    with model.mode(training=False):
        for x, _ in blocks(model, ids, n_blocks):
            model.features(x)
    for hook in hooks:
        hook.remove()
    return max(1 - units.double().mean().item() for units in active.values())


def show(args, config, families, unit):
    """Report the table and the figures of one family."""
    label = "-".join(filter(None, (args.optimizer, args.dtype)))
    length = f"{args.ratio:g}-tokens" if args.ratio else f"{args.budget:g}"
    dolls = "-".join(str(size).replace("/", "_") for size in config.sizes)[:120]  # a name may have 255 bytes
    name = f"quality-{Path(args.corpus).stem}-{label}-{dolls}-{config.block_size}-{length}"
    price = families["alone"][0]["flops"]
    params = {size: config.num_params(size) for size in config.sizes}
    rows = [{"doll": size, "parameters": f"{n:,}"} for size, n in params.items()]
    rows += [{"doll": text} for text in ("price", "minutes", "rate, batch", "silent units, at most")]
    curves, anywhere = {}, families.pop("range", None)
    for column, runs in families.items():
        losses = {s: [run["losses"][str(s)] for run in runs if str(s) in run["losses"]] for s in params}
        curves[column] = {size: seeds for size, seeds in losses.items() if seeds}
        flops, seconds = (sum(run[what] for run in runs) / len(args.seeds) for what in ("flops", "seconds"))
        largest = runs[-len(args.seeds) :]
        cells = [*map(mean_sd, losses.values()), f"{flops / price:.2f}", f"{seconds / 60:.1f}"]
        cells.append(f"{largest[0]['lr']:g}, {largest[0]['batch_size']}")
        cells.append(f"{max(run['silent'] for run in largest):.1%}")
        for row, cell in zip(rows, cells):
            row[column] = cell
    text = f"{args.corpus}, {label}, seeds {args.seeds}; loss over the whole validation text, {unit}, "
    text += f"mean ± sd; price 1 is {price:.3g} FLOPs.\n\n{markdown(rows)}"
    figures = {name: plot.baselines(params, curves, f"One price: {label}, {config.n_embd} wide")}
    if len(args.shares) > 1:
        figures[f"front-{name}"] = front(sorted(args.shares), config, curves)
    if anywhere:
        text += "\n\n" + above_the_line(config, curves[nested_name(args.shares[0])], anywhere)
    report(args.out, name, text, figures)


def front(shares, config, curves):
    """Draw how far each share leaves the full doll above itself alone, and each doll above itself apart."""
    figure, ax = plot.new_axes("What share do the smaller dolls need?", "share of the passes", "nats")
    for size in config.sizes:
        baseline = "alone" if size == config.full else "apart"
        if baseline in curves:
            beside = mean(curves[baseline][size])
            costs = [mean(curves[nested_name(share)][size]) - beside for share in shares]
            ax.plot(shares, costs, "o-", label=f"{size}, less {baseline}")
    ax.axhline(0, color="0.6", linewidth=1)
    ax.legend(frameon=False, fontsize=9)
    return figure


def above_the_line(config, nested, anywhere):
    """Say how far Sizes of a range lie above the line through the named dolls, over log FLOPs."""

    def log_flops(size):
        return math.log(flops_per_token(config, size))

    def loss(size):  # of a run that diverged only the named sizes are known
        return mean(run["losses"].get(str(size), math.inf) for run in anywhere)

    costs, line = zip(*sorted((log_flops(size), mean(losses)) for size, losses in nested.items()))
    above = [loss(size) - np.interp(log_flops(size), costs, line) for size in anywhere[0]["also"]]
    beside = f"above the line through the named dolls on average, {max(above):+.3f} at most"
    return f"A range: {len(above)} Sizes lie {mean(above):+.3f} {beside}."
