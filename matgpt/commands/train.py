"""The commands train and nest, and what a run leaves in --out."""

import hashlib
import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from .. import plot
from ..config import GPTConfig
from ..files.atomic import as_path, write
from ..files.checkpoint import save
from ..generation.writing import stream
from ..model import MatryoshkaEmbeddingsGPT, MatryoshkaGPT
from ..sizes import Size
from ..text.batches import bits_per_byte
from ..text.token_files import read_corpus
from ..text.tokenizer import BPETokenizer
from ..training.checkpoint import NAME, uninterrupted
from ..training.loop import train
from ..training.nesting import nest
from .use import given, make_device, read_all, read_record, set_threads

WRITTEN = ("config.json", "model.safetensors", "tokenizer.json", "losses.png")  # beside history.json


def run_train(args):
    if dist.is_torchelastic_launched():
        dist.init_process_group()
    try:
        train_and_save(args, dist.get_rank() if dist.is_initialized() else 0)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def train_and_save(args, rank):
    args.nesting = args.nesting or [32, 64, 128]
    device, shown = start(args, args.corpus)
    train_ids, val_ids, tokenizer = read_corpus(args.corpus, args.tokenizer, args.vocab)
    config = make_config(args, tokenizer.vocab_size)
    torch.manual_seed(args.seed)
    variant = MatryoshkaEmbeddingsGPT if args.variant == "embeddings" else MatryoshkaGPT
    model = variant(config).to(device)
    if args.compile:
        torch._dynamo.config.recompile_limit = 8 * len(config.sizes)  # each doll is a graph of its own
        model.compile()
    if rank == 0:
        print(
            f"{model.num_params():,} parameters, {len(config.sizes)} dolls, on {device}; "
            f"{len(train_ids):,} training tokens of {tokenizer.vocab_size}"
        )
    out, before = args.out, read_record(args.out)
    with replacing(out, args.force and not args.resume and rank == 0):
        history = train(model, train_ids, val_ids, checkpoint_dir=out, **shown, **given(train, args))
    if rank == 0:
        if args.resume and before.get("finished") and before.get("steps") == history.steps:
            print(f"this run was finished already: more --steps than {history.steps[-1]} extend it")
        if finish(args, model, tokenizer, history, val_ids, "--resume goes on with the run in"):
            for path in states(out)[:-1]:  # the last state stays, so that more steps can extend the run
                path.unlink()


def run_nest(args):
    device, shown = start(args, args.folder)
    model, train_ids, val_ids, tokenizer = read_all(args)
    texts = dict(train_ids=train_ids, val_ids=val_ids)
    model = nest(model.to(device), **texts, **shown, **given(nest, args))
    finish(args, model, tokenizer, model.history, val_ids)


def make_config(args, vocab_size):
    """The full model is as wide, and has as many heads and layers, as the largest doll, unless told."""
    sizes = [doll for doll in args.nesting if isinstance(doll, Size)]
    full = {"n_embd": max(doll.n_embd if isinstance(doll, Size) else doll for doll in args.nesting)}
    if sizes:
        full |= {name: max(getattr(size, name) for size in sizes) for name in ("n_head", "n_layer")}
    return GPTConfig(vocab_size, **full | given(GPTConfig, args))


def start(args, source):
    """Choose --out and the device, and check both: (device, what a run shows as it goes)."""
    path, sizes = Path(source).resolve(), [str(size).replace("/", "_") for size in args.nesting]
    default = Path("runs", "-".join([path.stem if path.is_file() else path.name, *sizes]))
    args.out = as_path(args.out or default)
    if not args.force:
        check_out(args)
    if args.steps is None and args.flops is None:
        args.steps = 2000
    set_threads(args.threads)
    return make_device(args.device), dict(progress=sys.stderr.isatty(), on_evaluation=Log(args))


def states(out):
    """List the state files of a run in `out`, by step."""
    matches = [(NAME.fullmatch(path.name), path) for path in out.glob("step-*")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def check_out(args):
    """ValueError if --out holds what a run would replace; a resumed run may replace what it wrote itself."""
    out, resume = args.out, getattr(args, "resume", None)  # None: a command that resumes nothing
    run, record = states(out), read_record(out)
    own = record["files"] if run and resume and record.get("command") == "train" else {}
    names = WRITTEN if own else (*WRITTEN, "history.json")
    there = [name for name in names if digest(out / name) not in (None, own.get(name))]
    if not resume:
        there += [path.name for path in run]
    if there:
        if resume is None:
            hint = "name another folder"
        elif not resume:
            hint = "--resume goes on with a run, or extends a finished one by more --steps"
        elif run:
            hint = "the run to resume did not write that"
        elif record.get("finished"):
            hint = "that run is finished, and its state is gone"
        else:
            hint = "there is no run to resume"
        raise ValueError(f"--out {out} already holds {', '.join(there)}: {hint}; --force replaces it")


@contextmanager
def replacing(out, force):
    """With `force`, let a new run take the place of the one in `out`, which stays if none begins."""
    old = [path.rename(path.with_suffix(".old")) for path in states(out)] if force else []
    try:
        yield
    finally:
        began = bool(states(out))
        for path in old:
            path.unlink() if began else path.rename(path.with_suffix(".pt"))


class Log:
    """Prints a line at each evaluation: step, FLOPs, losses, time left."""

    def __init__(self, args):
        self.args, self.first = args, None

    def __call__(self, history):
        step, flops, args = history.steps[-1], history.flops[-1], self.args
        line = f"step {step}/{args.steps}" if args.steps else f"step {step}"
        line += f", {flops:.2e} FLOPs, validation (training) loss"
        for size in history.sizes:
            line += f"  {size}: {history.val[size][-1]:.4f} ({history.train[size][-1]:.4f})"
        now, share = time.monotonic(), step / args.steps if args.steps else min(1, flops / args.flops)
        then, before = self.first = self.first or (now, share)
        if share > before:
            left = (now - then) / (share - before) * (1 - share)
            line += f"  {tqdm.format_interval(left)} left"
        tqdm.write(line)


def finish(args, model, tokenizer, history, val_ids, interrupted="saved in"):
    """Save model, plot and history in --out, print what each doll writes; returns whether the run is over."""
    out = args.out
    finished = history.done >= args.steps if args.steps else history.spent >= args.flops
    with uninterrupted():  # history.json names the files that belong to the run
        save(model, out, tokenizer, overwrite=True)
        plot.losses(history).savefig(out / "losses.png", dpi=120)
        record = dict(command=args.command, corpus=args.corpus, finished=finished)
        record["files"] = {name: digest(out / name) for name in WRITTEN}
        write(out / "history.json", json.dumps(history.as_dict() | record, indent=1).encode())
    if history.steps and isinstance(tokenizer, BPETokenizer):
        bits = bits_per_byte(1, tokenizer, val_ids)
        each = "  ".join(f"{size}: {bits * history.val[size][-1]:.3f}" for size in history.sizes)
        print(f"validation at step {history.steps[-1]}, bits per byte  {each}")
    if finished:
        print_samples(model, tokenizer, val_ids, args.seed)
    print(f"saved in {out}" if finished else f"interrupted: {interrupted} {out}")
    return finished


def print_samples(model, tokenizer, val_ids, seed):
    """Print a line that each doll writes, from the beginning of the validation text on."""
    prompt = tokenizer.decode(val_ids[:16].tolist())
    for size in model.sizes:
        generator = torch.Generator(model.embedding.token.device).manual_seed(seed)
        pieces = stream(model, tokenizer, prompt, 80, size=size, temperature=0.8, generator=generator)
        print(f"{size} writes: {' '.join((prompt + ''.join(pieces)).split())}")
