"""Neighbours of tokens, on embeddings whose answer is known."""

import pytest
import torch

from matgpt import plot
from matgpt.embeddings.similarity import nearest_tokens


def test_the_first_dimensions_decide():
    e = torch.tensor([[1.0, 0.0, 9.0], [2.0, 0.0, -9.0], [0.0, 3.0, 9.0]])
    found, values = nearest_tokens(e, 0, d=2)
    assert found == [1, 2] and torch.allclose(torch.tensor(values), torch.tensor([1.0, 0.0]))
    assert nearest_tokens(e, 0)[0] == [2, 1]


def test_neighbours_leave_out_the_token_itself():
    e = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.3]])
    found, values = nearest_tokens(e, 0, k=2)
    assert found == [1, 3] and values[0] > values[1]
    assert nearest_tokens(e, 0, k=9)[0] == [1, 3, 2]


@pytest.mark.slow
def test_figures_draw_what_they_are_given(tmp_path):
    e, names, dims = torch.randn(8, 8), ["a", " b", "\n", "much too long", *"defg"], [2, 4, 8]
    found = {t: {d: nearest_tokens(e, t, d, k=3) for d in dims} for t in (0, 1, 2)}
    figures = [plot.neighbours(found, names), plot.heat_maps(e, {"x": [0, 1], "y": [2, 3, 4]}, dims)]
    assert [text.get_text() for text in figures[0].axes[0].texts if text.get_text() == "much␣too…"] == [
        "much␣too…"
    ] * sum(3 in others for others, _ in found[0].values())
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png")
        plot.close(figure)
