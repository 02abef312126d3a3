"""python -m matgpt train: train a nested model from a terminal, on one process or under torchrun."""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from .. import plot
from ..config import GPTConfig, Size
from ..files.checkpoint import save
from ..model import MatryoshkaEmbeddingsGPT, MatryoshkaGPT
from ..text.batches import bits_per_byte
from ..text.token_files import read_corpus
from ..text.tokenizer import BPETokenizer
from ..training.checkpoint import NAME
from ..training.loop import train
from .parser import CORPUS, DOLL, Parser, add_run, make_device, parse_doll, printing, set_threads

MODEL_FILES = "config.json", "model.safetensors", "tokenizer.json"
VARIANTS = {"nested": MatryoshkaGPT, "embeddings": MatryoshkaEmbeddingsGPT}


def make_parser():
    what = "Train every doll of a nested GPT in one run; keep the model, its history and a plot."
    parser = Parser("train", what)
    add = parser.add_argument
    add("--corpus", default="python-docs", help=CORPUS)
    add("--resume", action="store_true", help="go on with the run in --out, if there is one")
    add("--nesting", nargs="+", metavar="DOLL", help=f"each {DOLL} (default: 32 64 128)")
    add("--variant", choices=VARIANTS, default="nested", help="embeddings: only the readout is cut")
    add("--n-embd", type=int, help="width of the full model (default: that of the widest doll)")
    add("--n-head", type=int, help="its heads (default: the most that a doll names, or 4)")
    add("--n-layer", type=int, help="its layers (default: the most that a doll names, or 4)")
    add("--block-size", type=int, default=64, help="longest context, in tokens")
    add("--dropout", type=float, default=0.0, help="probability of dropping an activation")
    add("--tokenizer", choices=["char", "bpe"], default="char", help="of a text; a folder brings its own")
    add("--vocab", type=int, default=1024, help="tokens that bpe learns from the corpus")
    add("--optimizer", choices=["muon", "adamw"], default="muon", help="for the matrices of the blocks")
    add("--loss-weights", nargs="+", type=float, metavar="WEIGHT", help="one a doll (default: all alike)")
    add("--compile", action="store_true", help="compile the model: minutes at first, faster steps on a GPU")
    add_run(parser, batch_size=12, lr=1.024)
    return parser


def make_config(args, vocab_size):
    """The full model is as wide, and has as many heads and layers, as the largest doll."""
    nesting = [parse_doll(doll) for doll in args.nesting or ("32", "64", "128")]
    named = [doll for doll in nesting if isinstance(doll, Size)]
    largest = dict(
        n_embd=max(doll.n_embd if isinstance(doll, Size) else doll for doll in nesting),
        n_head=max((doll.n_head for doll in named), default=4),
        n_layer=max((doll.n_layer for doll in named), default=4),
    )
    given = {name: getattr(args, name) for name in largest if getattr(args, name) is not None}
    return GPTConfig(vocab_size, args.block_size, **(largest | given), nesting=nesting, dropout=args.dropout)


class Log:
    """Prints a line at each evaluation: step, price, losses, FLOPs a second, time left."""

    def __init__(self, args):
        self.args, self.started = args, None

    def __call__(self, history):
        done, now, args = history.steps[-1], time.monotonic(), self.args
        share = done / args.steps if args.steps else min(1, history.flops[-1] / args.flops)
        losses = "  ".join(f"{size}: {history.val[size][-1]:.4f}" for size in history.sizes)
        of = f"/{args.steps}" if args.steps else ""
        line = f"step {done}{of}, {history.flops[-1]:.2e} FLOPs, validation loss "
        if self.started is None:
            self.started, self.share = now, share
        elif share > self.share:
            left = (now - self.started) / (share - self.share) * (1 - share)
            rate = (history.flops[-1] - self.flops) / max(history.seconds - self.seconds, 1e-9)
            losses += f"  {rate / 1e9:,.1f} GFLOP/s  {tqdm.format_interval(left)} left"
        self.flops, self.seconds = history.flops[-1], history.seconds
        tqdm.write(line + losses)


def keep(args, model, tokenizer, history, val_ids, interrupted="what there is, is kept in"):
    """What a run leaves in --out; where tokens are byte pairs, its last losses in bits per byte."""
    out = Path(args.out)
    save(model, out, tokenizer, overwrite=True)
    history.save(out / "history.json")
    plot.losses(history).savefig(out / "losses.png", dpi=120)
    if history.steps and isinstance(tokenizer, BPETokenizer):
        bits = bits_per_byte(1, tokenizer, val_ids)
        each = "  ".join(f"{size}: {bits * history.val[size][-1]:.3f}" for size in history.sizes)
        print(f"validation at step {history.steps[-1]}, bits per byte  {each}")
    spent, budget = (history.steps, args.steps) if args.steps else (history.flops, args.flops)
    end = spent and spent[-1] >= budget
    print(f"kept in {out}" if end else f"interrupted: {interrupted} {out}")


def begin(args, own=False):
    """Check --out and set threads: the device, and the options of `train` and `nest` that `add_run` reads.

    own: a model that --out holds is that of the run itself.
    """
    out = Path(args.out)
    other = ", ".join(name for name in (*MODEL_FILES, "history.json", "losses.png") if (out / name).exists())
    if other and not (args.force or own):
        raise ValueError(f"--out {args.out} already holds {other}: name another folder, or --force")
    set_threads(args.threads)
    if args.steps is None and args.flops is None:
        args.steps = 2000
    same = ("steps", "flops", "batch_size", "lr", "dtype", "seed", "eval_interval")
    options = {name: getattr(args, name) for name in same}
    return make_device(args.device), {**options, "progress": sys.stderr.isatty(), "on_evaluation": Log(args)}


def run(args, rank):
    out = Path(args.out)
    # beside the state of a run a model is that run's, which train resumes or refuses to begin anew
    device, options = begin(args, own=any(NAME.fullmatch(path.name) for path in out.glob("*")))
    train_ids, val_ids, tokenizer = read_corpus(args.corpus, args.tokenizer, args.vocab)
    config = make_config(args, tokenizer.vocab_size)
    torch.manual_seed(args.seed)
    model = VARIANTS[args.variant](config).to(device)
    if args.compile:
        torch._dynamo.config.recompile_limit = 8 * len(config.sizes)  # each doll is a graph of its own
        model.compile()
    if rank == 0:
        print(
            f"{model.num_params():,} parameters, {len(config.sizes)} dolls, on {device}; "
            f"{len(train_ids):,} training tokens of {tokenizer.vocab_size}"
        )
    options |= dict(loss_weights=args.loss_weights, optimizer=args.optimizer, resume=args.resume)
    history = train(model, train_ids, val_ids, checkpoint_dir=out, **options)
    if rank == 0:
        keep(args, model, tokenizer, history, val_ids, "--resume goes on with")


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    printing(line_buffering=True)
    if dist.is_torchelastic_launched():
        dist.init_process_group()
    try:
        with parser.one_line():
            run(args, dist.get_rank() if dist.is_initialized() else 0)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
