"""What a big model loses when it is nested: a whole family for the price of its largest member alone.

A budget C counts steps of the full model alone with batches of --batch-size. That model gets all of C, at its
best learning rate and batch; one nested run gets C too, tuned alike by its full doll. Each smaller doll has a
twin beside it: its shape alone, on as many tokens as the full model alone read, at its best rate.
"""

import math
import statistics
import sys
from functools import cache

import numpy as np
import torch

from .. import plot
from ..config import GPTConfig, Size
from ..measure.evaluation import evaluate
from ..model import MatryoshkaGPT
from ..ranges import Between
from ..sizes import inner_sizes
from ..text.batches import loss_unit
from ..text.token_files import read_corpus
from ..training.loop import train
from ..training.optimizer import default_lr, make_optimizers
from ..training.price import corners, price
from ..training.run import DivergedError
from ..training.state import digest
from .common import DEVICE, kept, markdown, mean_sd, report, whole


def add_arguments(parser):
    add = add_price(parser)
    family = ["32,1,1", "64,2,2", "96,3,3"]
    add("--nesting", nargs="+", default=family, help="dolls inside the full one")
    add("--n-embd", type=int, nargs="+", default=[128], help="several: dolls, budget, rates in proportion")
    add("--n-head", type=int, default=4)
    add("--n-layer", type=int, default=4)
    add("--rates", type=float, nargs="+", default=[0.35, 0.5, 0.7, 1, 1.4], help="times the default, tried")
    add("--batches", type=int, nargs="+", default=[12, 16, 20], help="batch sizes, tried with these rates")
    add("--no-twins", action="store_true", help="the full model alone, without those of its small dolls")
    add("--out", default="runs/price", help="folder for finished runs, table and figure")
    add("--quick", action="store_true", help="one seed, rate and batch, 100 steps: a minute or two")


def add_price(parser):
    """The options of every comparison at one price; returns what adds more."""
    add = parser.add_argument
    add("--corpus", default="shakespeare", help="a corpus, a file, or a folder of the data command")
    add("--block-size", type=int, default=64)
    add("--batch-size", type=int, default=12, help="of the steps that the budget counts")
    add("--budget", type=float, default=2000, help="C, in steps of the full model alone")
    add("--optimizer", choices=("adamw", "muon"), default="muon")
    add("--dtype", choices=("float32", "bfloat16"), help="in which steps multiply matrices, as in train")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return add


def run(args):
    if args.quick:
        args.budget, args.seeds, args.rates, args.batches = 100, args.seeds[:1], [1], [12]
        args.out += "-quick"
    train_ids, val_ids, tokenizer = read_corpus(args.corpus)
    bench, params, tried = Bench(args, train_ids, val_ids), {}, [(args.rates, args.batches)] * 2
    full_dolls = {}, {}  # alone and nested, of each width
    for D in args.n_embd:
        dolls = [wider(doll, D / args.n_embd[0]) for doll in map(Size.parse, args.nesting)]
        full = GPTConfig(tokenizer.vocab_size, args.block_size, D, args.n_head, args.n_layer, dolls)
        params[full.full] = full.num_params()
        budget = args.budget * params[full.full] / next(iter(params.values()))
        both = compare(bench, args, full, budget, tried, loss_unit(tokenizer, val_ids))
        tried = [([found["lr"] / default_lr(full)], [found["batch_size"]]) for found in both]
        for losses, found in zip(full_dolls, both):
            losses[full.full] = of(found, full.full)
    if len(params) > 1:
        figure = plot.loss_against_params(params, *full_dolls[::-1], f"Full models: {bench.label}")
        figure.gca().set_yscale("log")
        figure.gca().yaxis.set_minor_formatter("{x:g}")
        rows = [[s, f"{n:,}", *(mean_sd(losses[s]) for losses in full_dolls)] for s, n in params.items()]
        table = markdown(["full model", "parameters", "alone", "nested"], rows)
        report(args.out, f"scale-{bench.label}", table, {f"scale-{bench.label}": figure})


def wider(doll, times):
    """That doll of a model so many times as wide."""
    inner = tuple(round(times * f) for f in inner_sizes(doll.n_inner, doll.n_layer))
    return Size(round(times * doll.n_embd), doll.n_head, doll.n_layer, inner)


def compare(bench, args, full, budget, tried, unit):
    """Table and figure of one model; what was found for it alone, and nested."""
    flops = budget * bench.step_flops(full.doll(full.full))
    both = zip((full.doll(full.full), full), tried)
    alone, nested = (bench.tune(config, *grid, flops=flops) for config, grid in both)
    lower = sorted({0.5, 0.7, 1, *args.rates})  # the default rate, 1 / width, is high for the narrow ones
    small, tokens = [] if args.no_twins else full.sizes[:-1], alone["runs"][0]["tokens"]
    twins = {size: bench.tune(full.doll(size), lower, [12], tokens=tokens) for size in small}
    show(args, full, {**twins, full.full: alone}, nested, budget, bench.label, unit)
    return alone, nested


def of(found, size):
    """Losses of a size, one a seed."""
    return [run["losses"][str(size)] for run in found["runs"]]


class Bench:
    """Runs on one corpus with one optimizer, each kept in the folder."""

    def __init__(self, args, *ids):
        self.args, self.ids, self.corpus = args, ids, [digest(np.asarray(part)) for part in ids]
        self.label = "-".join(filter(None, (args.optimizer, args.dtype)))

    def step_flops(self, config):
        """Price of a step of this model alone at --batch-size, its optimizer's share with it."""
        model = MatryoshkaGPT(config)
        passes = price(model, [config.full]) * self.args.batch_size * config.block_size
        return passes + make_optimizers(self.args.optimizer, model, 0, 0).flops(corners(config, config.full))

    def one(self, config, seed, also=(), **settings):
        """Train a model: {"losses": {size: nats over all of val}, "seconds", "tokens", "flops"}.

        also: Sizes to measure besides those of the nesting.
        """
        settings = dict(optimizer=self.args.optimizer, seed=seed, **settings)
        settings |= dict(dtype=self.args.dtype) if self.args.dtype else {}
        nesting = [str(size) for size in config.sizes]
        if isinstance(config.nesting, Between) or also:
            nesting.append(str((config.nesting, also)))
        shape = {**vars(config), "nesting": nesting}

        def compute(state):
            torch.manual_seed(seed)
            model = MatryoshkaGPT(config).to(DEVICE)
            few = dict(eval_interval=10**9, eval_blocks=1, progress=sys.stderr.isatty())
            history = train(model, *self.ids, **settings, **few, checkpoint_dir=state, resume=True)
            history = whole(history, settings.get("steps"), settings.get("flops"))
            losses = {str(size): evaluate(model, self.ids[1], size) for size in (*model.sizes, *also)}
            tokens = history.steps[-1] * settings["batch_size"] * config.block_size
            return dict(losses=losses, seconds=history.seconds, tokens=tokens, flops=history.flops[-1])

        print(f"{' / '.join(map(str, config.sizes))}, {settings}", flush=True)
        try:
            found = kept(self.args.out, dict(corpus=self.corpus, config=shape, train=settings), compute)
        except DivergedError:
            return dict(losses={str(size): math.inf for size in config.sizes})
        print("   " + "  ".join(f"{size}: {loss:.4f}" for size, loss in found["losses"].items()), flush=True)
        return found

    def tune(self, config, rates, batches, flops=None, tokens=None):
        """Rate and batch of the lowest loss of the largest doll on the first seed, and the runs of all seeds.

        From the middle of the grid, neighbours are tried until none is better.
        """

        @cache
        def loss(cell):
            return self.one(config, self.args.seeds[0], **settings(cell))["losses"][str(config.full)]

        def settings(cell):
            lr, size = float(f"{rates[cell[0]] * default_lr(config):.3g}"), batches[cell[1]]
            steps = None if tokens is None else round(tokens / size / config.block_size)
            return dict(lr=lr, batch_size=size, steps=steps, flops=flops)

        def near(cell):
            for i, j in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
                if 0 <= cell[0] + i < len(rates) and 0 <= cell[1] + j < len(batches):
                    yield cell[0] + i, cell[1] + j

        best = None, (len(rates) // 2, len(batches) // 2)
        while best[0] != best[1]:
            best = best[1], min(near(best[1]), key=loss)
        chosen = settings(best[0])
        return {**chosen, "runs": [self.one(config, seed, **chosen) for seed in self.args.seeds]}


def show(args, full, alone, nested, budget, label, unit):
    """The table and the figure."""
    rows, name = [], f"quality-{label}-{full.n_embd}-{budget:g}"
    whole = nested["runs"][0]
    for size in full.sizes:
        row = [size, f"{full.num_params(size):,}", mean_sd(of(nested, size)), *[""] * 4]
        if size in alone:
            twin, cost = alone[size], alone[size]["runs"][0]
            row[3] = f"{mean_sd(of(twin, size))} ({twin['lr']:g}, {twin['batch_size']})"
            row[4] = f"{statistics.mean(of(nested, size)) - statistics.mean(of(twin, size)):+.3f}"
            row[5:] = f"{cost['flops'] / whole['flops']:.2f}", f"{cost['seconds'] / 60:.1f}"
        rows.append(row)
    header = ["doll", "parameters", "nested", "alone (lr, batch)", "difference", "price alone", "minutes"]
    together = sum(found["runs"][0]["flops"] for found in alone.values()) / whole["flops"]
    text = (
        f"{args.corpus}, {label}, C = {budget:g} steps of the full model alone, seeds "
        f"{args.seeds}; loss over the whole validation text, {unit}, mean ± sd.\n"
        f"One nested run (lr {nested['lr']:g}, batch {nested['batch_size']}) takes "
        f"{whole['seconds'] / 60:.1f} minutes; all models alone cost {together:.2f} times as much.\n\n"
    )
    params = {size: full.num_params(size) for size in full.sizes}
    dolls = {size: of(nested, size) for size in full.sizes}
    twins = {size: of(found, size) for size, found in alone.items()}
    figure = plot.loss_against_params(params, dolls, twins, f"A family at one price: {label}")
    report(args.out, name, text + markdown(header, rows), {name: figure})
