"""Find the function by what it does: recall against dimensions, with every control, over several seeds."""

import statistics
import sys
import sysconfig
from functools import cache

import torch

from .. import plot
from ..config import GPTConfig
from ..embeddings.contrastive import train_embeddings
from ..embeddings.pairs import STDLIB, Pairs, load_pairs
from ..embeddings.pooling import cut, embed
from ..embeddings.retrieval import BM25, fuse, measures, pca, ranks, shortlist_ranks
from ..model import MatryoshkaEmbeddingsGPT
from ..text.corpus import split
from ..text.tokenizer import BPETokenizer
from ..training.loop import train
from .common import DEVICE, markdown, mean_sd, report, stored, whole

load = cache(load_pairs)  # parsing takes longer than all else that is not training


def add_arguments(parser):
    add = parser.add_argument
    add("--sources", nargs="*", default=[sysconfig.get_paths()["purelib"]], help="more folders to learn from")
    add("--nesting", type=int, nargs="+", default=[8, 16, 32, 64, 128], help="the last is the full one")
    add("--n-head", type=int, default=4)
    add("--n-layer", type=int, default=1)
    add("--block-size", type=int, default=64, help="tokens")
    add("--vocab", type=int, default=8192, help="byte pairs")
    add("--lm-steps", type=int, default=200, help="of the language model, 12 blocks each")
    add("--spread", type=float, default=0.3, help="deviation of a fresh model's token embeddings")
    add("--steps", type=int, default=600)
    add("--batch-size", type=int, default=512, help="pairs")
    add("--shortlist", type=int, default=50, help="documents that the first look of a search leaves")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights, batches and held-out modules")
    add("--out", default="runs/embeddings", help="folder for finished runs, table and figures")
    add("--quick", action="store_true", help="one seed, 100 steps of 256, the library alone: five minutes")


def data(args, seed):
    """(train, test) pairs, of words alone: test are modules of the library, train has no copy of them."""
    _, test = load(STDLIB).split(seed=seed)
    every = [load(place, by) for by in ("docstrings", "names") for place in (STDLIB, *args.sources)]
    return sum((pairs.without(test) for pairs in every), Pairs()).plain(), test.plain()


def models(args, tokenizer, pairs, seed, state):
    """{name: model}: a language model, and what learns to find, at every size and at the full size alone."""
    text = "\n".join(f"{query}\n{document}" for query, document in zip(pairs.queries, pairs.documents))
    ids, out = split(tokenizer.encode(text)), {}
    for name, nesting in (("language model", args.nesting), ("Matryoshka", args.nesting), ("plain", None)):
        shape = tokenizer.vocab_size, args.block_size, max(args.nesting), args.n_head, args.n_layer
        torch.manual_seed(seed)
        model = out[name] = MatryoshkaEmbeddingsGPT(GPTConfig(*shape, nesting)).to(DEVICE)
        follow = dict(progress=sys.stderr.isatty(), checkpoint_dir=state / name, resume=True)
        if name == "language model":
            often = dict(eval_interval=args.lm_steps, eval_blocks=16, **follow)
            whole(train(model, *ids, steps=args.lm_steps, seed=seed, **often), args.lm_steps)
            continue
        model.embedding.token.data *= args.spread / model.embedding.token.std()
        settings = args.steps, args.batch_size, None, seed
        whole(train_embeddings(model, pairs, tokenizer, *settings, **follow), args.steps)
    return out


def measure(args, seed, state):
    """Everything about one seed, as a JSON object. state: a folder for runs that are under way."""
    pairs, test = data(args, seed)
    print(f"seed {seed}: {len(pairs):,} pairs to learn from, {len(test):,} to test on", flush=True)
    tokenizer = BPETokenizer.train("\n".join(pairs.queries + pairs.documents), args.vocab)
    texts = {
        name: [embed(model, some, tokenizer=tokenizer).cpu() for some in (test.documents, test.queries)]
        for name, model in models(args, tokenizer, pairs, seed, state).items()
    }
    drawn = torch.randperm(max(args.nesting), generator=torch.Generator().manual_seed(seed))
    methods = {
        "Matryoshka": texts["Matryoshka"],
        "plain InfoNCE, cut alike": texts["plain"],
        "plain InfoNCE, PCA": pca(*texts["plain"]),
        "plain InfoNCE, random dimensions": [x[:, drawn] for x in texts["plain"]],
        "language model alone": texts["language model"],
    }
    lexical = BM25(test.documents)(test.queries)
    scores = {
        name: [cut(queries, d) @ cut(documents, d).T for d in args.nesting]
        for name, (documents, queries) in methods.items()
    }
    scores["Matryoshka and BM25, fused"] = [fuse(s, lexical) for s in scores["Matryoshka"]]
    results = {name: [measures(ranks(s)) for s in some] for name, some in scores.items()}
    shortlists = [shortlist_ranks(*methods["Matryoshka"], d, args.shortlist) for d in args.nesting]
    results[f"Matryoshka, then {args.shortlist} with all dimensions"] = [measures(r) for r in shortlists]
    return {"pairs": [len(pairs), len(test)], "results": results | {"BM25": [measures(ranks(lexical))]}}


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
    """Tables and figures of the seeds that are done."""
    dims = args.nesting
    text = ["{:,} pairs to learn from, {:,} to test on.".format(*run["pairs"]) for run in runs]
    for what in ("recall@1", "recall@10", "MRR@10", "nDCG@10"):
        curves = {
            name: [[m[what] for m in run["results"][name]] for run in runs] for name in runs[0]["results"]
        }
        rows = [
            [name, *[""] * (len(dims) - len(some[0])), *map(mean_sd, zip(*some))]
            for name, some in curves.items()
        ]
        text.append(f"{what}, mean ± sd over {len(runs)} seed(s):\n\n{markdown(['', *dims], rows)}")
        if what == "recall@10":
            level = {"BM25": statistics.mean(share for (share,) in curves.pop("BM25"))}
            figures = {"retrieval": plot.retrieval(dims, curves, level)}
    report(args.out, "embeddings", "\n\n".join(text), figures)
