"""What a step costs beside others' code and beside its FLOPs, and a doll beside its shape alone."""

import importlib.util
import os
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


def add_arguments(parser):
    add = parser.add_argument
    add("--nesting", nargs="+", help="the family (default: a quarter, half, three quarters)")
    add("--n-embd", type=int, default=128)
    add("--n-head", type=int, default=4)
    add("--n-layer", type=int, default=4)
    add("--block-size", type=int, default=64)
    add("--batch-size", type=int, default=12)
    add("--vocab-size", type=int, default=65)
    add("--dtype", choices=("float32", "bfloat16"), help="in which all steps, peers' too, multiply matrices")
    add("--nanogpt", help="a folder with nanoGPT's code, to stand beside")
    add("--rounds", type=int, default=25)
    add("--out", default="runs/speed")
    add("--quick", action="store_true", help="five rounds")


class Step:
    """A training step of a model of ours, as `train` draws it, or of all dolls on whole batches."""

    def __init__(self, model, x, y, kind, dtype, whole=False):
        self.model, self.x, self.y, self.dtype = model, x, y, dtype
        self.optimizers = make_optimizers(kind, model, 1e-4, 0.1)
        schedule, trunks = Schedule(model, SHARE), model.trunks(model.sizes)
        parts = {t[0]: 1 if whole else part for t, part in zip(trunks, schedule.fractions(trunks).values())}
        rows = [[len(x) if s == schedule.full else round(parts[t[0]] * len(x)) for s in t] for t in trunks]
        self.passes = [(trunk, each) for trunk, each in zip(trunks, rows) if max(each)]
        passes = sum(training_flops(model, *each) for each in self.passes) * x.size(1)
        self.flops = passes + optimizer_flops(model, kind)

    def __call__(self):
        def read(n):
            return self.x[:n], self.y[:n]

        for loss, _ in step_losses(self.model, self.passes, read, lambda size: 1, self.dtype):
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        with precision(DEVICE, self.dtype):
            for optimizer in self.optimizers:
                optimizer.step()
        self.model.zero_grad()


def peers(args, x, y):
    """{name: a training step of the same shape, AdamW's}: nanoGPT's if its code is given, transformers'."""
    shape = {name: getattr(args, name) for name in ("n_embd", "n_head", "n_layer", "vocab_size")}
    steps = {}

    def add(name, model, optimizer, loss):
        def step():
            with precision(DEVICE, args.dtype):
                nats = loss()
            nats.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        steps[name] = step

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
    loss = lambda: F.cross_entropy(gpt2(x, use_cache=False).logits.flatten(0, 1), y.flatten())
    add("transformers, AdamW", gpt2, optimizer, loss)
    return steps


def peak_memory(step):
    """Most bytes that tensors allocated during the step hold at once, beyond what was there before."""
    step()
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler reports each time that it starts
    with torch.profiler.profile(profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(np.cumsum([n for _, n in sorted((e.start_ns(), e.nbytes()) for e in events)]).max())


def training(args, plain, family, x, y):
    """Rows of a table: a step of the plain model and of the family, with either optimizer, and of peers."""
    steps = peers(args, x, y)
    for kind in ("adamw", "muon"):
        steps[f"plain, {kind}"] = Step(plain, x, y, kind, args.dtype)
        steps[f"family, {kind}, as train draws it"] = Step(family, x, y, kind, args.dtype)
        steps[f"family, {kind}, all dolls on a whole batch"] = Step(family, x, y, kind, args.dtype, True)
    seconds = medians(steps, args.rounds)
    base, rows = seconds[next(iter(steps))], []
    for name, step in steps.items():
        row = [name, f"{1e3 * seconds[name]:.1f}", f"{seconds[name] / base:.2f}", "", "", ""]
        if isinstance(step, Step):
            alone = f"plain, {name.split(', ')[1]}"
            of = seconds[name] / seconds[alone], step.flops / steps[alone].flops
            row[3:] = [f"{ratio:.2f}" for ratio in (*of, peak_memory(step) / peak_memory(steps[alone]))]
        rows.append(row)
    of_plain = ["time of the plain step's", "FLOPs of its", "peak memory of its"]
    return markdown(["training step", "ms", "time of the first row's", *of_plain], rows)


def inference(family, x, rounds):
    """Rows of a table: forward and greedy text of each doll nested, sliced out, and of its shape alone."""
    rows, prompt, tokens = [], x[:1, :8], x.size(1) - 8
    for size in family.sizes:
        torch.manual_seed(1)
        alone = MatryoshkaGPT(family.config.doll(size)).to(DEVICE).eval()
        ways = {"nested": (family.eval(), size), "sliced": (family.slice(size), None), "alone": (alone, None)}
        calls = {way: lambda m=m, s=s: m(x, s) for way, (m, s) in ways.items()}
        texts = {way: lambda m=m, s=s: m.generate(prompt, tokens, s, 0) for way, (m, s) in ways.items()}
        with torch.inference_mode():
            forward, write = medians(calls, rounds), medians(texts, max(3, rounds // 4))
        row = [f"{1e3 * s:.2f}" for s in forward.values()] + [f"{forward['sliced'] / forward['alone']:.2f}"]
        row += [f"{tokens / s:.0f}" for s in write.values()] + [f"{write['alone'] / write['sliced']:.2f}"]
        rows.append([size, *row])
    return rows


def run(args):
    D, H, L, T = args.n_embd, args.n_head, args.n_layer, args.block_size
    args.rounds = 5 if args.quick else args.rounds
    torch.manual_seed(0)
    model = lambda nesting: MatryoshkaGPT(GPTConfig(args.vocab_size, T, D, H, L, nesting)).to(DEVICE)
    quarters = [Size(D * i // 4, max(1, H * i // 4), max(1, L * i // 4)) for i in (1, 2, 3)]
    plain, family = model(None), model([*map(Size.parse, args.nesting or ())] or quarters)
    block = torch.randint(args.vocab_size, (args.batch_size, T + 1), device=DEVICE)
    x, y = block[:, :-1].contiguous(), block[:, 1:].contiguous()
    ways = ["nested", "sliced", "alone", "sliced / alone"]
    texts = ["doll", f"forward, ms: {ways[0]}", *ways[1:], f"text, tokens/s: {ways[0]}", *ways[1:]]
    setting = (
        f"{DEVICE}, dtype {args.dtype}, {torch.get_num_threads()} thread(s), {D} wide, {L} layers, block "
        f"{T}, batch {args.batch_size}, medians of {args.rounds} interleaved rounds."
    )
    tables = training(args, plain, family, x, y), markdown(texts, inference(family, x, args.rounds))
    report(args.out, "-".join(filter(None, ("speed", args.dtype))), "\n\n".join([setting, *tables]))
