"""What a big model loses when it is nested, at the same price: a whole family for the FLOPs of its largest alone.

A budget C is given in steps of the full model alone with batches of --batch-size. The full model alone gets all of C,
at its best learning rate and batch; one nested run gets C, tuned alike by its full doll. Each smaller doll stands
beside a twin: its shape trained alone, on as many tokens as the full model alone read, at its best rate.
"""

import math
import statistics
import sys
from itertools import product

import torch

from .. import plot
from ..config import GPTConfig, parse_doll
from ..measure.evaluation import evaluate
from ..model import MatryoshkaGPT
from ..training.loop import DivergedError, train
from ..training.optimizer import corners, default_lr, make_optimizers
from ..training.schedule import price
from .common import corpus, device, digest, kept, markdown, mean_sd, minutes, report


def add_arguments(parser):
    add = parser.add_argument
    add("--corpus", default="shakespeare", help="a corpus, a file, or a folder of the data command")
    add("--nesting", nargs="+", default=["32,1,1", "64,2,2", "96,3,3"], help="dolls inside the full one")
    add("--n-embd", type=int, default=128)
    add("--n-head", type=int, default=4)
    add("--n-layer", type=int, default=4)
    add("--block-size", type=int, default=64)
    add("--batch-size", type=int, default=12, help="of the steps that the budget counts")
    add("--budget", type=float, default=2000, help="C, in steps of the full model alone")
    add("--optimizer", choices=("adamw", "muon"), default="muon")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add(
        "--rates",
        type=float,
        nargs="+",
        default=[0.5, 0.7, 1, 1.4],
        help="multiples of the default rate, tried",
    )
    add("--batches", type=int, nargs="+", default=[8, 12, 20], help="batch sizes, tried with each rate")
    add("--out", default="runs/price", help="folder for finished runs, table and figure")
    add("--quick", action="store_true", help="one seed, rate and batch, 100 steps: a minute or two")


def run(args):
    if args.quick:
        args.budget, args.seeds, args.rates, args.batches = 100, args.seeds[:1], [1], [12]
        args.out += "-quick"
    train_ids, val_ids, tokenizer = data = corpus(args.corpus)
    full = GPTConfig(
        tokenizer.vocab_size, args.block_size, args.n_embd, args.n_head, args.n_layer,
        nesting=[parse_doll(doll) for doll in args.nesting],
    )  # fmt: skip
    bench = Bench(args, data, digest(train_ids, val_ids))
    flops = args.budget * bench.step_flops(full)
    alone = bench.tune(full.doll(full.full), flops, args.rates, args.batches)
    nested = bench.tune(full, flops, args.rates, args.batches)
    tokens = alone["runs"][0]["tokens"]
    twins = {
        size: bench.tune(full.doll(size), None, args.rates + [2, 2.8], [12], tokens)
        for size in full.sizes[:-1]
    }
    show(args, full, {**twins, full.full: alone}, nested)


class Bench:
    """Runs of one corpus and optimizer, each kept in the folder."""

    def __init__(self, args, data, corpus):
        self.args, self.data, self.corpus = args, data, corpus

    def step_flops(self, config):
        """Price of a step of the full model alone, its optimizer's share with it."""
        model, config = MatryoshkaGPT(config.doll(config.full)), config.doll(config.full)
        optimizers = make_optimizers(self.args.optimizer, model, 0.0, 0.0)
        passes = price(model, [[config.full]]) * self.args.batch_size * config.block_size
        return passes + optimizers.flops(corners(config, config.full))

    def one(self, config, seed, **settings):
        """Train one model: {"losses": {size: nats over the whole validation text}, "seconds", "tokens", "flops"}."""
        train_ids, val_ids, _ = self.data
        settings = dict(optimizer=self.args.optimizer, seed=seed, **settings)
        shape = {**vars(config), "nesting": [str(size) for size in config.sizes]}

        def compute():
            torch.manual_seed(seed)
            model = MatryoshkaGPT(config).to(device())
            ends = dict(eval_interval=10**9, eval_blocks=1, progress=sys.stderr.isatty())
            history = train(model, train_ids, val_ids, **settings, **ends)
            losses = {str(size): evaluate(model, val_ids, size) for size in model.sizes}
            read = history.steps[-1] * settings["batch_size"] * config.block_size
            return dict(losses=losses, seconds=history.seconds, tokens=read, flops=history.flops[-1])

        print(f"{' / '.join(shape['nesting'])}, {settings}", flush=True)
        try:
            found = kept(self.args.out, dict(corpus=self.corpus, config=shape, train=settings), compute)
        except DivergedError:
            return dict(losses={str(size): math.inf for size in config.sizes}, seconds=0, tokens=0, flops=0)
        print("   " + "  ".join(f"{size}: {loss:.4f}" for size, loss in found["losses"].items()), flush=True)
        return found

    def tune(self, config, flops, rates, batches, tokens=None):
        """The rate and batch of the lowest loss of the largest doll on the first seed, and all seeds' runs there.

        From the middle of the grid, neighbours are tried until none is better.
        """
        tried, seeds = {}, self.args.seeds

        def settings(cell):
            rate, size = rates[cell[0]] * default_lr(config), batches[cell[1]]
            budget = (
                dict(flops=flops) if tokens is None else dict(steps=round(tokens / size / config.block_size))
            )
            return dict(lr=float(f"{rate:.3g}"), batch_size=size, **budget)

        def loss(cell):
            if cell not in tried:
                tried[cell] = self.one(config, seeds[0], **settings(cell))["losses"][str(config.full)]
            return tried[cell]

        best = (len(rates) // 2, len(batches) // 2)
        while True:
            near = [
                (best[0] + i, best[1] + j) for i, j in product((-1, 0, 1), repeat=2) if abs(i) + abs(j) < 2
            ]
            better = min((c for c in near if 0 <= c[0] < len(rates) and 0 <= c[1] < len(batches)), key=loss)
            if better == best:
                break
            best = better
        chosen = settings(best)
        return {**chosen, "tried": len(tried), "runs": [self.one(config, seed, **chosen) for seed in seeds]}


def show(args, full, alone, nested):
    rows, losses = [], lambda found, size: [run["losses"][str(size)] for run in found["runs"]]
    for size in full.sizes:
        twin, doll, cost = losses(alone[size], size), losses(nested, size), alone[size]["runs"][0]
        rows.append([
            size, f"{full.num_params(size):,}", f"{mean_sd(twin)} ({alone[size]['lr']:g}, {alone[size]['batch_size']})",
            mean_sd(doll), f"{statistics.mean(doll) - statistics.mean(twin):+.3f}",
            f"{cost['flops'] / nested['runs'][0]['flops']:.2f}", minutes(cost["seconds"]),
        ])  # fmt: skip
    table = markdown(
        ["doll", "parameters", "alone (lr, batch)", "nested", "difference", "price alone", "time"], rows
    )
    price_of_all = sum(alone[size]["runs"][0]["flops"] for size in full.sizes) / nested["runs"][0]["flops"]
    report(
        args.out, f"quality-{args.optimizer}-{args.budget:g}",
        f"{args.corpus}, {args.optimizer}, C = {args.budget:g} steps of the full model alone, seeds {args.seeds}; "
        "validation loss, nats per token over the whole validation text, mean ± sd. One nested run, lr "
        f"{nested['lr']:g}, batch {nested['batch_size']}, {minutes(nested['runs'][0]['seconds'])}, price 1; the models "
        f"trained alone {price_of_all:.2f} together.\n\n{table}",
    )  # fmt: skip
    figure = plot.loss_against_params(
        {size: full.num_params(size) for size in full.sizes},
        {size: losses(nested, size) for size in full.sizes},
        {size: losses(alone[size], size) for size in full.sizes},
    )
    figure.savefig(f"{args.out}/quality-{args.optimizer}-{args.budget:g}.png", dpi=150)
    plot.close(figure)
