"""What nesting costs: time and memory of a training step, forward and generation, as ratios of one run."""

import os

import numpy as np
import torch

from ..config import GPTConfig, Size, parse_doll
from ..model import MatryoshkaGPT
from ..training.loss import check_weights, matryoshka_backward
from ..training.optimizer import make_optimizers
from ..training.price import union
from ..training.schedule import Schedule
from .common import device, markdown, medians, report

DRAWS = 30  # steps in a row of which the schedule draws the dolls: what one costs depends on them


def add_arguments(parser):
    parser.add_argument("--n-embd", type=int, default=128)
    parser.add_argument("--n-head", type=int, default=4)
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--vocab-size", type=int, default=65)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument(
        "--nesting", type=parse_doll, nargs="+", help="one more: widths, or width,heads,layers"
    )
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", default="runs/speed")
    parser.add_argument("--quick", action="store_true", help="five rounds")


def step_of(model, x, y, kind, draws=0):
    """A training step as a function: of all dolls, or `draws` steps of those that the schedule draws."""
    optimizers, weights = make_optimizers(kind, model, 1e-4, 0.1), check_weights(None, model.sizes)
    schedule, rng = Schedule(model, model.sizes), np.random.default_rng(0)

    def step():
        for _ in range(max(1, draws)):
            drawn = schedule.draw(1.0, rng) if draws else [(trunk, 1) for trunk in model.trunks(model.sizes)]
            counts = [(trunk, int(share * len(x) + rng.random())) for trunk, share in drawn]
            parts = [(trunk, x[:n], y[:n]) for trunk, n in counts if n]
            matryoshka_backward(model, parts, weights)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizers.step(union(model.config, [trunk[0] for trunk, _, _ in parts]))
            optimizers.zero_grad()

    return step


def peak_memory(step):
    """Most bytes that tensors allocated during the step hold at once, beyond what was there before."""
    step()
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler reports each time that it starts
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(np.cumsum([n for _, n in sorted((e.start_ns(), e.nbytes()) for e in events)]).max())


def training(models, twins, x, y, kind, rounds):
    """Rows of a table: a training step of each twin, of all dolls of a model, and of those that are drawn."""
    steps = {f"twin {size}": step_of(twin, x, y, kind) for size, twin in twins.items()}
    full, alone = list(steps)[-1], list(steps)
    for name, model in models.items():
        steps[f"{name}, {len(model.sizes)} dolls in each step"] = step_of(model, x, y, kind)
        steps[f"{name}, those that are drawn"] = step_of(model, x, y, kind, DRAWS)
    seconds = medians(steps, rounds)
    seconds = {name: s / (DRAWS if name.endswith("drawn") else 1) for name, s in seconds.items()}
    peaks, together = (
        {name: peak_memory(step) for name, step in steps.items()},
        sum(seconds[n] for n in alone),
    )
    ratios = lambda name, s: (s / together, s / seconds[full], peaks[name] / peaks[full])
    return [[name, f"{s * 1e3:.1f}", *(f"{r:.2f}" for r in ratios(name, s))] for name, s in seconds.items()]


def inference(models, x, rounds):
    """Rows of a table: forward and greedy text of each doll nested, sliced out, and of its shape alone."""
    rows, prompt, tokens = [], x[:1, :8], x.size(1) - 8
    for size, model in {size: m for m in models.values() for size in m.sizes}.items():
        torch.manual_seed(1)
        alone = MatryoshkaGPT(model.config.doll(size)).to(device()).eval()
        ways = {"nested": (model.eval(), size), "sliced": (model.slice(size), None), "alone": (alone, None)}
        calls = {way: lambda m=m, s=s: m(x, s) for way, (m, s) in ways.items()}
        texts = {way: lambda m=m, s=s: m.generate(prompt, tokens, s, 0) for way, (m, s) in ways.items()}
        with torch.inference_mode():
            forward, write = medians(calls, rounds), medians(texts, max(3, rounds // 4))
        row = [f"{1e3 * s:.2f}" for s in forward.values()] + [f"{forward['sliced'] / forward['alone']:.2f}"]
        row += [f"{tokens / s:.0f}" for s in write.values()] + [f"{write['alone'] / write['sliced']:.2f}"]
        rows.append([size, *row])
    return rows


def run(args):
    D, H, L, T, kind = args.n_embd, args.n_head, args.n_layer, args.block_size, args.optimizer
    rounds = 5 if args.quick else args.rounds
    torch.manual_seed(0)
    model = lambda nesting: MatryoshkaGPT(GPTConfig(args.vocab_size, T, D, H, L, nesting)).to(device())
    quarters = [Size(D * i // 4, max(1, H * i // 4), max(1, L * i // 4)) for i in (1, 2, 3)]
    models = {"the width": model((D // 4, D // 2)), "every dimension": model(quarters)}
    twins = {size: models["the width"].slice(size) for size in models["the width"].sizes}
    block = torch.randint(args.vocab_size, (args.batch_size, T + 1), device=device())
    x, y = block[:, :-1], block[:, 1:]
    more = {"--nesting": model(args.nesting)} if args.nesting else {}
    of_the_twin = ["of the full twin's step", "peak memory of the full twin's"]
    steps = ["training step", "ms", "of the twins' steps together", *of_the_twin]
    ways = ["nested", "sliced", "alone", "sliced / alone"]
    texts = ["doll", f"forward, ms: {ways[0]}", *ways[1:], f"text, tokens/s: {ways[0]}", *ways[1:]]
    setting = (
        f"{device()}, {torch.get_num_threads()} thread(s), {kind}, medians of {rounds} interleaved rounds"
    )
    tables = (
        markdown(steps, training(models | more, twins, x, y, kind, rounds)),
        markdown(texts, inference(models, x, rounds)),
    )
    report(args.out, "speed", "\n\n".join([f"{setting}.", *tables]))
