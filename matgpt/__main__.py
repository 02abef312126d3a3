"""python -m matgpt COMMAND: what can be done from a terminal. An error that a user can fix takes one line."""

import os
import sys
import warnings

from . import __version__
from .commands.parser import make_parser


def main(argv=None):
    args = make_parser(__version__).parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's output has no such method
        sys.stdout.reconfigure(line_buffering=True, errors="replace")  # a terminal may lack some characters
    # imported only now: PyTorch takes longer to load than --help should take to answer
    import torch

    def show(warning, *where, **how):
        print(f"warning: {args.parser.translated(str(warning))}", file=sys.stderr)

    if getattr(args, "threads", None):
        torch.set_num_threads(args.threads)
    try:
        from .commands import run

        with warnings.catch_warnings():
            warnings.showwarning = show
            getattr(run, f"run_{args.command}")(args)
    except KeyboardInterrupt:
        sys.exit("\ninterrupted")
    except BrokenPipeError:  # `| head` has closed the pipe; nothing more is flushed to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, ImportError, FloatingPointError, NotImplementedError) as error:
        args.parser.error(str(error))
    except (MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "allocate memory" not in str(error):  # PyTorch's, on a CPU
            raise
        args.parser.error("out of memory: choose a smaller model, or smaller batches where there are any")


if __name__ == "__main__":
    main()
