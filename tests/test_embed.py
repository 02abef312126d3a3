"""Text embeddings: the mean over tokens, whatever the padding, the windows and the batches."""

import pytest
import torch
import torch.nn.functional as F

import matgpt
from matgpt import CharTokenizer, GPTConfig, MatryoshkaEmbeddingsGPT
from matgpt.embeddings.pooling import cut, embed

BLOCK = 6


@pytest.fixture
def model(variant, build):
    return build(variant, GPTConfig(11, BLOCK, 16, 2, 2, nesting=(4, 8, 16)))


def ids(*lengths):
    rng = torch.Generator().manual_seed(0)
    return [torch.randint(11, (n,), generator=rng) for n in lengths]


def test_embedding_is_the_mean_of_the_final_residual_over_the_tokens(model):
    (row,) = ids(5)
    for size in (None, 8, model.config.width(6)):
        mean = model.features(row[None], size)[0].mean(0)
        assert torch.allclose(embed(model, [row], size)[0], F.normalize(mean, dim=0).float(), atol=1e-6)


def test_a_long_text_is_the_mean_over_all_its_tokens_in_windows(model):
    (row,) = ids(2 * BLOCK + 3)
    x = torch.cat([model.features(part[None])[0] for part in row.split(BLOCK)])
    assert len(x) == len(row)
    assert torch.allclose(embed(model, [row])[0], F.normalize(x.mean(0), dim=0).float(), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_neighbours_in_the_batch_and_its_padding_change_nothing(model, batch_size):
    rows = ids(1, 17, BLOCK, 3, BLOCK + 1)
    together = embed(model, rows, batch_size=batch_size)
    assert together.shape == (5, 16)
    for row, out in zip(rows, together):
        assert torch.allclose(embed(model, [row])[0], out, atol=1e-6)
    assert (together[0] - together[3]).norm() > 1e-2  # and texts do differ


def test_length_is_one_at_every_size(model):
    for size in (4, 8, None, model.config.width(6)):
        assert torch.allclose(embed(model, ids(3, 9), size).norm(dim=1), torch.ones(2), atol=1e-6)


def test_cutting_is_embedding_at_that_size_with_the_trunk_run_once(build):
    model = build(MatryoshkaEmbeddingsGPT, GPTConfig(11, BLOCK, 16, 2, 2, nesting=(4, 8, 16)))
    rows = ids(3, 20)
    whole = embed(model, rows)
    for d in (4, 6, 8, 16):
        assert torch.allclose(cut(whole, d), embed(model, rows, model.config.width(d)), atol=1e-6)
    assert torch.equal(cut(whole, 4), cut(cut(whole, 8), 4)) or torch.allclose(
        cut(whole, 4), cut(cut(whole, 8), 4)
    )


def test_texts_ids_and_lists_agree(model):
    tokenizer = CharTokenizer("abcdefghijk")
    text = "abcabckkkj"
    row = tokenizer.encode(text)
    expected = embed(model, [torch.tensor(row)])
    for same in (text, [text], row, [row], torch.tensor(row), torch.tensor([row])):
        assert torch.equal(embed(model, same, tokenizer=tokenizer), expected)


def test_mode_of_the_model_is_left_as_it_was_and_dropout_is_off(variant):
    torch.manual_seed(0)
    model = variant(GPTConfig(11, BLOCK, 16, 2, 2, dropout=0.5)).train()
    assert torch.equal(embed(model, ids(5)), embed(model, ids(5)))
    assert model.training


def test_token_embeddings_are_the_first_columns(model):
    assert torch.equal(model.token_embeddings(8), model.token_embeddings()[:, :8])
    assert model.token_embeddings(model.config.width(6)).shape == (11, 6)


def test_bad_input_is_named(model):
    tokenizer = CharTokenizer("abcdefghijk")
    with pytest.raises(ValueError, match="must have the 11 tokens of the model"):
        embed(model, "abc", tokenizer=CharTokenizer("abc"))
    for texts, match in (
        ([], "empty"),
        (["a", ""], "text 1"),
        ([[]], "text 0"),
        ([[0.5]], "whole numbers"),
        ([[3, 11]], "11"),
        ([[-1]], "-1"),
        (["ax"], "'x'"),
        (torch.zeros(2, 2, 2).long(), "shape"),
    ):
        with pytest.raises(ValueError, match=match):
            embed(model, texts, tokenizer=tokenizer)
    for texts in (b"abc", [b"abc"], bytearray(b"abc")):
        with pytest.raises(ValueError, match="text 0 is bytes"):
            embed(model, texts, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="tokenizer"):
        embed(model, ["abc"])
    with pytest.raises(ValueError, match="tokenizer"):
        embed(model, [[1, 2], "abc"])
    with pytest.raises(ValueError, match="size=5"):
        embed(model, ids(3), size=5)
    with pytest.raises(ValueError, match="batch_size"):
        embed(model, ids(3), batch_size=0)
    for d in (0, 17, 2.5):
        with pytest.raises(ValueError, match="d="):
            cut(torch.ones(2, 16), d)


def test_a_float64_default_changes_nothing(variant):
    torch.manual_seed(0)
    model = variant(GPTConfig(11, BLOCK, 16, 2, 2, nesting=(4, 8, 16)))
    expected = embed(model, ids(5, 9))
    torch.set_default_dtype(torch.float64)
    try:
        found = embed(model, ids(5, 9))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected) and found.dtype == torch.float32


def test_it_is_public():
    assert matgpt.embed is embed


def test_weights_that_are_not_finite_are_refused(model):
    model.norm.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        embed(model, ids(3))


def test_under_inference_mode_and_compiled(model):
    expected = embed(model, ids(3, 9))
    with torch.inference_mode():
        assert torch.equal(embed(model, ids(3, 9)), expected)
