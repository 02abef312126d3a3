"""Find the function by what it does: recall against dimensions, for every control, over several seeds."""

import sys
import sysconfig
from functools import cache
from statistics import mean

import torch

from .. import BPETokenizer, GPTConfig, MatryoshkaEmbeddingsGPT, embed, load_pairs, plot, split
from ..embeddings.contrastive import train_embeddings
from ..embeddings.pairs import STDLIB, Pairs
from ..embeddings.pooling import cut
from ..embeddings.retrieval import BM25, fuse, measures, pca, ranks, shortlist_ranks
from ..training.loop import train
from .common import DEVICE, markdown, mean_sd, report, stored, whole

N_HEAD, N_LAYER, BLOCK_SIZE = 4, 1, 64
SPREAD = 0.3  # deviation of the first token embeddings: equal words of two texts count from the first step
load = cache(load_pairs)  # parsing takes longer than everything but training


def add_arguments(parser):
    add = parser.add_argument
    add("--sources", nargs="*", default=[sysconfig.get_paths()["purelib"]], help="more folders to learn from")
    add("--nesting", type=int, nargs="+", default=[8, 16, 32, 64, 128], help="the last is the full width")
    add("--vocab", type=int, default=8192, help="byte pairs")
    add("--lm-steps", type=int, default=200, help="steps of the language model, 12 blocks each")
    add("--steps", type=int, default=600, help="steps of each embedding model")
    add("--batch-size", type=int, default=512, help="pairs")
    add("--shortlist", type=int, default=50, help="documents that are ranked again with all dimensions")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights, batches and held-out modules")
    add("--out", default="runs/embeddings", help="folder for finished runs, table and figure")
    add("--quick", action="store_true", help="one seed, 100 steps of 256, the library alone: five minutes")


def data(args, seed):
    """Return (train, test) pairs as plain words: test is a fifth of the library's modules, without copies."""
    _, test = load(STDLIB).split(seed=seed)
    every = [load(source, kind) for kind in ("docstrings", "names") for source in (STDLIB, *args.sources)]
    return sum((pairs.without(test) for pairs in every), Pairs([], [], [], [])).plain(), test.plain()


def measure(args, seed, state):
    """Return all measures of one seed, as a JSON object. state: a folder for runs that are under way."""
    pairs, test = data(args, seed)
    print(f"seed {seed}: {len(pairs):,} pairs to learn from, {len(test):,} to test on", flush=True)
    text = "\n".join(f"{query}\n{document}" for query, document in zip(pairs.queries, pairs.documents))
    tokenizer = BPETokenizer.train(text, args.vocab)
    ids, vectors = split(tokenizer.encode(text)), {}
    for name, nesting in (("language model", args.nesting), ("Matryoshka", args.nesting), ("plain", None)):
        torch.manual_seed(seed)
        shape = tokenizer.vocab_size, BLOCK_SIZE, max(args.nesting), N_HEAD, N_LAYER
        model = MatryoshkaEmbeddingsGPT(GPTConfig(*shape, nesting)).to(DEVICE)
        options = dict(seed=seed, progress=sys.stderr.isatty(), checkpoint_dir=state / name, resume=True)
        if name == "language model":
            whole(train(model, *ids, args.lm_steps, eval_interval=args.lm_steps, eval_blocks=16, **options))
        else:
            model.embedding.token.data *= SPREAD / model.embedding.token.std()
            whole(train_embeddings(model, pairs, tokenizer, args.steps, args.batch_size, **options))
        both = test.documents, test.queries
        vectors[name] = [embed(model, texts, tokenizer=tokenizer).cpu() for texts in both]
    drawn = torch.randperm(max(args.nesting), generator=torch.Generator().manual_seed(seed))
    methods = {
        "Matryoshka": vectors["Matryoshka"],
        "plain InfoNCE, cut alike": vectors["plain"],
        "plain InfoNCE, PCA": pca(*vectors["plain"]),
        "plain InfoNCE, random dimensions": [x[:, drawn] for x in vectors["plain"]],
        "language model alone": vectors["language model"],
    }
    scores = {}
    for name, (documents, queries) in methods.items():
        scores[name] = [cut(queries, d) @ cut(documents, d).T for d in args.nesting]
    lexical = BM25(test.documents)(test.queries)
    scores["Matryoshka and BM25, fused"] = [fuse(s, lexical) for s in scores["Matryoshka"]]
    all_ranks = {name: list(map(ranks, every)) for name, every in scores.items()}
    shortlist = [shortlist_ranks(*vectors["Matryoshka"], d, args.shortlist) for d in args.nesting]
    all_ranks[f"Matryoshka, then {args.shortlist} with all dimensions"] = shortlist
    all_ranks["BM25"] = [ranks(lexical)]
    results = {name: list(map(measures, every)) for name, every in all_ranks.items()}
    return {"pairs": [len(pairs), len(test)], "results": results}


def run(args):
    if args.quick:
        args.seeds, args.steps, args.batch_size, args.sources = args.seeds[:1], 100, 256, []
        args.out += "-quick"
    ignored = ("name", "threads", "out", "quick", "seeds")
    settings, runs = {key: value for key, value in vars(args).items() if key not in ignored}, []
    for seed in args.seeds:
        settings |= dict(seed=seed, corpus=[pairs.digest() for pairs in data(args, seed)])
        runs.append(stored(args.out, settings, lambda state: measure(args, seed, state)))
        show(args, runs)


def show(args, runs):
    """Report the tables and the figure of the seeds that are done."""
    dims, results = args.nesting, [run["results"] for run in runs]
    text = ["{:,} pairs to learn from, {:,} to test on.".format(*run["pairs"]) for run in runs]
    for name in ("recall@1", "recall@10", "MRR@10", "nDCG@10"):
        curves = {method: [[m[name] for m in run[method]] for run in results] for method in results[0]}
        cells = {method: list(map(mean_sd, zip(*curve))) for method, curve in curves.items()}
        rows = [{"": method} | dict(zip(dims[-len(row) :], row)) for method, row in cells.items()]
        text.append(f"{name}, mean ± sd over {len(runs)} seed(s):\n\n{markdown(rows)}")
        if name == "recall@10":
            level = {"BM25": mean(share for (share,) in curves.pop("BM25"))}
            figures = {"retrieval": plot.retrieval(dims, curves, level)}
    report(args.out, "embeddings", "\n\n".join(text), figures)
