"""Threads that stand in each other's way, which no error would tell."""

import time

import torch


def slow_threads():
    """A line of advice if one thread is at least twice as fast here as PyTorch's present number; else None.

    Each operation waits for the slowest of its threads, and where other programs hold the cores that one
    waits for a turn. Takes a few hundredths of a second on a machine where all is well.
    """
    x, weight, n = torch.ones(768, 128), torch.ones(512, 128), torch.get_num_threads()

    def seconds(threads):
        torch.set_num_threads(threads)
        started = time.perf_counter()
        for _ in range(10):
            torch.nn.functional.linear(x, weight)
        return time.perf_counter() - started

    try:
        many, one = (min(times) for times in zip(*[(seconds(n), seconds(1)) for _ in range(2)]))
    finally:
        torch.set_num_threads(n)
    if many < 2 * one:
        return None
    return (
        f"one thread is {many / one:.0f} times as fast as {n} on this machine now: "
        "--threads 1, or torch.set_num_threads(1), uses it"
    )
