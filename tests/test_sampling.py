"""What a token is drawn from."""

import pytest
import torch

from matgpt.generation.sampling import Sampling

P = torch.tensor([0.5, 0.25, 0.15, 0.1]).double()


@pytest.mark.parametrize(
    "settings, weights",
    [
        (dict(), [0.5, 0.25, 0.15, 0.1]),
        (dict(temperature=0.5), [0.25, 0.0625, 0.0225, 0.01]),
        (dict(top_k=2), [2, 1, 0, 0]),
        (dict(top_k=9), [0.5, 0.25, 0.15, 0.1]),
        (dict(top_p=0.6), [2, 1, 0, 0]),  # the fewest that hold as much
        (dict(top_p=0.4), [1, 0, 0, 0]),
        (dict(top_p=0.8), [0.5, 0.25, 0.15, 0]),
        (dict(top_p=1.0), [0.5, 0.25, 0.15, 0.1]),
        (dict(top_k=3, top_p=0.5), [1, 0, 0, 0]),  # of what top_k leaves
        (dict(temperature=0.5, top_p=0.9), [0.25, 0.0625, 0, 0]),  # of what the temperature makes
    ],
)
def test_the_distribution_that_is_drawn_from(settings, weights):
    weights = torch.tensor(weights).double()
    order = torch.tensor([2, 0, 3, 1])  # in whatever order the tokens stand
    probs = Sampling(**settings).probabilities((P.log() + 3.0)[order].repeat(2, 1))
    torch.testing.assert_close(probs, (weights / weights.sum())[order].repeat(2, 1))


def test_top_p_is_reached_by_equality():
    probs = Sampling(top_p=0.5).probabilities(torch.tensor([0.0, 0.0, -torch.inf]))
    assert probs.tolist() in ([1, 0, 0], [0, 1, 0])


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-38])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_tiny_temperature_is_greedy(temperature, dtype):
    logits = torch.tensor([[-3.0, 5.0, 4.0, -torch.inf, -6e4]]).to(dtype)
    assert Sampling(temperature, 2, 0.5).probabilities(logits).tolist() == [[0, 1, 0, 0, 0]]
    assert Sampling(temperature).probabilities(logits).tolist() == [[0, 1, 0, 0, 0]]
