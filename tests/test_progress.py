import IPython.display

import matgpt
from matgpt.training import progress
from matgpt.training.progress import Progress


def test_the_bar_counts_to_the_end_and_shows_the_loss_of_every_size(capsys):
    history = matgpt.History((matgpt.Size(8, 1, 1), matgpt.Size(16, 1, 1)))
    with Progress(3, unit="GFLOP") as bar:
        bar.reached(2)
        history.add(*({size: loss + i for i, size in enumerate(history.sizes)} for loss in (9.0, 1.25)))
        bar.evaluated(history)
        bar.reached(4)  # a last step may go beyond the budget
    written = capsys.readouterr().err
    assert "2/3" in written and "3/3" in written and "4/3" not in written
    assert "GFLOP" in written and "val 1.250 2.250" in written


def test_no_bar_where_none_is_wanted(capsys):
    with Progress(3, show=False) as bar:
        bar.reached(3)
    assert capsys.readouterr() == ("", "")


def test_a_notebook_shows_one_line_and_one_figure_that_are_drawn_anew(monkeypatch):
    shown = []

    class Shown:
        def __init__(self, content):
            shown.append([content])

        def update(self, content, raw=False):
            shown[-1 if not raw else 0].append(content)

    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", lambda content, **options: Shown(content))
    history = matgpt.History((matgpt.Size(8, 1, 1),))
    with Progress(2) as bar:
        for step in (0, 1, 2):
            history.add({history.sizes[0]: 2.0 - step}, {history.sizes[0]: 3.0 - step})
            history.done = step + 1
            bar.evaluated(history)
            bar.reached(step)
    line, figure = shown
    assert "2/2" in line[-1]["text/plain"]
    assert len(figure) == 2, "from the second evaluation on"
    drawn = {tuple(curve.get_ydata()): curve.get_linestyle() for curve in figure[-1].axes[0].lines[:2]}
    assert drawn == {(3.0, 2.0, 1.0): "-", (2.0, 1.0, 0.0): ":"}, "validation, and training dotted"
