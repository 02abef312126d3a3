"""What nesting costs and gains: one nested run beside three baselines, at one price.

The price C is that of training the full model alone, in FLOPs, optimizer included. With it stand

- nested: one run that trains the whole family, for C;
- alone: the full model alone, for C: what the largest doll pays for its company;
- apart: each model of the family alone, for C together, each on as many tokens: why one nests at all;
- twins: each model alone on as many tokens as the full model alone reads, for more than C together.

Each model is tuned alike, over learning rates and batch sizes.
"""

import dataclasses
import math
import statistics
import sys

import numpy as np
import torch

from .. import plot
from ..config import GPTConfig
from ..measure.evaluation import blocks, evaluate_sizes
from ..measure.shapes import flops_per_token
from ..model import MatryoshkaGPT
from ..ranges import between
from ..sizes import Size, inner_sizes
from ..text.batches import loss_unit
from ..text.token_files import read_corpus
from ..training.checkpoint import digest
from ..training.cost import optimizer_flops, training_flops
from ..training.loop import SHARE, DivergedError, train
from ..training.optimizer import default_lr
from .common import DEVICE, markdown, mean_sd, report, stored, whole


def add_arguments(parser):
    add = parser.add_argument
    add("--corpus", default="shakespeare", help="a corpus, a file, or a folder of the data command")
    add("--nesting", nargs="+", default=["32,1,1", "64,2,2", "96,3,3"], help="dolls inside the full model")
    add("--n-embd", type=int, nargs="+", default=[128], help="several: dolls, budget, rates in proportion")
    add("--n-head", type=int, default=4)
    add("--n-layer", type=int, default=4)
    add("--block-size", type=int, default=64)
    add("--batch-size", type=int, default=12, help="of the steps that the budget counts")
    add("--budget", type=float, default=2000, help="C, in steps of the full model alone")
    add("--ratio", type=float, help="C, in tokens a parameter, in place of --budget")
    add(
        "--shares",
        type=float,
        nargs="+",
        default=[SHARE],
        help="of C for the smaller dolls; several: a front",
    )
    add("--optimizer", choices=("adamw", "muon"), default="muon")
    add("--dtype", choices=("float32", "bfloat16"), help="in which steps multiply matrices, as in train")
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
    bench, unit = Bench(args, train_ids, val_ids), loss_unit(tokenizer, val_ids)
    params, scale = {}, {"alone": {}, "nested": {}}
    for width in args.n_embd:
        dolls = [wider(Size.parse(doll), width / args.n_embd[0]) for doll in args.nesting]
        config = GPTConfig(tokenizer.vocab_size, args.block_size, width, args.n_head, args.n_layer, dolls)
        families = compare(bench, args, config)
        show(args, config, families, bench, unit)
        params[config.full] = config.num_params()
        for name, family in zip(scale, (families["alone"], families[nested_name(args.shares[0])])):
            scale[name][config.full] = losses(family, config.full)
    if len(params) > 1:
        rows = [[s, f"{n:,}", *(mean_sd(scale[name][s]) for name in scale)] for s, n in params.items()]
        figure = plot.baselines(params, scale, f"Full models of several widths: {bench.label}")
        text = markdown(["full model", "parameters", *scale], rows)
        report(args.out, f"scale-{bench.label}", text, {f"scale-{bench.label}": figure})


def wider(doll, times):
    """The same doll of a model that is so many times as wide."""
    inner = tuple(round(times * f) for f in inner_sizes(doll.n_inner, doll.n_layer))
    return Size(round(times * doll.n_embd), doll.n_head, doll.n_layer, inner)


def nested_name(share):
    return f"nested, share {share:g}"


def losses(family, size):
    """Losses of a size, one a seed."""
    return [run["losses"][str(size)] for run in family[size]]


def compare(bench, args, config):
    """Train one family and its baselines at one price; returns {name: {size: runs, one a seed}}."""
    full, tokens_of_step = config.doll(config.full), args.batch_size * config.block_size
    steps = args.ratio * config.num_params() / tokens_of_step if args.ratio else args.budget
    price, tokens = steps * bench.step_flops(full), steps * tokens_of_step
    families = {"alone": {config.full: bench.tune(full, flops=price)}}
    for share in args.shares:
        families[nested_name(share)] = dict.fromkeys(
            config.sizes, bench.tune(config, flops=price, share=share)
        )
    if args.held:
        nesting = between(config.sizes[0], config.full)
        anywhere = dataclasses.replace(config, nesting=nesting)
        held = set(anywhere.sample(args.held)) - {config.full}
        also = dict(also=config.in_order(held))
        families["range"] = dict.fromkeys(also["also"], bench.tune(anywhere, flops=price, **also))
    together = sum(bench.step_flops(config.doll(size)) for size in config.sizes)
    for name, read in (("apart", tokens * bench.step_flops(full) / together), ("twins", tokens)):
        if getattr(args, name):
            families[name] = {size: bench.tune(config.doll(size), tokens=read) for size in config.sizes}
    return families


class Bench:
    """Runs on one corpus with one optimizer; results stay in the folder --out."""

    def __init__(self, args, *ids):
        self.args, self.ids, self.corpus = args, ids, [digest(np.asarray(part)) for part in ids]
        self.label = "-".join(filter(None, (args.optimizer, args.dtype)))

    def step_flops(self, config):
        """FLOPs of a training step of this model alone, on --batch-size blocks, optimizer included."""
        model = MatryoshkaGPT(config)
        passes = training_flops(model, [config.full]) * self.args.batch_size * config.block_size
        return passes + optimizer_flops(model, self.args.optimizer)

    def one(self, config, seed, also=(), **settings):
        """Train a model; returns {"losses": {size: over all of val}, "tokens", "flops", "seconds", ...}."""
        settings = dict(optimizer=self.args.optimizer, dtype=self.args.dtype, seed=seed, **settings)
        print(f"{' / '.join(map(str, config.sizes))}, {settings}", flush=True)

        def compute(folder):
            torch.manual_seed(seed)
            model = MatryoshkaGPT(config).to(DEVICE)
            few = dict(eval_interval=10**9, eval_blocks=1, progress=sys.stderr.isatty())
            history = train(model, *self.ids, **settings, **few, checkpoint_dir=folder, resume=True)
            history = whole(history, settings.get("steps"), settings.get("flops"))
            sizes = config.in_order([*config.sizes, *also])
            measured = evaluate_sizes(model, self.ids[1], sizes)
            tokens = history.done * settings["batch_size"] * config.block_size
            numbers = dict(
                seconds=history.seconds, tokens=tokens, flops=history.spent, silent=silent(model, self.ids[1])
            )
            return {"losses": {str(size): loss for size, loss in measured.items()}, **numbers}

        shape = {**dataclasses.asdict(config), "nesting": str(config.nesting), "also": str(also)}
        try:
            result = stored(self.args.out, dict(corpus=self.corpus, config=shape, train=settings), compute)
        except DivergedError:
            result = dict(flops=math.nan, seconds=math.nan, tokens=0, silent=math.nan)
            result["losses"] = {str(size): math.inf for size in config.sizes}
        print("   " + "  ".join(f"{size}: {loss:.4f}" for size, loss in result["losses"].items()), flush=True)
        return result | {name: settings[name] for name in ("lr", "batch_size")}

    def tune(self, config, tokens=None, **settings):
        """Runs of all seeds, at the rate and batch with the lowest loss of the largest doll on the first.

        The search starts in the middle of the grid and goes to the best neighbour until none is better.
        """
        rates, batches, tried = self.args.rates, self.args.batches, {}

        def train_cell(cell, seed):
            if (cell, seed) not in tried:
                lr, batch_size = float(f"{rates[cell[0]] * default_lr(config):.3g}"), batches[cell[1]]
                steps = {} if tokens is None else {"steps": round(tokens / batch_size / config.block_size)}
                tried[cell, seed] = self.one(config, seed, lr=lr, batch_size=batch_size, **steps, **settings)
            return tried[cell, seed]

        def loss(cell):
            return train_cell(cell, self.args.seeds[0])["losses"][str(config.full)]

        best, last = (len(rates) // 2, len(batches) // 2), None
        while best != last:
            i, j = last = best
            near = [(i, j), (i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
            best = min([c for c in near if 0 <= c[0] < len(rates) and 0 <= c[1] < len(batches)], key=loss)
        return [train_cell(best, seed) for seed in self.args.seeds]


@torch.no_grad()
def silent(model, ids, n_blocks=8):
    """The largest fraction, over layers, of hidden units that no token of some blocks turns positive."""
    positive = {}

    def watch(layer, _, hidden):
        active = (hidden > 0).flatten(0, -2).any(0)
        positive[layer] = positive.get(layer, False) | active

    hooks = [block.feedforward.expand.register_forward_hook(watch) for block in model.blocks]
    with model.mode(training=False):
        for x, _ in blocks(model, ids, n_blocks, n_blocks):
            model(x)
    for hook in hooks:
        hook.remove()
    return max(1 - active.double().mean().item() for active in positive.values())


def show(args, config, families, bench, unit):
    """Report the table and the figures of one family."""
    name = f"quality-{bench.label}-{config.n_embd}-{args.ratio or args.budget:g}"
    price = families["alone"][config.full][0]["flops"]
    small = {n: family for n, family in families.items() if n != "range"}
    rows = [
        [size, f"{config.num_params(size):,}"]
        + [mean_sd(losses(family, size)) if size in family else "" for family in small.values()]
        for size in config.sizes
    ]
    each = {n: {id(runs): runs for runs in family.values()}.values() for n, family in small.items()}
    together = {n: [sum(runs[0][what] for runs in each[n]) for what in ("flops", "seconds")] for n in small}
    rows.append(["price", "", *(f"{flops / price:.2f}" for flops, _ in together.values())])
    rows.append(["minutes", "", *(f"{seconds / 60:.1f}" for _, seconds in together.values())])
    chosen = [family[config.full][0] for family in small.values()]
    rows.append(["rate, batch", "", *(f"{run['lr']:g}, {run['batch_size']}" for run in chosen)])
    rows.append(
        [
            "silent units, at most",
            "",
            *(f"{max(r['silent'] for r in f[config.full]):.1%}" for f in small.values()),
        ]
    )
    text = (
        f"{args.corpus}, {bench.label}, seeds {args.seeds}; loss over the whole validation text, {unit}, "
        f"mean ± sd; price 1 is {price:.3g} FLOPs.\n\n{markdown(['doll', 'parameters', *small], rows)}"
    )
    params = {size: config.num_params(size) for size in config.sizes}
    curves = {n: {size: losses(family, size) for size in family} for n, family in small.items()}
    figures = {name: plot.baselines(params, curves, f"One price: {bench.label}, {config.n_embd} wide")}
    if len(args.shares) > 1:
        figures[f"front-{name}"] = front(args, config, families)
    if "range" in families:
        text += "\n\n" + above_the_line(config, families, nested_name(args.shares[0]))
    report(args.out, name, text, figures)


def front(args, config, families):
    """Figure: what each share costs the full doll beside itself alone, and each doll beside itself apart."""
    figure, ax = plot.new_axes("What share do the smaller dolls need?", "share of the price", "nats")
    for size in config.sizes:
        baseline = families["alone" if size == config.full else "apart"] if "apart" in families else {}
        baseline = families["alone"] if size == config.full else baseline
        if size in baseline:
            beside = statistics.mean(losses(baseline, size))
            means = [statistics.mean(losses(families[nested_name(s)], size)) - beside for s in args.shares]
            label = f"{size}, less {'alone' if size == config.full else 'apart'}"
            ax.plot(args.shares, means, "o-", label=label)
    ax.axhline(0, color="0.6", linewidth=1)
    ax.legend(frameon=False, fontsize=9)
    return figure


def above_the_line(config, families, nested):
    """A sentence: how far Sizes of a range lie above the line through the named dolls, over log FLOPs."""
    cost = [math.log(flops_per_token(config, size)) for size in config.sizes]
    line = [statistics.mean(losses(families[nested], size)) for size in config.sizes]
    above = [
        statistics.mean(losses(families["range"], size))
        - np.interp(math.log(flops_per_token(config, size)), cost, line)
        for size in families["range"]
    ]
    return (
        f"A range: {len(above)} Sizes lie {statistics.mean(above):+.3f} above the line through the named "
        f"dolls on average, {max(above):+.3f} at most; the full doll has "
        f"{mean_sd(losses(families['range'], config.full))}."
    )
