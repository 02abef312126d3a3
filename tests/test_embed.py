"""Text embeddings: the mean over tokens, whatever the padding, the windows and the batches."""

import pytest
import torch
import torch.nn.functional as F

from matgpt import CharTokenizer, GPTConfig, MatryoshkaEmbeddingsGPT, embed
from matgpt.embeddings.pooling import cut

from .conftest import assert_refused, random_model

BLOCK = 6
CONFIG = GPTConfig(11, BLOCK, 16, 2, 2, nesting=(4, 8, 16), dropout=0.5)


@pytest.fixture
def model(variant):
    return random_model(variant, CONFIG).eval()


def ids(*lengths):
    rng = torch.Generator().manual_seed(0)
    return [torch.randint(11, (n,), generator=rng) for n in lengths]


def test_the_embedding_is_the_mean_of_the_final_residual_over_all_windows(model):
    for length in (5, 2 * BLOCK + 3):
        (row,) = ids(length)
        for size in (None, 8, model.config.width(6)):
            x = torch.cat([model.features(part[None], size)[0] for part in row.split(BLOCK)])
            expected = F.normalize(x.mean(0), dim=0).float()
            assert len(x) == length and torch.allclose(embed(model, [row], size)[0], expected, atol=1e-6)


def test_other_texts_of_the_batch_and_padding_change_nothing(model):
    """Nor does dropout, in whichever mode the model is."""
    model.train()
    rows = ids(1, 17, BLOCK, 3, BLOCK + 1)
    alone = torch.cat([embed(model, [row]) for row in rows])
    for batch_size in (1, 3, 64):
        assert torch.allclose(embed(model, rows, batch_size=batch_size), alone, atol=1e-6)
    assert (alone[0] - alone[3]).norm() > 1e-2, "texts differ"
    assert model.training


def test_a_cut_output_only_embedding_is_the_embedding_at_that_size():
    model, rows = random_model(MatryoshkaEmbeddingsGPT, CONFIG), ids(3, 20)
    whole = embed(model, rows)
    for d in (4, 6, 8, 16):
        assert torch.allclose(cut(whole, d), embed(model, rows, model.config.width(d)), atol=1e-6)
        assert torch.allclose(cut(whole, d).norm(dim=1), torch.ones(2))
    for d in (0, 17, 2.5, None):
        assert_refused(f"dims={d}", cut, whole, d)


def test_texts_ids_and_lists_agree(model):
    tokenizer, text = CharTokenizer("abcdefghijk"), "abcabckkkj"
    row = tokenizer.encode(text)
    expected = embed(model, [torch.tensor(row)])
    for same in (text, [text], row, [row], torch.tensor(row), torch.tensor([row]), torch.tensor(row).numpy()):
        assert torch.equal(embed(model, same, tokenizer=tokenizer), expected)


def test_bad_arguments_are_named(model):
    def refused(message, texts):
        assert_refused(message, embed, model, texts, tokenizer=CharTokenizer("abcdefghijk"))

    for texts in ([], None, 5, torch.tensor(3)):
        refused("ids_or_texts=.* must be a text", texts)
    refused("text 1 is empty", ["a", ""])
    refused("text 0 is empty", [[]])
    refused("text 0 has shape", torch.zeros(2, 2, 2).long())
    refused("text 0 has .* dtype float64", [[0.5]])
    refused("text 0 has .* dtype object", [None])
    refused("token id 11", [[3, 11]])
    refused("token id -1", [[-1]])
    refused("'x'", ["ax"])
    refused("must be a str, not bytes", b"abc")
    refused("must be a str, not bytearray", [bytearray(b"abc")])
    assert_refused("size=5", embed, model, ids(3), size=5)
    assert_refused("batch_size=0", embed, model, ids(3), batch_size=0)
    few = CharTokenizer("abc")
    assert_refused("the tokenizer has 3 tokens, the model vocab_size=11", embed, model, ids(3), tokenizer=few)
    for texts in (["abc"], [[1, 2], "abc"]):
        assert_refused("is a string: give token ids, or the tokenizer", embed, model, texts)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_are_an_error(model, value):
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight[0] = value  # of queries, which attention hides
    assert_refused("qkv.weight contains NaN or infinity", embed, model, ids(3))
    large = type(model)(model.config).half()
    torch.nn.init.constant_(large.norm.weight, 6e4)
    assert_refused("NaN or infinite", embed, large, ids(3))
