"""What nesting costs: time and memory of a training step, forward and generation, as ratios of one run."""

import os

import numpy as np
import torch

from ..config import GPTConfig, Size, parse_doll
from ..measure.shapes import lattice
from ..model import MatryoshkaGPT
from ..training.loss import check_weights, draw_sizes, matryoshka_backward
from ..training.optimizer import make_optimizers
from .common import device, markdown, medians, report


def add_arguments(parser):
    parser.add_argument("--n-embd", type=int, default=128)
    parser.add_argument("--n-head", type=int, default=4)
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--vocab-size", type=int, default=65)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument(
        "--nesting", type=parse_doll, nargs="+", help="one more to train: widths, or width,heads,layers"
    )
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", default="runs/speed")
    parser.add_argument("--quick", action="store_true", help="five rounds")


def step_of(model, x, y, kind, random_sizes=99):
    """One whole training step as a function: gradients of its sizes, clipping, and the optimizer's share."""
    optimizer = make_optimizers(kind, model, 1e-4, 0.1)
    weights, rng = check_weights(None, model.sizes), np.random.default_rng(0)

    def step():
        sizes, shares = draw_sizes(model, weights, random_sizes, rng)
        batches = len(model.trunks(sizes)), *x.shape
        matryoshka_backward(model, x.expand(batches), y.expand(batches), sizes, shares)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

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
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        step()
    changes = [
        (e.start_ns(), e.nbytes())
        for e in profiler.profiler.kineto_results.events()
        if e.name() == "[memory]"
    ]
    return int(np.cumsum([n for _, n in sorted(changes)]).max())


def run(args):
    D, H, L = args.n_embd, args.n_head, args.n_layer
    shape = dict(vocab_size=args.vocab_size, block_size=args.block_size, n_embd=D, n_head=H, n_layer=L)
    torch.manual_seed(0)
    model = lambda nesting: MatryoshkaGPT(GPTConfig(**shape, nesting=nesting)).to(device())
    width = model((D // 4, D // 2, D))
    quarters = [(D * i // 4, max(1, H * i // 4), max(1, L * i // 4)) for i in (1, 2, 3)]
    every = model([Size(*shape) for shape in quarters] + [Size(D, H, L)])
    widths = [d for d, _, _ in quarters if d % (D // H) == 0]
    nine = model(lattice([*widths, D], sorted({max(1, L // 4), max(1, L // 2)}), D // H))
    twins = {str(size): width.slice(size) for size in width.sizes}
    block = torch.randint(args.vocab_size, (args.batch_size, args.block_size + 1), device=device())
    x, y = block[:, :-1], block[:, 1:]
    rounds = 5 if args.quick else args.rounds

    steps = {f"twin {name}": step_of(twin, x, y, args.optimizer) for name, twin in twins.items()}
    full = f"twin {width.config.full}"
    steps["nested along the width"] = step_of(width, x, y, args.optimizer)
    steps["the same, smallest and largest each step"] = step_of(width, x, y, args.optimizer, random_sizes=0)
    steps[f"{len(every.sizes)} dolls, nested along every dimension"] = step_of(every, x, y, args.optimizer)
    steps[f"a lattice of {len(nine.sizes)}, all each step"] = step_of(nine, x, y, args.optimizer)
    if args.nesting:
        steps[f"--nesting {' '.join(map(str, args.nesting))}"] = step_of(
            model(args.nesting), x, y, args.optimizer
        )
    some, one, draws = (
        "the same, smallest, largest and three others",
        step_of(nine, x, y, args.optimizer, random_sizes=3),
        30,
    )
    steps[some] = lambda: [
        one() for _ in range(draws)
    ]  # what a step costs depends on the sizes that it draws
    seconds = medians(steps, rounds)
    seconds[some] /= draws
    alone = sum(seconds[name] for name in steps if name.startswith("twin"))
    peaks = {name: peak_memory(step) for name, step in steps.items()}
    training = markdown(
        [
            "training step",
            "ms",
            "of the twins' steps together",
            "of the full twin's step",
            "peak memory of the full twin's",
        ],
        [
            [
                name,
                f"{s * 1e3:.1f}",
                f"{s / alone:.2f}",
                f"{s / seconds[full]:.2f}",
                f"{peaks[name] / peaks[full]:.2f}",
            ]
            for name, s in seconds.items()
        ],
    )

    rows = []
    for size in dict.fromkeys((*width.sizes, *every.sizes)):
        nested = width if size in width.sizes else every
        torch.manual_seed(1)
        candidates = {
            "nested": (nested, size),
            "sliced": (nested.slice(size), None),
            "alone": (MatryoshkaGPT(nested.config.doll(size)).to(device()), None),
        }
        for m, _ in candidates.values():
            m.eval()
        prompt = x[:1, :8]
        with torch.inference_mode():
            forward = medians({k: (lambda m=m, s=s: m(x, s)) for k, (m, s) in candidates.items()}, rounds)
            write = medians(
                {
                    k: (lambda m=m, s=s: m.generate(prompt, args.block_size - 8, size=s, temperature=0))
                    for k, (m, s) in candidates.items()
                },
                max(3, rounds // 4),
            )
        tokens = args.block_size - 8
        rows.append(
            [size]
            + [f"{forward[k] * 1e3:.2f}" for k in candidates]
            + [f"{forward['sliced'] / forward['alone']:.2f}"]
            + [f"{tokens / write[k]:.0f}" for k in candidates]
            + [f"{write['alone'] / write['sliced']:.2f}"]
        )
    inference = markdown(
        [
            "doll",
            "forward nested, ms",
            "sliced",
            "alone",
            "sliced / alone",
            "generation nested, tokens/s",
            "sliced",
            "alone",
            "sliced / alone",
        ],
        rows,
    )
    report(
        args.out,
        "speed",
        f"{device()}, {torch.get_num_threads()} thread(s), {args.optimizer}, medians of {rounds} interleaved rounds.\n\n"
        f"{training}\n\n{inference}",
    )
