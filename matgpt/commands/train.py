"""python -m matgpt train: train a nested model from a terminal, on one process or under torchrun."""

import argparse
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from ..config import GPTConfig, Size, parse_doll, positive
from ..files.checkpoint import save
from ..model import MatryoshkaEmbeddingsGPT, MatryoshkaGPT
from ..text.corpus import load_text, split
from ..text.token_files import load_tokens
from ..text.tokenizer import BPETokenizer, CharTokenizer
from ..training.loop import DivergedError, train
from ..training.threads import slow_threads

VARIANTS = {"nested": MatryoshkaGPT, "embeddings": MatryoshkaEmbeddingsGPT}


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line instead of the usage: what was wrong is the last thing on the screen."""
        self.exit(2, f"{self.prog}: error: {message}\n")


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        """Where the default is None, the help itself says what then happens."""
        return action.help if action.default is None else super()._get_help_string(action)


def make_parser():
    parser = Parser(
        prog="python -m matgpt train",
        formatter_class=Formatter,
        description="Train every doll of a "
        "nested GPT at once, and keep the model, its tokenizer, its history and the plot of its losses.",
    )
    add = parser.add_argument
    add(
        "--corpus",
        default="python-docs",
        help="name of a text that is known, a UTF-8 file, or a folder that python -m matgpt data made",
    )
    add("--out", required=True, help="folder for the model and the state of the run")
    add("--resume", action="store_true", help="go on with the run in --out, if there is one")
    add(
        "--nesting",
        nargs="+",
        metavar="DOLL",
        help="widths (every head and layer), or width,heads,layers[,inner] (default: 32 64 128)",
    )
    add(
        "--variant",
        choices=VARIANTS,
        default="nested",
        help="nested: all is cut; embeddings: only the readout",
    )
    add("--n-embd", type=int, help="width of the full model (default: that of the widest doll)")
    add("--n-head", type=int, help="its heads (default: the most that a doll names, or 4)")
    add("--n-layer", type=int, help="its layers (default: the most that a doll names, or 4)")
    add("--block-size", type=int, default=64, help="longest context, in tokens")
    add("--dropout", type=float, default=0.0, help="probability of dropping an activation")
    add(
        "--tokenizer",
        choices=["char", "bpe"],
        default="char",
        help="one token a character, or byte pairs learnt from the corpus; a folder brings its own",
    )
    add("--vocab", type=int, default=1024, help="tokens of the bpe tokenizer")
    add("--steps", type=int, default=2000, help="training steps")
    add(
        "--batch-size",
        type=int,
        default=12,
        help="blocks that each doll reads in a step, shared out among the processes",
    )
    add("--lr", type=float, help="peak learning rate (default: 1.024 / width)")
    add("--seed", type=int, default=0, help="of weights, batches and dropout")
    add(
        "--loss-weights",
        nargs="+",
        type=float,
        metavar="WEIGHT",
        help="one for each doll, smallest first (default: all alike)",
    )
    add(
        "--random-sizes",
        type=int,
        help="a step trains the smallest doll, the full one and this many others "
        "(default: 3 where more than six widths or so would have to run, else all)",
    )
    add("--optimizer", choices=["muon", "adamw"], default="muon", help="for the matrices of the blocks")
    add("--eval-interval", type=int, help="steps between evaluations (default: a tenth of the run)")
    add("--device", help="where to train (default: cuda if there is one, else cpu)")
    add("--compile", action="store_true", help="compile the model: minutes at first, faster steps on a GPU")
    add("--threads", type=int, help="CPU threads (default: what PyTorch finds)")
    return parser


def read_corpus(args):
    """(train_ids, val_ids, tokenizer) of --corpus."""
    if Path(args.corpus).is_dir():
        return load_tokens(args.corpus)
    text = load_text(args.corpus)
    tokenizer = (
        BPETokenizer.train(text, args.vocab) if args.tokenizer == "bpe" else CharTokenizer.from_text(text)
    )
    return *split(tokenizer.encode(text)), tokenizer


def make_config(args, vocab_size):
    """The full model is as wide, and has as many heads and layers, as the largest doll."""
    dolls = args.nesting or ["32", "64", "128"]
    nesting = [parse_doll(doll) for doll in dolls]
    named = [doll for doll in nesting if isinstance(doll, Size)]
    n_embd = max(doll.n_embd if isinstance(doll, Size) else doll for doll in nesting)
    n_head = max((doll.n_head for doll in named), default=4)
    n_layer = max((doll.n_layer for doll in named), default=4)
    return GPTConfig(
        vocab_size,
        args.block_size,
        n_embd if args.n_embd is None else args.n_embd,
        n_head if args.n_head is None else args.n_head,
        n_layer if args.n_layer is None else args.n_layer,
        nesting,
        dropout=args.dropout,
    )


def make_device(name):
    """The device of that name, or the best there is; under torchrun each process has a GPU of its own."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda":
            device = torch.device(
                "cuda", int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
            )
            torch.cuda.set_device(device)
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None


class Log:
    """Prints a line at each evaluation: step, losses, tokens per second, time left."""

    def __init__(self, steps, tokens):
        self.steps, self.tokens, self.first = steps, tokens, None

    def __call__(self, history):
        step, now = history.steps[-1], time.monotonic()
        line = f"step {step:>{len(str(self.steps))}}/{self.steps}  validation loss "
        line += "  ".join(f"{size}: {history.val[size][-1]:.4f}" for size in history.sizes)
        if self.first is None:
            self.first, self.started = step, now
        else:
            rate = (step - self.step) * self.tokens / (history.seconds - self.seconds)
            left = (now - self.started) / (step - self.first) * (self.steps - step)
            line += f"  {rate:,.0f} tokens/s  {tqdm.format_interval(left)} left"
        self.step, self.seconds = step, history.seconds
        tqdm.write(line)


def run(args, rank):
    out = Path(args.out)
    if args.threads is not None:
        torch.set_num_threads(positive("threads", args.threads))
    device = make_device(args.device)
    train_ids, val_ids, tokenizer = read_corpus(args)
    config = make_config(args, tokenizer.vocab_size)
    torch.manual_seed(args.seed)
    model = VARIANTS[args.variant](config).to(device)
    if args.compile:
        torch._dynamo.config.recompile_limit = 8 * len(config.sizes)  # each doll is a graph of its own
        model.compile()
    if rank == 0:
        print(
            f"{model.num_params():,} parameters, {len(config.sizes)} dolls; {len(train_ids):,} training tokens of "
            f"{tokenizer.vocab_size}; on {device}"
        )
        advice = None if args.threads or device.type != "cpu" else slow_threads()
        if advice:
            print(advice)
    history = train(
        model,
        train_ids,
        val_ids,
        args.steps,
        args.batch_size,
        args.lr,
        args.seed,
        loss_weights=args.loss_weights,
        random_sizes=args.random_sizes,
        optimizer=args.optimizer,
        eval_interval=args.eval_interval,
        progress=sys.stderr.isatty(),
        on_evaluation=Log(args.steps, args.batch_size * args.block_size),
        checkpoint_dir=out,
        resume=args.resume,
    )
    if rank == 0:
        from .. import plot

        save(model, out, tokenizer)
        history.save(out / "history.json")
        plot.losses(history).savefig(out / "losses.png", dpi=120)
        stopped = not history.steps or history.steps[-1] < args.steps
        print(f"interrupted: --resume goes on with {out}" if stopped else f"kept in {out}")


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    sys.stdout.reconfigure(line_buffering=True)
    if dist.is_torchelastic_launched():
        dist.init_process_group()
    try:
        run(args, dist.get_rank() if dist.is_initialized() else 0)
    except (ValueError, OSError, DivergedError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
