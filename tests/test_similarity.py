"""Pictures of embeddings: neighbours, similarity."""

import pytest
import torch

import matgpt
from matgpt import plot


@pytest.mark.slow
def test_figures_draw_what_they_are_given(tmp_path):
    e, names, dims = torch.randn(8, 8), ["a", " b", "\n", "much too long", *"defg"], [2, 4, 8]
    found = {t: {d: [x[1:].tolist() for x in matgpt.search(e, e[t], 4, d)] for d in dims} for t in (0, 1, 2)}
    figures = [plot.neighbours(found, names), plot.heat_maps(e, {"x": [0, 1], "y": [2, 3, 4]}, dims, names)]
    assert [text.get_text() for text in figures[0].axes[0].texts if text.get_text() == "much␣too…"] == [
        "much␣too…"
    ] * sum(3 in others for others, _ in found[0].values())
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png")


def test_labels_of_a_heat_map_do_not_overlap():
    names = [f"word {i}" for i in range(30)]
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
