import IPython.display
import pytest

import matgpt
from matgpt.training.progress import Progress


def test_a_slider_shows_what_it_is_moved_to_and_nothing_before(monkeypatch):
    shown, widgets = [], []
    monkeypatch.setattr(IPython.display, "display", lambda *w: widgets.extend(w))
    matgpt.slider(shown.append, [("small", 8), ("large", 16)], "size")
    choice, output = widgets
    assert shown == [] and choice.value == 8
    choice.value = 16
    choice.value = 8
    assert shown == [16, 8]


def test_the_bar_counts_to_the_end_and_shows_the_loss_of_every_size(capsys):
    history = matgpt.History((matgpt.Size(8, 1, 1), matgpt.Size(16, 1, 1)))
    with Progress(3, history) as bar:
        bar.stepped(2)
        history.steps.append(2)
        for i, size in enumerate(history.sizes):
            history.val[size].append(1.25 + i)
        bar.evaluated(history)
        bar.stepped(3)
    written = capsys.readouterr().err
    assert "3/3" in written and "val 1.250 2.250" in written


@pytest.mark.parametrize("show", [False])
def test_no_bar_where_none_is_wanted(show, capsys):
    with Progress(3, show=show) as bar:
        bar.stepped(3)
    assert capsys.readouterr() == ("", "")
