"""Pictures of embeddings: neighbours, similarity."""

import pytest
import torch

import matgpt
from matgpt import plot


@pytest.mark.slow
def test_figures_draw_what_they_are_given(tmp_path):
    e, names, dims = torch.randn(8, 8), ["a", " b", "\n", "much too long", *"defg"], [2, 4, 8]
    found = {t: {d: [x[1:].tolist() for x in matgpt.search(e, e[t], 4, d)] for d in dims} for t in (0, 1, 2)}
    figures = [plot.neighbours(found, names), plot.heat_maps(e, {"x": [0, 1], "y": [2, 3, 4]}, dims)]
    assert [text.get_text() for text in figures[0].axes[0].texts if text.get_text() == "much␣too…"] == [
        "much␣too…"
    ] * sum(3 in others for others, _ in found[0].values())
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png")
