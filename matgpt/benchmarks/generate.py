"""Tokens per second of every doll: cached, uncached and in `transformers`; and when smaller dolls draft."""

import tempfile
from functools import partial

import torch

from .. import export_gpt2, load, load_text, split
from .common import markdown, medians, report


def add_arguments(parser):
    add = parser.add_argument
    add("--model", required=True, help="a folder that the train command made, with its tokenizer")
    add("--draft-model", help="a folder with another model, whose dolls draft")
    add("--corpus", default="shakespeare", help="a corpus or a file, as load_text takes it")
    add("--draft-tokens", type=int, nargs="+", default=[2, 4, 6], help="lengths of drafts")
    add("--prompts", type=int, default=4, help="places of the text that drafts continue")
    add("--rounds", type=int, default=9, help="how often each is timed; the median counts")
    add("--out", default="runs/generate", help="folder for the tables")
    add("--quick", action="store_true", help="one prompt, three rounds, drafts of 4 tokens")


def writing(model, rounds):
    """Return a row for each doll, which writes from one token to the end of the context: greedy, batch 1."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    idx, n, rows = torch.zeros(1, 1, dtype=torch.long), model.config.block_size - 1, []
    settings = dict(attention_mask=idx + 1, max_new_tokens=n, do_sample=False, use_cache=True, pad_token_id=0)
    for size in model.sizes:
        with tempfile.TemporaryDirectory() as folder:
            export_gpt2(model, folder, size)
            gpt2 = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
        calls = {
            "cached": lambda: model.generate(idx, n, size, temperature=0),
            "uncached": lambda: model.generate(idx, n, size, temperature=0, use_cache=False),
            "transformers": lambda: gpt2.generate(idx, **settings),
        }
        seconds = medians(calls, rounds)
        row = {"doll": size, "parameters": f"{model.num_params(size):,}"}
        for name, median in seconds.items():
            row[name] = f"{n / median:,.0f}"
            row[f"cached / {name}"] = f"{median / seconds['cached']:.2f}"
        # greedy texts may part where the rounding differs
        same = (calls["transformers"]() == calls["cached"]()).float().mean().item()
        rows.append(row | {"same tokens": f"{same:.0%}"})
    return rows


def drafts(model, draft_model, val_ids, args):
    """Return a row for each doll that drafts, text and length of drafts: how much faster than without."""
    T, rows = model.config.block_size, []
    starts = torch.linspace(0, len(val_ids) - T, args.prompts).long().tolist()
    prompts = [torch.as_tensor(val_ids[i : i + max(1, T // 8)])[None].long() for i in starts]

    def write(**options):
        """Continue all prompts to the end of the context, and return what `stats` says."""
        stats, generator = {}, torch.Generator().manual_seed(0)
        for idx in prompts:
            model.generate(idx, T - idx.size(1), generator=generator, stats=stats, **options)
        return stats

    for draft in model.sizes[:-1] if draft_model is None else draft_model.sizes:
        drafted = partial(write, draft_size=draft, draft_model=draft_model)
        for temperature, text in ((0, "greedy"), (0.8, "sampled at 0.8")):
            calls = {k: partial(drafted, temperature=temperature, draft_tokens=k) for k in args.draft_tokens}
            seconds = medians({"plain": partial(write, temperature=temperature), **calls}, args.rounds)
            for k, call in calls.items():
                stats, row = call(), {"draft": draft, "draft tokens": k, "text": text}
                row["accepted"] = f"{stats['acceptance']:.0%}"
                row["tokens per step"] = f"{stats['tokens_per_step']:.2f}"
                row["tokens/s"] = f"{stats['tokens'] / seconds[k]:,.0f}"
                row["drafted / plain"] = f"{seconds['plain'] / seconds[k]:.2f}"
                rows.append(row)
    return rows


def run(args):
    if args.quick:
        args.rounds, args.draft_tokens, args.prompts = 3, [4], 1
    model, tokenizer = load(args.model)
    if tokenizer is None:
        raise ValueError(f"{args.model} holds no tokenizer")
    _, val_ids = split(tokenizer.encode(load_text(args.corpus)))
    draft_model = load(args.draft_model)[0] if args.draft_model else None
    text = f"""\
Tokens per second on {torch.get_num_threads()} thread(s), batch 1, block_size {model.config.block_size}, \
vocabulary {model.config.vocab_size}; medians of {args.rounds} rounds in turn.

{markdown(writing(model, args.rounds))}

The full doll, drafted by a smaller one (speculative decoding); {args.prompts} text(s).

{markdown(drafts(model, draft_model, val_ids, args))}"""
    report(args.out, "generate", text)
