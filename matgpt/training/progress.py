"""How a run shows itself: a bar with the time left and, in a notebook, a plot that grows with it."""

import sys
import time

from tqdm import tqdm


def in_notebook():
    """Whether the code runs in a Jupyter kernel, which can redraw what it showed."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


class Progress:
    """A bar over `total` units. In a notebook bar and plot each stay one output that is drawn anew."""

    def __init__(self, total, show=True, unit="step"):
        self.total, self.unit, self.show = total, unit, show
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

    def reached(self, done):
        """Show that `done` units are done."""
        done = min(done, self.total)
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

            from .. import plot

            figure = plot.losses(history)
            if self.figure is None:
                self.figure = display(figure, display_id=True)
            else:
                self.figure.update(figure)

    def __exit__(self, *error):
        if self.bar:
            self.bar.close()
