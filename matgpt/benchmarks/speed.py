"""What a training step costs, beside others' code and beside its FLOPs."""

import importlib.util
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from ..config import GPTConfig, Size
from ..measure.evaluation import precision
from ..model import MatryoshkaGPT
from ..training.loop import train
from .common import DEVICE, markdown, report

VOCAB_SIZE = 65  # as TinyShakespeare has characters
STEPS = 5  # timed together


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

    return steps


def peer(args, model, optimizer, loss):
    """Return a function that trains others' code on loss() for some steps: (seconds, None) of one of them."""

    def steps():
        start = time.perf_counter()
        for _ in range(STEPS):
            with precision(DEVICE, args.dtype):
                nats = loss()
            nats.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()  # waits for a GPU, as `train` does
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return (time.perf_counter() - start) / STEPS, None

    return steps


def peers(args):
    """Return {name: what trains a model of the same shape}: nanoGPT's if its code is given, transformers'."""
    block = torch.randint(VOCAB_SIZE, (args.batch_size, args.block_size + 1), device=DEVICE)
    x, y = block[:, :-1].contiguous(), block[:, 1:].contiguous()
    shape = {name: getattr(args, name) for name in ("n_embd", "n_head", "n_layer")}
    shape, rows = shape | {"vocab_size": VOCAB_SIZE}, {}
    if args.nanogpt:
        spec = importlib.util.spec_from_file_location("nanogpt", Path(args.nanogpt) / "model.py")
        spec.loader.exec_module(code := importlib.util.module_from_spec(spec))
        nano = code.GPT(code.GPTConfig(block_size=args.block_size, dropout=0.0, **shape)).to(DEVICE)
        optimizer = nano.configure_optimizers(0.1, 1e-4, (0.9, 0.99), DEVICE.type)
        rows["nanoGPT, AdamW"] = peer(args, nano, optimizer, lambda: nano(x, y)[1])
    try:
        import transformers
    except ImportError:
        print("transformers is not installed: its row is left out")
        return rows
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = transformers.GPT2Config(n_positions=args.block_size, **shape, **none)
    gpt2 = transformers.GPT2LMHeadModel(config).to(DEVICE)

    def loss():
        return F.cross_entropy(gpt2(x, use_cache=False).logits.flatten(0, 1), y.flatten())

    optimizer = torch.optim.AdamW(gpt2.parameters(), lr=1e-4, fused=True)
    return rows | {"transformers, AdamW": peer(args, gpt2, optimizer, loss)}


def run(args):
    D, H, L = args.n_embd, args.n_head, args.n_layer
    torch.manual_seed(0)
    quarters = [Size(D * i // 4, max(1, H * i // 4), max(1, L * i // 4)) for i in (1, 2, 3)]
    calls = peers(args)
    for kind in ("adamw", "muon"):
        calls[f"plain, {kind}"] = own(args, kind, None)
        calls[f"family, {kind}, as train draws it"] = own(args, kind, quarters)
        calls[f"family, {kind}, all dolls on a whole batch"] = own(args, kind, quarters, share=0.99)
    measured = {name: [] for name in calls}
    for _ in range(args.rounds):  # in turn, so that all meet the same noise
        for name, call in calls.items():
            measured[name].append(call())
    seconds = {name: median(second for second, _ in pairs) for name, pairs in measured.items()}
    flops, rows = {name: pairs[0][1] for name, pairs in measured.items()}, []
    for name in calls:
        first = next(iter(seconds.values()))
        row = {"training step": name, "ms": f"{1e3 * seconds[name]:.1f}"}
        row["time of the first row's"] = f"{seconds[name] / first:.2f}"
        if flops[name]:
            alone = f"plain, {name.split(', ')[1]}"
            row["time of the plain step's"] = f"{seconds[name] / seconds[alone]:.2f}"
            row["FLOPs of its"] = f"{flops[name] / flops[alone]:.2f}"
        rows.append(row)
    threads = f"{torch.get_num_threads()} thread(s), medians of {args.rounds} interleaved rounds"
    shape = f"{D} wide, {L} layers, block {args.block_size}, batch {args.batch_size}"
    text = f"{DEVICE}, dtype {args.dtype}, {threads}; {shape}.\n\n{markdown(rows)}"
    report(args.out, "-".join(filter(None, ("speed", args.dtype))), text)
