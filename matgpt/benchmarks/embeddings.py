"""What does each size know? Retrieval, sizes between, and pairs of tokens, over several seeds."""

import statistics
import time

import torch

from .. import plot
from ..config import GPTConfig
from ..embeddings.pooling import embed
from ..embeddings.retrieval import (
    accuracy,
    adaptive,
    by_dimension,
    center,
    chance,
    halves,
    nearest,
    overlaps,
    passages,
    pca,
    token_counts,
)
from ..embeddings.similarity import char_pairs, frequent, pair_trends, token_names, word_pairs
from ..measure.evaluation import evaluate
from ..model import MatryoshkaEmbeddingsGPT
from ..text.corpus import load_topics
from ..text.tokenizer import CharTokenizer
from ..training.loop import train
from .common import corpus, device, kept, markdown, mean_sd, minutes, report

MODELS = ("Matryoshka", "plain GPT")


def add_arguments(parser):
    parser.add_argument("--tokenizers", nargs="+", default=["bpe", "char"], choices=["bpe", "char"])
    parser.add_argument(
        "--nesting",
        type=int,
        nargs="+",
        default=[8, 16, 32, 64, 128],
        help="widths; the last is the full one",
    )
    parser.add_argument(
        "--between", type=int, nargs="+", default=[12, 24, 48, 96], help="widths that are not trained"
    )
    parser.add_argument("--n-head", type=int, default=4)
    parser.add_argument("--n-layer", type=int, default=2)
    parser.add_argument("--block-size", type=int, default=64, help="tokens")
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights, batches, and the halves"
    )
    parser.add_argument("--passage", type=int, default=512, help="characters of a passage")
    parser.add_argument(
        "--shortlists", type=int, nargs="+", default=[5, 10, 20, 50, 100, 200], help="passages ranked again"
    )
    parser.add_argument(
        "--out", default="runs/embeddings", help="folder for finished runs, table and figures"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed, 200 steps, byte pairs alone: two minutes"
    )


def build(args, tokenizer, name, seed):
    torch.manual_seed(seed)
    return MatryoshkaEmbeddingsGPT(
        GPTConfig(
            tokenizer.vocab_size,
            args.block_size,
            max(args.nesting),
            args.n_head,
            args.n_layer,
            nesting=args.nesting if name == MODELS[0] else None,
        )
    ).to(device())


def measure(args, data, seed):
    """Everything about one seed, as a JSON object: {what: {model or method: numbers}}."""
    train_ids, val_ids, tokenizer = data
    texts, labels, _ = passages(load_topics(), args.passage)
    index, queries = halves(labels, seed)
    known, asked = labels[index], labels[queries]
    out = {what: {} for what in ("loss", "retrieval", "between", "overlap", "trends", "adaptive")}
    names, among = token_names(tokenizer), frequent(train_ids, tokenizer.vocab_size)
    pairs = (char_pairs if isinstance(tokenizer, CharTokenizer) else word_pairs)(names, among)
    dims, every = sorted(args.nesting), sorted(args.nesting + args.between)
    for name in MODELS:
        model = build(args, tokenizer, name, seed)
        if name == MODELS[1]:  # how much of it is training, and how much the words that two passages share?
            fresh = embed(model, texts, tokenizer=tokenizer).cpu()
            out["retrieval"]["untrained, cut"] = by_dimension(
                *center(fresh[index], fresh[queries]), known, asked, dims
            )
        # MRL's own loss and nanoGPT's optimizer: nothing but the cut sizes sets the two models apart
        train(
            model,
            train_ids,
            val_ids,
            args.steps,
            args.batch_size,
            seed=seed,
            optimizer="adamw",
            eval_interval=args.steps,
            eval_blocks=1,
        )
        embeddings = embed(
            model, texts, tokenizer=tokenizer
        ).cpu()  # the trunk runs once; sizes are cut from it
        raw = embeddings[index], embeddings[queries]
        a, b = center(*raw)
        out["loss"][name] = [evaluate(model, val_ids, model.config.width(d)) for d in every]
        for method, some in (
            (f"{name}, cut", (a, b)),
            (f"{name}, PCA", pca(*raw)),
            (f"{name}, cut, not centred", raw),
        ):
            out["retrieval"][method] = by_dimension(*some, known, asked, dims)
        out["between"][name] = by_dimension(a, b, known, asked, every)
        out["overlap"][name] = overlaps(a, b, dims)
        out["trends"][name] = pair_trends(model.token_embeddings().cpu(), pairs, dims, among)
        if name == MODELS[0]:
            for d in dims[:-1]:
                found = [adaptive(a, b, d, k) for k in args.shortlists]
                out["adaptive"][str(d)] = [
                    [cost for _, cost in found],
                    [accuracy(f, known, asked) for f, _ in found],
                ]
            out["full"] = [a.numel(), out["between"][name][-1]]
    counts = token_counts([tokenizer.encode(text) for text in texts], tokenizer.vocab_size)
    counted = accuracy(nearest(counts[index], counts[queries]), known, asked)
    out["levels"] = dict(
        zip(("blind draw", "most frequent topic", "counts of tokens"), (*chance(known, asked), counted))
    )
    return out


def estimate(args, data):
    """Seconds of one seed with one tokenizer: a few steps of either model, with a fifth added for measuring."""
    seconds = 0
    for name in MODELS:
        model = build(args, data[2], name, 0)
        few = dict(
            batch_size=args.batch_size, optimizer="adamw", eval_interval=99, eval_blocks=1, progress=False
        )
        train(model, *data[:2], steps=2, **few)
        start = time.perf_counter()
        train(model, *data[:2], steps=8, **few)
        seconds += 1.2 * (time.perf_counter() - start) / 8 * args.steps
    return seconds


def run(args):
    if args.quick:
        args.seeds, args.steps, args.tokenizers, args.out = (
            args.seeds[:1],
            200,
            args.tokenizers[:1],
            args.out + "-quick",
        )
    data = {name: corpus("python-docs", name) for name in args.tokenizers}
    seconds = sum(estimate(args, data[name]) for name in data) * len(args.seeds)
    print(
        f"{len(data) * len(args.seeds)} runs of two models, {args.steps} steps each, about {minutes(seconds)} in all on "
        f"{device()}, less what {args.out} holds already",
        flush=True,
    )
    same = {
        key: value
        for key, value in vars(args).items()
        if key not in ("name", "threads", "out", "quick", "seeds", "tokenizers")
    }
    for name in data:
        runs = []
        for seed in args.seeds:
            print(f"{name}, seed {seed}", flush=True)
            settings = {"tokenizer": name, "seed": seed, **same}
            runs.append(kept(args.out, settings, lambda: measure(args, data[name], seed)))
        show(args, name, runs)


def average(values):
    """Mean of numbers, or of dicts and lists of them that are alike."""
    if isinstance(values[0], dict):
        return {key: average([value[key] for value in values]) for key in values[0]}
    return (
        statistics.mean(values)
        if not isinstance(values[0], (list, tuple))
        else [average(c) for c in zip(*values)]
    )


def show(args, name, runs):
    dims, every = sorted(args.nesting), sorted(args.nesting + args.between)
    gather = lambda what: {key: [run[what][key] for run in runs] for key in runs[0][what]}
    table = lambda what, sizes: markdown(
        ["", *sizes], [[key, *map(mean_sd, zip(*some))] for key, some in gather(what).items()]
    )
    levels = average([run["levels"] for run in runs])
    trends = average([run["trends"] for run in runs])
    kinds = {
        model: markdown(
            ["kind of pair", *dims, f"change {dims[0]} to {dims[-1]}, mean ± sd over seeds"],
            [
                [
                    kind,
                    *(f"{x:+.2f}" for x in trend["standing"]),
                    mean_sd([run["trends"][model][kind]["change"] for run in runs]),
                ]
                for kind, trend in some.items()
            ],
        )
        for model, some in trends.items()
    }
    report(
        args.out,
        f"embeddings-{name}",
        "\n\n".join(
            [
                f"{name} tokens, {args.steps} steps, seeds {args.seeds}, mean ± sd.",
                f"Retrieval, share right ({', '.join(f'{key} {share:.3f}' for key, share in levels.items())}):",
                table("retrieval", dims),
                "Validation loss, nats per token:",
                table("loss", every),
                "Retrieval at every size, also those never trained:",
                table("between", every),
                *(
                    f"Pairs of tokens, {model}: mean cosine above all pairs, in their standard deviations; change: of the excess "
                    f"in cosine.\n\n{text}"
                    for model, text in kinds.items()
                ),
            ]
        ),
    )
    curves = {key: some for key, some in gather("retrieval").items() if "not centred" not in key}
    figures = {
        "retrieval": plot.retrieval(dims, curves, levels),
        "adaptive": plot.adaptive(
            {d: (*average(some), args.shortlists) for d, some in gather("adaptive").items()},
            average([run["full"] for run in runs]),
        ),
        "overlap": plot.overlap({key: average(some) for key, some in gather("overlap").items()}, dims),
        "between": plot.in_between(
            every, dict(zip(MODELS, (dims, dims[-1:]))), gather("loss"), gather("between")
        ),
        **{f"pairs-{model.split()[0]}": plot.pair_trends(some, dims) for model, some in trends.items()},
    }
    for key, figure in figures.items():
        figure.savefig(f"{args.out}/{name}-{key}.png", dpi=150)
        plot.close(figure)
