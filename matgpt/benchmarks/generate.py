"""Tokens per second: every doll cached, uncached and in `transformers`; and drafted by each smaller doll."""

import tempfile
from pathlib import Path

import torch

from ..config import GPTConfig, Size
from ..files.checkpoint import load, save
from ..files.gpt2 import export_gpt2
from ..measure.agreement import agreement
from ..model import MatryoshkaGPT
from ..text.corpus import load_text, split
from ..training.loop import train
from .common import corpus, markdown, medians, report


def add_arguments(parser):
    parser.add_argument("--model", help="a folder that `save` made, instead of training one here")
    parser.add_argument("--corpus", default="python-docs", help="a corpus or file, as load_text takes it")
    parser.add_argument("--tokenizer", choices=["char", "bpe"], default="char")
    parser.add_argument(
        "--nesting", nargs="+", default=["32,1,1", "64,2,2"], help="the smaller dolls, as width,heads,layers"
    )
    parser.add_argument("--n-embd", type=int, default=128)
    parser.add_argument("--n-head", type=int, default=4)
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--block-size", type=int, default=128, help="tokens")
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    parser.add_argument(
        "--draft-tokens", type=int, nargs="+", default=[2, 4, 6], help="lengths of the drafts that are tried"
    )
    parser.add_argument(
        "--prompts", type=int, default=4, help="places of the validation text that are continued, in drafts"
    )
    parser.add_argument("--rounds", type=int, default=9, help="of which the median counts")
    parser.add_argument(
        "--out", default="runs/generate", help="folder for the tables, and for the model trained here"
    )
    parser.add_argument(
        "--quick", action="store_true", help="100 steps of training, three rounds, drafts of 4 tokens"
    )


def get_model(args):
    """(model, validation ids): the model of --model, or one trained here and kept."""
    if args.model:
        model, tokenizer = load(args.model)
        if tokenizer is None:
            raise ValueError(f"{args.model} holds no tokenizer")
        return model, split(tokenizer.encode(load_text(args.corpus)))[1]
    train_ids, val_ids, tokenizer = corpus(args.corpus, args.tokenizer)
    torch.manual_seed(0)
    model = MatryoshkaGPT(
        GPTConfig(
            tokenizer.vocab_size,
            args.block_size,
            args.n_embd,
            args.n_head,
            args.n_layer,
            nesting=[Size.parse(text) for text in args.nesting],
        )
    )
    train(model, train_ids, val_ids, args.steps, args.batch_size, eval_interval=args.steps, eval_blocks=16)
    save(model, Path(args.out) / "model", tokenizer, overwrite=True)
    return model, val_ids


def in_transformers(model, size, folder):
    """generate(idx, n) of the same doll as a GPT-2 of transformers, greedy and cached; None if that is not installed."""
    try:
        import transformers
    except ImportError:
        return None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    export_gpt2(model, folder, size, overwrite=True)
    gpt2 = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    settings = dict(do_sample=False, use_cache=True, pad_token_id=0)
    return lambda idx, n: gpt2.generate(
        idx, attention_mask=torch.ones_like(idx), max_new_tokens=n, **settings
    )


def speed(model, rounds):
    """Rows for each doll, which writes from one token to the end of the context: greedy, batch 1."""
    idx, n, rows = torch.zeros(1, 1, dtype=torch.long), model.config.block_size - 1, []
    for size in model.sizes:
        calls = {
            "cached": lambda: model.generate(idx, n, size, temperature=0),
            "uncached": lambda: model.generate(idx, n, size, temperature=0, use_cache=False),
        }
        with tempfile.TemporaryDirectory() as folder:
            other = in_transformers(model, size, folder)
        if other:
            calls["transformers"] = lambda: other(idx, n)
        seconds = medians(calls, rounds)
        row = [size, f"{model.num_params(size):,}", *(f"{n / s:,.0f}" for s in seconds.values())]
        row.insert(4, f"{seconds['uncached'] / seconds['cached']:.2f}")
        if other:
            # of one greedy text and another, computed in another order, the rounding may differ
            same = (other(idx, n) == calls["cached"]()).float().mean().item()
            row += [f"{seconds['transformers'] / seconds['cached']:.2f}", f"{same:.0%}"]
        else:
            row += ["skipped: not installed", "", ""]
        rows.append(row)
    return rows


def drafts(model, val_ids, lengths, prompts, rounds):
    """Rows for each pair of a doll and a smaller draft: how much faster than plain, greedy and sampled."""
    T, rows, found = model.config.block_size, [], agreement(model, val_ids, max_blocks=32)
    starts = torch.linspace(0, len(val_ids) - T, prompts).long()
    texts = [torch.as_tensor(val_ids[i : i + T // 8])[None].long() for i in starts.tolist()]
    full, *smaller = reversed(model.sizes)

    def write(temperature, **options):
        """All texts to the end of the context, and what `stats` says of them."""
        stats, generator = {}, torch.Generator().manual_seed(0)
        for idx in texts:
            model.generate(
                idx, T - idx.size(1), temperature=temperature, generator=generator, stats=stats, **options
            )
        return stats

    for draft in reversed(smaller):
        if any(getattr(draft, axis) > getattr(full, axis) for axis in ("n_embd", "n_head", "n_layer")):
            continue
        for temperature in (0, 0.8):
            calls = {
                "plain": lambda: write(temperature),
                "draft alone": lambda: write(temperature, size=draft),
            }
            for k in lengths:
                calls[k] = lambda k=k: write(temperature, draft_size=draft, draft_tokens=k)
            seconds = medians(calls, rounds, warmup=1)
            for k in lengths:
                stats = calls[k]()
                rows.append(
                    [
                        draft,
                        k,
                        "greedy" if temperature == 0 else f"sampled at {temperature}",
                        f"{found[draft].same:.0%}",
                        f"{seconds['draft alone'] / seconds['plain']:.3f}",
                        f"{stats['acceptance']:.0%}",
                        f"{stats['tokens_per_step']:.2f}",
                        f"{stats['tokens'] / seconds['plain']:,.0f}",
                        f"{stats['tokens'] / seconds[k]:,.0f}",
                        f"{seconds['plain'] / seconds[k]:.2f}",
                    ]
                )
    return rows


def run(args):
    if args.quick:
        args.steps, args.rounds, args.draft_tokens, args.prompts = 100, 3, [4], 1
    model, val_ids = get_model(args)
    report(
        args.out,
        "generate",
        (
            f"Tokens per second on {torch.get_num_threads()} thread(s), batch 1, block_size {model.config.block_size}, "
            f"vocabulary {model.config.vocab_size}; medians of {args.rounds} rounds in turn.\n\n"
            + markdown(
                [
                    "doll",
                    "parameters",
                    "cached",
                    "uncached",
                    "cached / uncached",
                    "transformers",
                    "cached / transformers",
                    "same tokens",
                ],
                speed(model, args.rounds),
            )
            + f"\n\nThe full doll, drafted by a smaller one (speculative decoding); {args.prompts} text(s).\n\n"
            + markdown(
                [
                    "draft",
                    "draft tokens",
                    "text",
                    "agrees",
                    "cost of a draft token",
                    "accepted",
                    "tokens per step",
                    "plain tokens/s",
                    "drafted tokens/s",
                    "drafted / plain",
                ],
                drafts(model, val_ids, args.draft_tokens, args.prompts, args.rounds),
            )
        ),
    )
