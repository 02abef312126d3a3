"""What `train` is told, checked before any work."""

import math
import numbers

from ..config import positive
from .loss import check_weights
from .optimizer import default_lr


def check(model, settings):
    """Settings of `train` with their defaults filled in. ValueError, naming it, for a value out of range."""
    s = dict(settings)
    if s["steps"] is not None and s["flops"] is not None:
        raise ValueError(f"steps={s['steps']!r} and flops={s['flops']!r}: give one budget, not both")
    if s["flops"] is None:
        s["steps"] = 2000 if s["steps"] is None else s["steps"]
    for name in ("steps", "batch_size", "eval_interval", "eval_blocks"):
        if s[name] is not None:
            s[name] = positive(name, s[name])
    s["lr"] = default_lr(model.config) if s["lr"] is None else s["lr"]
    limits = dict(lr=math.inf, weight_decay=math.inf, grad_clip=math.inf, warmup=1.0, flops=math.inf)
    for name, end in limits.items():
        if s[name] is not None and (not isinstance(s[name], numbers.Real) or not 0 <= s[name] < end):
            below = "" if end == math.inf else f" and below {end:g}"
            raise ValueError(f"{name}={s[name]!r} must be a number of at least 0{below}")
    if s["flops"] == 0:
        raise ValueError(f"flops={s['flops']!r} must be more than 0")
    s |= {name: float(s[name]) for name in limits if s[name] is not None}  # numpy's could not be read back
    if s["dtype"] not in (None, "float32", "bfloat16"):
        raise ValueError(f'dtype={s["dtype"]!r} must be "float32" or "bfloat16"')
    s["seed"] = positive("seed", s["seed"], 0)
    s["loss_weights"] = check_weights(s["loss_weights"], model.sizes)
    return s
