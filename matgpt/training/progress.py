"""How a run shows itself: a bar with the time left and, in a notebook, a plot that grows with it."""

import sys
import time

from tqdm import tqdm


def in_notebook():
    """Whether the code runs in a Jupyter kernel, which can redraw what it showed."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


class Progress:
    """A bar over `total` steps. In a notebook bar and plot each stay one output that is drawn anew."""

    def __init__(self, total, history=None, show=True):
        self.total, self.show, self.notebook = total, show, show and in_notebook()
        self.bar = self.text = self.figure = None
        self.started = self.drawn = time.monotonic()

    def __enter__(self):
        if self.notebook:
            from IPython.display import display

            self.text = display({"text/plain": self._line(0)}, raw=True, display_id=True)
        elif self.show:
            self.bar = tqdm(total=self.total, unit="step", dynamic_ncols=True)
        return self

    def _line(self, step):
        return tqdm.format_meter(step, self.total, time.monotonic() - self.started, ncols=80, unit="step")

    def stepped(self, step):
        """Show that `step` steps are done."""
        if self.bar:
            self.bar.update(step - self.bar.n)
        elif self.text and (step == self.total or time.monotonic() - self.drawn > 1):
            self.drawn = time.monotonic()
            self.text.update({"text/plain": self._line(step)}, raw=True)

    def evaluated(self, history):
        """Show the losses measured so far."""
        if self.bar:
            self.bar.set_postfix_str("val " + " ".join(f"{history.val[s][-1]:.3f}" for s in history.sizes))
        elif self.notebook and len(history.steps) > 1:
            from IPython.display import display

            from .. import plot

            figure = plot.losses(history)
            if self.figure is None:
                self.figure = display(figure, display_id=True)
            else:
                self.figure.update(figure)
            plot.close(figure)

    def __exit__(self, *error):
        if self.bar:
            self.bar.close()
