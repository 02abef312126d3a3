"""What a training step costs, compared with nanoGPT's code and with its FLOPs."""

import runpy
import time
from statistics import mean, median

import torch

from .. import GPTConfig, MatryoshkaGPT, Size
from ..measure.evaluation import precision
from ..training.loop import train
from .common import DEVICE, add_shape, in_turn, markdown, report

VOCAB_SIZE = 65  # as TinyShakespeare has characters
STEPS = 5  # timed together


def add_arguments(parser):
    add_shape(parser.add_argument)
    parser.add_argument("--nanogpt", help="a folder with nanoGPT's code, to compare with")
    parser.add_argument("--rounds", type=int, default=25, help="how often each is timed; the median counts")
    parser.add_argument("--out", default="runs/speed", help="folder for the table")


def own(args, kind, nesting, share=None):
    """Return a function that trains a model of ours for some steps: (seconds, FLOPs) of one of them."""
    shape = VOCAB_SIZE, args.block_size, args.n_embd, args.n_head, args.n_layer
    model = MatryoshkaGPT(GPTConfig(*shape, nesting)).to(DEVICE)
    ids = torch.randint(VOCAB_SIZE, (100 * args.block_size,)).numpy()
    options = dict(batch_size=args.batch_size, share=share, optimizer=kind, dtype=args.dtype)
    options |= dict(threads=torch.get_num_threads(), eval_interval=STEPS, eval_blocks=1, progress=False)

    def steps():
        history = train(model, ids, ids, STEPS, **options)
        return history.seconds / STEPS, history.spent / STEPS

    steps()  # in which the layers join that a new model leaves out at first
    return steps


def nanogpt(args):
    """Return a function that trains nanoGPT's model of the same shape: (seconds, None) of a step."""
    code = runpy.run_path(f"{args.nanogpt}/model.py")
    shape = {name: getattr(args, name) for name in ("n_embd", "n_head", "n_layer", "block_size")}
    model = code["GPT"](code["GPTConfig"](vocab_size=VOCAB_SIZE, dropout=0.0, **shape)).to(DEVICE)
    optimizer = model.configure_optimizers(0.1, 1e-4, (0.9, 0.99), DEVICE.type)
    block = torch.randint(VOCAB_SIZE, (args.batch_size, args.block_size + 1), device=DEVICE)
    x, y = block[:, :-1].contiguous(), block[:, 1:].contiguous()

    def steps():
        start = time.perf_counter()
        for _ in range(STEPS):
            with precision(DEVICE, args.dtype):
                _, loss = model(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()  # waits for a GPU, as `train` does
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return (time.perf_counter() - start) / STEPS, None

    return steps


def run(args):
    D, H, L = args.n_embd, args.n_head, args.n_layer
    torch.manual_seed(0)
    quarters = [Size(D * i // 4, max(1, H * i // 4), max(1, L * i // 4)) for i in (1, 2, 3)]
    calls = {"nanoGPT, AdamW": nanogpt(args)} if args.nanogpt else {}
    for kind in ("adamw", "muon"):
        calls[f"plain, {kind}"] = own(args, kind, None)
        calls[f"family, {kind}, as train draws it"] = own(args, kind, quarters)
        calls[f"family, {kind}, all dolls on a whole batch"] = own(args, kind, quarters, share=0.99)
    measured, rows = in_turn(calls, args.rounds), []
    seconds = {name: median(second for second, _ in pairs) for name, pairs in measured.items()}
    for name, pairs in measured.items():
        row = {"training step": name, "ms": f"{1e3 * seconds[name]:.1f}"}
        row["time / first row"] = f"{seconds[name] / next(iter(seconds.values())):.2f}"
        if pairs[0][1]:  # which nanoGPT's code does not count
            alone = f"plain, {name.split(', ')[1]}"
            row["time / plain step"] = f"{seconds[name] / seconds[alone]:.2f}"
            flops = mean(flops for _, flops in pairs)  # small dolls read a random number of sequences
            row["FLOPs / plain step"] = f"{flops / measured[alone][0][1]:.2f}"
        rows.append(row)
    threads = f"{torch.get_num_threads()} thread(s), medians of {args.rounds} interleaved rounds"
    shape = f"{D} wide, {L} layers, block {args.block_size}, batch {args.batch_size}"
    text = f"{DEVICE}, dtype {args.dtype}, {threads}; {shape}.\n\n{markdown(rows)}"
    report(args.out, "-".join(filter(None, ("speed", args.dtype))), text)
