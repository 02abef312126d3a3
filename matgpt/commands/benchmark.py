"""python -m matgpt benchmark NAME: the runs behind every figure that the README and the notebooks state."""

import argparse
import importlib
import sys

import torch

NAMES = {
    "quality": "dolls against twins trained alone",
    "frontier": "dolls smaller along every dimension: loss against parameters and FLOPs",
    "speed": "time and memory of training, forward and generation",
    "generate": "tokens per second: cached, drafted, and beside transformers",
    "embeddings": "finding functions by what they do, with embeddings cut at every size",
    "checkpoint": "what checkpointing costs",
}


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m matgpt benchmark", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    argv = sys.argv[1:] if argv is None else argv
    modules = {}
    for name, text in NAMES.items():
        command = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        command.add_argument(
            "--threads", type=int, default=1, help="PyTorch threads; one never stalls on a busy machine"
        )
        if name in argv[:1]:
            modules[name] = importlib.import_module(f"matgpt.benchmarks.{name}")
            modules[name].add_arguments(command)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        modules[args.name].run(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; what is finished is kept: the same command goes on from there")
