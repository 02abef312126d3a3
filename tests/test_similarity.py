"""Groups, neighbours and pairs of tokens, on embeddings whose answer is known."""

import math

import pytest
import torch

from matgpt import CharTokenizer, plot
from matgpt.embeddings.similarity import (
    char_groups,
    char_pairs,
    cosines,
    frequent,
    nearest_tokens,
    pair_trends,
    token_names,
    what_changed,
    word_pairs,
)

CHARACTERS = "!()09AEBabe["


def test_names_and_groups_of_characters():
    names = token_names(CharTokenizer(CHARACTERS))
    assert names == list(CHARACTERS)
    spell = {kind: "".join(names[i] for i in group) for kind, group in char_groups(names).items()}
    assert spell == {"vowels": "ae", "capitals": "AEB", "digits": "09", "punctuation": "!()["}
    assert char_groups(names, among=[0, 5]) == {"capitals": [5], "punctuation": [0]}


def test_frequent_counts():
    assert frequent([3, 1, 1, 3, 3, 0], vocab_size=5, at_least=2) == [1, 3]


def test_cosines_of_the_first_dimensions():
    e = torch.tensor([[1.0, 0.0, 9.0], [2.0, 0.0, -9.0], [0.0, 3.0, 9.0]])
    assert torch.allclose(cosines(e, 2), torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]))
    assert cosines(e)[0, 2] > 0.5 > cosines(e)[0, 1]


def test_neighbours_leave_out_the_token_itself_and_whoever_is_not_among():
    e = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.3]])
    found, values = nearest_tokens(e, 0, k=2)
    assert found == [1, 3] and values[0] > values[1]
    assert nearest_tokens(e, 0, k=9)[0] == [1, 3, 2]
    assert nearest_tokens(e, 0, k=9, among=[0, 2, 3])[0] == [3, 2]


def test_pairs_of_characters():
    names = list(CHARACTERS)
    pairs = {kind: {names[i] + names[j] for i, j in some} for kind, some in char_pairs(names).items()}
    assert pairs == {
        "vowel, vowel": {"ae"},
        "capital, capital": {"AE", "AB", "EB"},
        "digit, digit": {"09"},
        "letter, its capital": {"aA", "eE", "bB"},
        "bracket, its partner": {"()"},
    }


def test_pairs_of_words():
    names = ["if", " if", "If", " If", "list", " lists", " list", "a", "==", "\ufffd", "\n\n", " ", "IF"]
    pairs = {kind: {(names[i], names[j]) for i, j in some} for kind, some in word_pairs(names).items()}
    assert pairs["word, blank + word"] == {("if", " if"), ("list", " list"), ("If", " If")}
    assert pairs["word, its capital"] == {("if", "If"), (" if", " If")}
    assert pairs["word, its plural"] == {(" list", " lists")}
    assert len(pairs["blank + word, blank + word"]) == 6  # of four words


def test_trend_of_a_pair_that_parts_and_one_that_draws_together():
    # in the first two dimensions 0 and 1 point one way and 2, 3 do not; the other two turn this round
    e = torch.tensor([[1.0, 0, 5, 0], [1, 0, -5, 0], [0, 1, 0, 5], [0, -1, 0, 5]])
    trends = pair_trends(e, {"parting": [(0, 1)], "meeting": [(2, 3)], "both": [(0, 1), (2, 3)]}, dims=(2, 4))
    assert trends["parting"]["mean"] == pytest.approx([1, (1 - 25) / 26])
    assert trends["parting"]["change"] < 0 < trends["meeting"]["change"]
    assert trends["all pairs"]["excess"] == pytest.approx([0, 0])
    every = [cosines(e, d)[*torch.triu_indices(4, 4, 1)] for d in (2, 4)]
    assert trends["both"]["excess"] == pytest.approx([(0 - c.mean()).item() for c in every], abs=1e-6)
    assert trends["meeting"]["standing"][0] == pytest.approx(((-1 - every[0].mean()) / every[0].std()).item())
    assert trends["both"]["se"][0] == pytest.approx(
        math.sqrt(2) / math.sqrt(2)
    )  # 1 and -1: sd √2 over √2 pairs
    assert math.isnan(trends["parting"]["se"][0])


def test_all_pairs_are_those_of_the_tokens_asked_for():
    e = torch.randn(5, 4)
    assert pair_trends(e, {}, (4,), among=[0, 1, 2])["all pairs"]["pairs"] == 3


def test_the_sentence_follows_the_numbers():
    e = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    e[:6, 4:] = 6 * torch.ones(4)  # alike in what comes later
    pairs = [(i, j) for i in range(6) for j in range(i)]
    together = what_changed(pair_trends(e, {"these": pairs}, (4, 8)), (4, 8))
    assert "these (15 pairs): draws together" in together[1]
    e[:6, :4], e[:6, 4:] = (
        e[:6, 4:].clone(),
        6 * torch.randn(6, 4, generator=torch.Generator().manual_seed(1)),
    )
    assert "these (15 pairs): parts" in what_changed(pair_trends(e, {"these": pairs}, (4, 8)), (4, 8))[1]
    assert "no clear trend" in what_changed(pair_trends(e, {"these": pairs[:1]}, (4, 8)), (4, 8))[1]


def test_figures_draw_what_they_are_given(tmp_path):
    e, names, dims = torch.randn(8, 8), ["a", " b", "\n", "much too long", *"defg"], [2, 4, 8]
    trends = pair_trends(e, {"some": [(0, 1), (2, 3)], "one": [(4, 5)]}, dims)
    found = {t: {d: nearest_tokens(e, t, d, k=3) for d in dims} for t in (0, 1, 2)}
    figures = [
        plot.pair_trends(trends, dims),
        plot.neighbours(found, names, [0, 1, 2]),
        plot.heat_maps(e, names, {"x": [0, 1], "y": [2, 3, 4]}, dims),
    ]
    assert len(figures[0].axes) == 2
    assert [text.get_text() for text in figures[1].axes[0].texts if text.get_text() == "much␣too…"] == [
        "much␣too…"
    ] * sum(3 in others for others, _ in found[0].values())
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png")
        plot.close(figure)
