"""What a training step costs, beside others' code and beside its FLOPs."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..config import GPTConfig, Size
from ..measure.evaluation import precision
from ..model import MatryoshkaGPT
from ..training.cost import optimizer_flops, training_flops
from ..training.loop import SHARE
from ..training.loss import step_losses
from ..training.optimizer import make_optimizers
from ..training.schedule import Schedule
from .common import DEVICE, markdown, medians, report

VOCAB_SIZE = 65  # as TinyShakespeare has characters


def add_arguments(parser):
    add = parser.add_argument
    add("--n-embd", type=int, default=128)
    add("--n-head", type=int, default=4)
    add("--n-layer", type=int, default=4)
    add("--block-size", type=int, default=64)
    add("--batch-size", type=int, default=12)
    add("--dtype", choices=("float32", "bfloat16"), help="in which all steps, peers' too, multiply matrices")
    add("--nanogpt", help="a folder with nanoGPT's code, to stand beside")
    add("--rounds", type=int, default=25, help="how often each is timed; the median counts")
    add("--out", default="runs/speed", help="folder for the table")


def training_step(model, optimizers, losses, dtype):
    """Return a function that differentiates all of losses() and updates the model."""

    def step():
        for loss in losses():
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with precision(DEVICE, dtype):
            for optimizer in optimizers:
                optimizer.step()
        model.zero_grad()

    return step


def own_step(model, x, y, passes, kind, dtype):
    """Return a step of a model of ours that trains the `passes`, as `Schedule.draw` returns them."""

    def read(n):
        return x[:n], y[:n]

    def losses():
        return (loss for loss, _ in step_losses(model, passes, read, lambda size: 1, dtype))

    return training_step(model, make_optimizers(kind, model, 1e-4, 0.1), losses, dtype)


def peers(args, x, y):
    """{name: a training step of the same shape, AdamW's}: nanoGPT's if its code is given, transformers'."""
    shape = {name: getattr(args, name) for name in ("n_embd", "n_head", "n_layer")}
    shape, steps = shape | {"vocab_size": VOCAB_SIZE}, {}

    def add(name, model, optimizer, loss):
        def losses():
            with precision(DEVICE, args.dtype):
                return [loss()]

        steps[name] = training_step(model, [optimizer], losses, args.dtype)

    if args.nanogpt:
        spec = importlib.util.spec_from_file_location("nanogpt", Path(args.nanogpt) / "model.py")
        spec.loader.exec_module(code := importlib.util.module_from_spec(spec))
        nano = code.GPT(code.GPTConfig(block_size=args.block_size, dropout=0.0, **shape)).to(DEVICE)
        optimizer = nano.configure_optimizers(0.1, 1e-4, (0.9, 0.99), DEVICE.type)
        add("nanoGPT, AdamW", nano, optimizer, lambda: nano(x, y)[1])
    try:
        import transformers
    except ImportError:
        print("transformers is not installed: its row is left out")
        return steps
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = transformers.GPT2Config(n_positions=args.block_size, **shape, **none)
    gpt2 = transformers.GPT2LMHeadModel(config).to(DEVICE)
    optimizer = torch.optim.AdamW(gpt2.parameters(), lr=1e-4, fused=True)

    def loss():
        return F.cross_entropy(gpt2(x, use_cache=False).logits.flatten(0, 1), y.flatten())

    add("transformers, AdamW", gpt2, optimizer, loss)
    return steps


def run(args):
    D, H, L, T, B = args.n_embd, args.n_head, args.n_layer, args.block_size, args.batch_size
    torch.manual_seed(0)
    quarters = [Size(D * i // 4, max(1, H * i // 4), max(1, L * i // 4)) for i in (1, 2, 3)]
    configs = [GPTConfig(VOCAB_SIZE, T, D, H, L, nesting) for nesting in (None, quarters)]
    plain, family = (MatryoshkaGPT(config).to(DEVICE) for config in configs)
    block = torch.randint(VOCAB_SIZE, (B, T + 1), device=DEVICE)
    x, y = block[:, :-1].contiguous(), block[:, 1:].contiguous()
    rng = np.random.default_rng(0)
    ways = {
        "plain, {}": (plain, [([plain.config.full], [B])]),
        "family, {}, as train draws it": (family, Schedule(family, SHARE).draw(B, rng)),
        "family, {}, all dolls on a whole batch": (family, [([size], [B]) for size in family.sizes]),
    }
    steps, flops = peers(args, x, y), {}
    for kind in ("adamw", "muon"):
        for name, (model, passes) in ways.items():
            steps[name.format(kind)] = own_step(model, x, y, passes, kind, args.dtype)
            of_passes = sum(training_flops(model, *each) for each in passes) * T
            flops[name.format(kind)] = of_passes + optimizer_flops(model, kind)
    seconds = medians(steps, args.rounds)
    first, rows = next(iter(seconds.values())), []
    for name, median in seconds.items():
        row = {"training step": name, "ms": f"{1e3 * median:.1f}"}
        row["time of the first row's"] = f"{median / first:.2f}"
        if name in flops:
            alone = f"plain, {name.split(', ')[1]}"
            row["time of the plain step's"] = f"{median / seconds[alone]:.2f}"
            row["FLOPs of its"] = f"{flops[name] / flops[alone]:.2f}"
        rows.append(row)
    threads = f"{torch.get_num_threads()} thread(s), medians of {args.rounds} interleaved rounds"
    setting = f"{DEVICE}, dtype {args.dtype}, {threads}; {D} wide, {L} layers, block {T}, batch {B}."
    report(args.out, "-".join(filter(None, ("speed", args.dtype))), f"{setting}\n\n{markdown(rows)}")
