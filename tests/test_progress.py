"""What a run shows of itself: a bar in a terminal, one line and one figure in a notebook."""

from types import SimpleNamespace
from unittest.mock import Mock

import IPython.display

from matgpt import History, Size
from matgpt.training import progress
from matgpt.training.progress import Progress

SIZES = Size(8, 1, 1), Size(16, 1, 1)


def bar(steps=None, flops=None, shown=True, rank=0):
    return Progress(SimpleNamespace(steps=steps, flops=flops, progress=shown), rank)


def test_the_bar_counts_to_the_end_and_shows_the_loss_of_every_size(capsys):
    history = History(SIZES, spent=2e9)
    with bar(flops=3e9) as shown:
        shown.reached(history)
        history.add(*({size: loss + i for i, size in enumerate(history.sizes)} for loss in (9.0, 1.25)))
        shown.evaluated(history)
        history.spent = 4e9  # a last step may go beyond the budget
        shown.reached(history)
    written = capsys.readouterr().err
    assert "2/3" in written and "3/3" in written and "4/3" not in written
    assert "GFLOP" in written and "val 1.250 2.250" in written


def test_no_bar_where_none_is_wanted_nor_in_a_second_process(capsys):
    for options in (dict(shown=False), dict(rank=1)):
        with bar(3, **options) as hidden:
            hidden.reached(History(SIZES, done=3))
    assert capsys.readouterr() == ("", "")


def test_a_notebook_shows_one_line_and_one_figure_that_are_drawn_anew(monkeypatch):
    line, figure = Mock(), Mock()
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", Mock(side_effect=[line, figure]))
    history = History(SIZES[:1])
    with bar(2) as live:
        for history.done in (0, 1, 2):
            history.add(*({history.sizes[0]: loss - history.done} for loss in (2.0, 3.0)))
            live.evaluated(history)
            live.reached(history)
    assert "2/2" in line.update.call_args.args[0]["text/plain"]
    figure.update.assert_called_once()  # shown at the second evaluation, drawn anew at the third
    curves = figure.update.call_args.args[0].axes[0].lines[:2]
    assert [[*curve.get_ydata()] for curve in curves] == [[3.0, 2.0, 1.0], [2.0, 1.0, 0.0]]
