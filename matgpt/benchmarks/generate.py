"""Tokens per second: every doll cached, uncached and in `transformers`; and drafted by each smaller doll."""

import tempfile
from pathlib import Path

import torch

from ..files.checkpoint import load
from ..files.gpt2 import export_gpt2
from ..measure.evaluation import agreement
from ..text.corpus import load_text, split
from .common import markdown, medians, report

WRITING = ("doll", "parameters", "cached", "uncached", "cached / uncached", "transformers")
WRITING += ("cached / transformers", "same tokens")
DRAFTS = ("draft", "draft tokens", "text", "agrees", "cost of a draft token", "accepted", "tokens per step")
DRAFTS += ("plain tokens/s", "drafted tokens/s", "drafted / plain")


def add_arguments(parser):
    add = parser.add_argument
    add("--model", required=True, help="a folder that the train command made, with its tokenizer")
    add("--draft-model", help="a folder with another model, whose dolls draft")
    add("--corpus", default="shakespeare", help="a corpus or a file, as load_text takes it")
    add("--draft-tokens", type=int, nargs="+", default=[2, 4, 6], help="lengths of drafts")
    add("--prompts", type=int, default=4, help="places of the text that drafts continue")
    add("--rounds", type=int, default=9, help="of which the median counts")
    add("--out", default="runs/generate", help="folder for the tables")
    add("--quick", action="store_true", help="one prompt, three rounds, drafts of 4 tokens")


def in_transformers(model, size):
    """generate(idx, n) of the same doll as a GPT-2 of transformers, greedy and cached; None without them."""
    try:
        import transformers
    except ImportError:
        return None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        export_gpt2(model, Path(folder) / "gpt2", size)
        gpt2 = transformers.GPT2LMHeadModel.from_pretrained(Path(folder) / "gpt2").eval()
    settings = dict(do_sample=False, use_cache=True, pad_token_id=0)
    mask = torch.ones_like
    return lambda idx, n: gpt2.generate(idx, attention_mask=mask(idx), max_new_tokens=n, **settings)


def writing(model, rounds):
    """Rows for each doll, which writes from one token to the end of the context: greedy, batch 1."""
    idx, n, rows = torch.zeros(1, 1, dtype=torch.long), model.config.block_size - 1, []
    for size in model.sizes:
        write = lambda cache, size=size: model.generate(idx, n, size, temperature=0, use_cache=cache)
        calls, other = {"cached": lambda: write(True), "uncached": lambda: write(False)}, None
        if other := in_transformers(model, size):
            calls["transformers"] = lambda other=other: other(idx, n)
        seconds = medians(calls, rounds)
        speeds = [f"{n / s:,.0f}" for s in seconds.values()]
        times = [f"{s / seconds['cached']:.2f}" for s in seconds.values()]
        # of one greedy text and another, computed in another order, the rounding may differ
        same = [f"{(other(idx, n) == write(True)).float().mean().item():.0%}"] if other else []
        theirs = [speeds[2], times[2], *same] if other else ["skipped: not installed", "", ""]
        rows.append([size, f"{model.num_params(size):,}", *speeds[:2], times[1], *theirs])
    return rows


def drafts(model, other, val_ids, lengths, prompts, rounds):
    """Rows for each doll that drafts, of the `other` model if there is one: how much faster than plain."""
    T, rows, own = model.config.block_size, [], other or model
    found = agreement(own, val_ids, max_blocks=32)
    starts = torch.linspace(0, len(val_ids) - T, prompts).long()
    texts = [torch.as_tensor(val_ids[i : i + T // 8])[None].long() for i in starts.tolist()]

    def write(temperature, writer=model, **options):
        """All texts to the end of the context, and what `stats` says of them."""
        stats = {}
        options |= dict(temperature=temperature, generator=torch.Generator().manual_seed(0), stats=stats)
        for idx in texts:
            writer.generate(idx, T - idx.size(1), **options)
        return stats

    for draft in own.sizes if other else own.sizes[:-1]:
        for temperature, text in ((0, "greedy"), (0.8, "sampled at 0.8")):
            using = dict(draft_size=draft, draft_model=other)
            calls = {k: lambda k=k: write(temperature, draft_tokens=k, **using) for k in lengths}
            calls["plain"] = lambda: write(temperature)
            calls["alone"] = lambda: write(temperature, own, size=draft)
            seconds = medians(calls, rounds, warmup=1)
            cost = f"{seconds['alone'] / seconds['plain']:.3f}"
            for k in lengths:
                stats, plain = calls[k](), seconds["plain"]
                accepted = [f"{stats['acceptance']:.0%}", f"{stats['tokens_per_step']:.2f}"]
                speeds = [f"{stats['tokens'] / s:,.0f}" for s in (plain, seconds[k])]
                same = [f"{found[draft].same:.0%}", cost]
                rows.append([draft, k, text, *same, *accepted, *speeds, f"{plain / seconds[k]:.2f}"])
    return rows


def run(args):
    if args.quick:
        args.rounds, args.draft_tokens, args.prompts = 3, [4], 1
    model, tokenizer = load(args.model)
    if tokenizer is None:
        raise ValueError(f"{args.model} holds no tokenizer")
    _, val_ids = split(tokenizer.encode(load_text(args.corpus)))
    other = args.draft_model and load(args.draft_model)[0]
    text = f"""\
Tokens per second on {torch.get_num_threads()} thread(s), batch 1, block_size {model.config.block_size}, \
vocabulary {model.config.vocab_size}; medians of {args.rounds} rounds in turn.

{markdown(WRITING, writing(model, args.rounds))}

The full doll, drafted by a smaller one (speculative decoding); {args.prompts} text(s).

{markdown(DRAFTS, drafts(model, other, val_ids, args.draft_tokens, args.prompts, args.rounds))}"""
    report(args.out, "generate", text)
