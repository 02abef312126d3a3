"""How a run shows itself: a bar with the time left and, in a notebook, a plot that grows with it."""

import sys
import time

from tqdm import tqdm


def in_notebook():
    """Say whether the code runs in a Jupyter kernel, which can redraw what it showed."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


class Progress:
    """A bar over the budget. In a notebook bar and plot each stay one output that is drawn anew."""

    def __init__(self, settings, rank=0):
        self.unit = "step" if settings.flops is None else "GFLOP"
        self.total = settings.steps or max(1, round(settings.flops / 1e9))
        self.show = settings.progress and rank == 0
        self.bar = self.text = self.figure = None
        self.started = self.drawn = time.monotonic()

    def __enter__(self):
        if self.show and in_notebook():
            from IPython.display import display

            self.text = display({"text/plain": self._line(0)}, raw=True, display_id=True)
        elif self.show:
            self.bar = tqdm(total=self.total, unit=self.unit, dynamic_ncols=True)
        return self

    def _line(self, done):
        return tqdm.format_meter(done, self.total, time.monotonic() - self.started, ncols=80, unit=self.unit)

    def reached(self, history):
        """Show how much of the budget is spent."""
        done = min(history.done if self.unit == "step" else round(history.spent / 1e9), self.total)
        if self.bar:
            self.bar.update(done - self.bar.n)
        elif self.text and (done == self.total or time.monotonic() - self.drawn > 1):
            self.drawn = time.monotonic()
            self.text.update({"text/plain": self._line(done)}, raw=True)

    def evaluated(self, history):
        """Show the losses measured so far."""
        if self.bar:
            self.bar.set_postfix_str("val " + " ".join(f"{history.val[s][-1]:.3f}" for s in history.sizes))
        elif self.text and len(history.steps) > 1:
            from IPython.display import display

            figure = history.plot()
            if self.figure is None:
                self.figure = display(figure, display_id=True)
            else:
                self.figure.update(figure)

    def __exit__(self, *error):
        if self.bar:
            self.bar.close()
