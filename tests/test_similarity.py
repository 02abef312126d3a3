"""Pictures of embeddings: recall, neighbours, similarity, answers."""

import pytest
import torch

from matgpt import plot


def test_recall_is_drawn_in_percent_with_levels_across():
    levels = {"one": 0.05, "two": 0.1, "three": 0.2, "four": 0.3, "five": 0.35}
    (ax,) = plot.retrieval([2, 4, 8], {"a": [[0.1, 0.2, 0.3], [0.2, 0.2, 0.4]]}, levels).axes
    assert list(ax.lines[0].get_ydata()) == pytest.approx([15, 20, 35])
    names = {line.get_label() for line in ax.lines}
    assert names == {"a", "one, 5 %", "two, 10 %", "three, 20 %", "four, 30 %", "five, 35 %"}


def test_neighbours_are_written_at_each_size_and_long_ones_cut():
    names = ["a", " b", "\n", "much too long", *"defg"]
    tables = {
        0: {2: ([3, 1], [0.9, 0.1]), 4: ([2, 3], [0.5, 0.4])},
        1: {2: ([0, 3], [1, 0]), 4: ([4, 5], [1, 0])},
    }
    figure = plot.neighbours(tables, names)
    drawn = [[text.get_text() for text in ax.texts] for ax in figure.axes[:2]]
    assert drawn == [["much␣too…", "␣b", "⏎", "much␣too…"], ["a", "much␣too…", "d", "e"]]
    assert [ax.get_title() for ax in figure.axes[:2]] == ["nearest to  a", "nearest to  ␣b"]


def test_labels_of_a_heat_map_do_not_overlap():
    names = [f"word{i}" for i in range(30)]
    figure = plot.heat_maps(torch.randn(30, 8), {"x": range(10), "y": range(10, 30)}, [2, 8], names)
    figure.canvas.draw()
    for ax in figure.axes[:2]:
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels]
            assert [label.get_text() for label in labels] == names
            assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:]))


def test_a_table_of_answers_marks_the_right_one_and_cuts_long_names_at_their_end():
    table = plot.answers({"8 dims": [1, 0], "BM25": [2, 1]}, ["f", "module.function", "g"], right=1, width=10)
    assert table.splitlines() == ["  8 dims    BM25", "✓ module…   g", "  f       ✓ module…"]
