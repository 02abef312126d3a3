"""python -m matgpt benchmark NAME: the runs behind every figure that the README and the notebooks state."""

import importlib

from .parser import Parser, set_threads

NAMES = {
    "quality": "one nested run beside the full model alone and the family apart, at one price",
    "speed": "time and memory of training, forward and generation",
    "generate": "tokens per second: cached, drafted, and beside transformers",
    "embeddings": "finding functions by what they do, with embeddings cut at every size",
}


def main(argv):
    name, *rest = argv or ["--help"]
    if name not in NAMES:
        parser = Parser("benchmark", __doc__.partition(": ")[2])
        parser.add_argument("NAME", choices=NAMES, help="; ".join(map(": ".join, NAMES.items())))
        parser.parse_args([name])
    module = importlib.import_module(f"matgpt.benchmarks.{name}")
    parser = Parser(f"benchmark {name}", NAMES[name])
    parser.add_argument("--threads", type=int, default=1, help="one never stalls on a busy machine")
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    stopped = "interrupted; what is finished is kept: the same command goes on from there"
    with parser.one_line(RuntimeError, interrupted=stopped):
        set_threads(args.threads)
        module.run(args)
