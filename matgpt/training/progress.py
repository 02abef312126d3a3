"""How a run shows itself: a bar with the time left and, in a notebook, a plot that grows with it."""

import io
import sys

from tqdm import tqdm


def in_notebook():
    """Say whether the code runs in a Jupyter kernel, which can redraw what it showed."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


class Progress(tqdm):
    """A bar over the budget. In a notebook bar and plot each stay one output that is drawn anew."""

    monitor_interval = 0  # needs no thread of tqdm, since each step may draw

    def __init__(self, settings, rank=0):
        self.in_steps, self.notebook, self.outputs = settings.flops is None, in_notebook(), {}
        total = settings.steps or max(1, round(settings.flops / 1e9))
        options = dict(total=total, unit="step" if self.in_steps else "GFLOP", miniters=1)
        options["disable"] = not settings.progress or rank > 0
        if self.notebook:
            options |= dict(file=io.StringIO(), ascii=False, ncols=80, mininterval=1)  # `display` draws it
        super().__init__(dynamic_ncols=not self.notebook, **options)

    def reached(self, history):
        """Show how much of the budget is spent."""
        done = history.done if self.in_steps else round(history.spent / 1e9)
        self.update(min(done, self.total) - self.n)

    def evaluated(self, history):
        """Show the losses measured so far."""
        if not self.notebook:
            self.set_postfix_str("val " + " ".join(f"{history.val[s][-1]:.3f}" for s in history.sizes))
        elif not self.disable and len(history.steps) > 1:
            self._draw("plot", history.plot())

    def display(self, msg=None, pos=None):
        """Draw the bar, when tqdm asks for it."""
        if not self.notebook:
            return super().display(msg, pos)
        return self._draw("bar", {"text/plain": str(self)}, raw=True)

    def _draw(self, name, content, **options):
        if name in self.outputs:
            self.outputs[name].update(content, **options)
        else:
            from IPython.display import display

            self.outputs[name] = display(content, display_id=True, **options)
