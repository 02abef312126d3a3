"""Is a doll as good as a twin: the same shape trained alone, at its own best learning rate?"""
import statistics
import time

import torch

from .. import plot
from ..config import GPTConfig, Size
from ..model import MatryoshkaGPT
from ..training import default_lr, train
from .common import corpus, device, markdown, mean_sd, minutes, report, train_and_measure


def add_arguments(parser):
    parser.add_argument("--corpus", default="shakespeare", help="a corpus or file, as load_text takes it")
    parser.add_argument("--nesting", nargs="+", default=["32", "64", "128"], help="widths, or width,heads,layers")
    parser.add_argument("--n-embd", type=int, default=128)
    parser.add_argument("--n-head", type=int, default=4)
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lr", type=float, help="of the nested run; default: that of train")
    parser.add_argument("--grid", type=float, nargs="+", default=[0.25, 0.5, 1.0, 2.0],
                        help="learning rates tried for each twin, as multiples of the default at its width")
    parser.add_argument("--out", default="runs/quality", help="folder for finished runs, table and figure")
    parser.add_argument("--quick", action="store_true", help="one seed, 200 steps, one learning rate: two minutes")


def settings_of(args, seed, lr, size=None):
    """What one run depends on: the nested model, or the twin of `size`, whose shape is that of the sliced doll."""
    config = dict(vocab_size=args.vocab_size, block_size=args.block_size, n_embd=args.n_embd, n_head=args.n_head,
                  n_layer=args.n_layer, dropout=args.dropout)
    full = GPTConfig(**config, nesting=[Size.parse(s) if "," in s else int(s) for s in args.nesting])
    if size is None:
        config["nesting"] = [str(s) for s in full.sizes]
    else:
        config.update(n_embd=size.n_embd, n_head=size.n_head, n_layer=size.n_layer, n_inner=size.n_inner,
                      head_size=full.head_size_of(size))
    return full, {"corpus": args.corpus, "config": config,
                  "train": dict(steps=args.steps, batch_size=args.batch_size, seed=seed, lr=lr)}


def run(args):
    if args.quick:
        args.steps, args.seeds, args.grid, args.out = 200, args.seeds[:1], [0.5], args.out + "-quick"
    data = corpus(args.corpus)
    args.vocab_size = data[2].vocab_size
    full, _ = settings_of(args, 0, None)
    lr = default_lr(full) if args.lr is None else args.lr
    todo = [(None, lr, seed) for seed in args.seeds]
    todo += [(size, float(f"{factor * default_lr(full.doll(size)):.3g}"), seed)
             for size in full.sizes for factor in args.grid for seed in args.seeds]
    print(f"{len(todo)} runs of {args.steps} steps, about {minutes(estimate(args, data, full, todo))} in all on "
          f"{device()}, less what {args.out} holds already")
    doll, twin = {s: [] for s in full.sizes}, {s: {} for s in full.sizes}
    for i, (size, rate, seed) in enumerate(todo):
        print(f"[{i + 1}/{len(todo)}] {'nested' if size is None else 'twin ' + str(size)}, lr {rate:g}, seed {seed}",
              flush=True)
        losses = train_and_measure(args.out, data, settings_of(args, seed, rate, size)[1])
        print("   " + "  ".join(f"{s}: {loss:.4f}" for s, loss in losses.items()), flush=True)
        if size is None:
            for s in full.sizes:
                doll[s].append(losses[str(s)])
        else:
            twin[size].setdefault(rate, []).append(*losses.values())
    show(args, full, lr, doll, twin)


def estimate(args, data, full, todo):
    """Seconds that all runs take, from a few steps of each kind on this machine."""
    cost = {}
    for size in (None, *full.sizes):
        config = full if size is None else full.doll(size)
        with torch.random.fork_rng():
            model = MatryoshkaGPT(config).to(device())
        few = dict(batch_size=args.batch_size, eval_interval=99, eval_blocks=1, progress=False)
        train(model, *data[:2], steps=2, **few)
        start = time.perf_counter()
        train(model, *data[:2], steps=6, **few)
        cost[size] = (time.perf_counter() - start) / 6
    return args.steps * sum(cost[size] for size, _, _ in todo)


def show(args, full, lr, doll, twin):
    rows, best_twin = [], {}
    for size in full.sizes:
        rate = min(twin[size], key=lambda r: statistics.mean(twin[size][r]))
        best_twin[size] = twin[size][rate]
        difference = statistics.mean(doll[size]) - statistics.mean(best_twin[size])
        rows.append([size, f"{full.num_params(size):,}", f"{mean_sd(best_twin[size])} ({rate:g})", mean_sd(doll[size]),
                     f"{difference:+.3f}"])
    table = markdown(["doll (width, heads, layers)", "parameters", "twin trained alone (its best lr)",
                      f"doll (one run, lr {lr:g})", "difference"], rows)
    tried = "; ".join(f"{size}: " + ", ".join(f"{r:g} → {statistics.mean(v):.3f}" for r, v in sorted(twin[size].items()))
                      for size in full.sizes)
    report(args.out, "quality", f"{args.corpus}, {args.steps} steps, seeds {args.seeds}; validation loss in nats per "
           f"token over the whole validation text, mean ± sd.\n\n{table}\n\nTwins at every rate tried: {tried}.")
    figure = plot.loss_against_params({s: full.num_params(s) for s in full.sizes}, doll, best_twin)
    figure.savefig(f"{args.out}/quality.png", dpi=150)
    plot.close(figure)
