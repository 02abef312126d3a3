"""Dolls are what they claim: equal to their slices, isolated from the rest, and plain GPT-2s."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

import matgpt
from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size

from .conftest import assert_refused, random_model

same = dict(rtol=1e-9, atol=1e-9)  # of two ways to compute one thing in double precision


def read_by_doll(model, size, idx):
    """For each parameter, which of its entries `size` reads for `idx`: the corner of the doll's shape."""
    c, output_only = model.config, isinstance(model, MatryoshkaEmbeddingsGPT)
    trunk = MatryoshkaGPT(c.doll(c.full if output_only else size))
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    for name, p in trunk.named_parameters():
        masks[name][tuple(map(slice, p.shape))] = True
    masks["embedding.position"][idx.size(1) :] = False
    if output_only:
        for name in {"norm.weight", "norm.bias", "embedding.token"} & set(masks):
            masks[name][..., size.n_embd :] = False
        masks["embedding.token"][idx.unique()] = True  # as inputs they are read at full width
    return masks


def reference(weights, idx, size, config):
    """GPT-2 by hand, one head at a time. `weights` are those of the full model."""
    d, h, T = size.n_embd, size.n_head, idx.size(1)
    s = min(config.full_head_size, d // h)
    widening = math.sqrt(config.n_embd / d)
    merging = math.sqrt(config.n_head * config.full_head_size / (h * s))
    future = torch.ones(T, T, dtype=torch.bool).triu(1)

    def corner(name, *shape):
        """Zeros for a bias that the model lacks."""
        return weights[name][tuple(map(slice, shape))] if name in weights else torch.zeros(shape).double()

    def norm(x, name):
        return F.layer_norm(x, (d,), corner(f"{name}.weight", d), corner(f"{name}.bias", d))

    tokens = corner("embedding.token", config.vocab_size, d)
    x = tokens[idx] + corner("embedding.position", T, d)
    for layer, (f, full_f) in enumerate(zip(size.inner, config.full.inner)):
        attention, feedforward = f"blocks.{layer}.attention", f"blocks.{layer}.feedforward"
        y = norm(x, f"blocks.{layer}.norm1")
        weight = corner(f"{attention}.qkv.weight", 3, h, s, d) * widening
        bias = corner(f"{attention}.qkv.bias", 3, h, s)
        for head in range(h):
            q, k, v = (y @ weight[i, head].T + bias[i, head] for i in range(3))
            scores = (q @ k.mT / math.sqrt(s)).masked_fill(future, -math.inf)
            x = x + scores.softmax(-1) @ v @ corner(f"{attention}.proj.weight", d, h, s)[:, head].T * merging
        x = x + corner(f"{attention}.proj.bias", d)
        y = norm(x, f"blocks.{layer}.norm2") @ corner(f"{feedforward}.expand.weight", f, d).T * widening
        y = y + corner(f"{feedforward}.expand.bias", f)
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + y @ corner(f"{feedforward}.proj.weight", d, f).T * math.sqrt(full_f / f)
        x = x + corner(f"{feedforward}.proj.bias", d)
    return norm(x, "norm") @ tokens.T * widening


# ---- the forward pass
def test_every_doll_is_a_gpt2(drawn):
    """With one size the model is a plain GPT-2; a smaller doll has its weights scaled to its width."""
    model = random_model(MatryoshkaGPT, drawn.config)
    for size in (drawn.config.full, drawn.size):
        expected = reference(model.state_dict(), drawn.idx, size, drawn.config)
        torch.testing.assert_close(model(drawn.idx, size), expected, **same)


def test_output_only_doll_is_a_cut_readout_of_the_same_gpt2_and_no_slice(drawn):
    model, d = random_model(MatryoshkaEmbeddingsGPT, drawn.config), drawn.size.n_embd
    nested = MatryoshkaGPT(drawn.config).double()
    nested.load_state_dict(model.state_dict())
    assert torch.equal(nested(drawn.idx), model(drawn.idx))
    residuals = []
    model.norm.register_forward_hook(lambda norm, args, out: residuals.append(out))
    logits = model(drawn.idx, drawn.size)
    expected = residuals[0][..., :d] @ model.embedding.token[:, :d].T * math.sqrt(drawn.config.n_embd / d)
    torch.testing.assert_close(logits, expected, **same)
    embeddings, weight = model.token_embeddings(drawn.size), model.embedding.token.detach()
    torch.testing.assert_close(embeddings, weight[:, :d])
    assert embeddings.data_ptr() != weight.data_ptr(), "a copy"
    assert_refused(r"size=.* no dolls to slice.*token_embeddings\(size\)", model.slice, drawn.size)
    assert model.num_params(drawn.size) == model.num_params() == sum(p.numel() for p in model.parameters())


# ---- isolation
def test_a_doll_reads_every_weight_inside_it_and_none_outside(variant, drawn):
    model = random_model(variant, drawn.config)
    masks = read_by_doll(model, drawn.size, drawn.idx)
    logits = model(drawn.idx, drawn.size)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0), dtype=logits.dtype)
    (logits * weights).sum().backward()
    for name, p in model.named_parameters():
        grad = torch.zeros_like(p) if p.grad is None else p.grad
        assert (grad[~masks[name]] == 0).all(), f"{name} outside"
        inside = masks[name].clone()
        if name.endswith("qkv.bias"):
            inside[1] = False  # a key's bias adds the same to every score: softmax does not see it
        assert (grad[inside] != 0).all(), f"{name} inside"
    with torch.no_grad():
        for name, p in model.named_parameters():
            p[~masks[name]] = math.nan
    assert torch.equal(model(drawn.idx, drawn.size), logits)


# ---- slices
def test_slice_equals_doll_and_slice_of_slice_equals_slice(drawn):
    model = random_model(MatryoshkaGPT, drawn.config)
    doll = model.slice(drawn.size)
    assert doll.sizes == (drawn.size,) and type(doll) is MatryoshkaGPT
    torch.testing.assert_close(doll(drawn.idx), model(drawn.idx, drawn.size), **same)
    torch.testing.assert_close(doll(drawn.idx, drawn.inner), model(drawn.idx, drawn.inner), **same)
    twice, once = doll.slice(drawn.inner), model.slice(drawn.inner)
    assert twice.config == once.config
    torch.testing.assert_close(twice.state_dict(), once.state_dict(), **same)


def test_slice_keeps_mode_and_precision_owns_its_memory_and_draws_no_random_numbers():
    model = MatryoshkaGPT(GPTConfig(11, 4, 8, 2, 1, nesting=(4,))).bfloat16().eval()
    state = torch.get_rng_state()
    doll = model.slice(4)
    assert torch.equal(torch.get_rng_state(), state)
    assert not doll.training and {p.dtype for p in doll.parameters()} == {torch.bfloat16}
    with torch.inference_mode():
        assert not model.slice(4).embedding.token.is_inference(), "it can be trained"
    assert model.train().slice(4).training and all(p.requires_grad for p in doll.parameters())
    for size in (4, None):
        for name, p in model.slice(size).named_parameters():
            assert p.is_contiguous() and p.untyped_storage().nbytes() == 2 * p.numel()
            assert p.data_ptr() != model.get_parameter(name).data_ptr()


def test_slicing_what_no_step_trained_warns():
    anywhere = matgpt.between(Size(8, 1, 1), Size(16, 2, 2))
    for nesting, trained in (((8,), 8), (anywhere, Size(8, 2, 1))):
        model = MatryoshkaGPT(GPTConfig(11, 8, 16, 2, 2, nesting=nesting))
        with pytest.warns(UserWarning, match="no step trained Size") as warned:
            model.slice(Size(4, 1, 1))
        assert warned[0].filename == __file__  # the line of the caller
        with warnings.catch_warnings(action="error"):
            model.slice(trained)
    for size in (Size(12, 1, 1), Size(8, 1, 1, 15), Size(8, 1, 1, 33)):
        with pytest.warns(UserWarning, match="no step trained Size"):
            model.slice(size)  # no multiple of 8, or no feedforward of 2 to 4 times the width


# ---- bad input
@pytest.fixture
def small(variant):
    return variant(GPTConfig(11, 4, 8, 2, 2, nesting=(4, Size(4, 2, 1))))


@pytest.mark.parametrize(
    "size, message",
    [
        (5, r"size=5 names no doll \(config.width\(5\) is one.*the nesting is .*n_embd=4"),
        (16, "size=16 names no doll: the nesting is"),
        ("4", "size='4' names no doll"),
        (4, "size=4 names 2 dolls; give the Size"),
        (Size(16, 2, 2), "n_embd=16.* does not fit: no axis may be larger"),
    ],
)
def test_bad_size(small, size, message):
    idx = torch.zeros(1, 2, dtype=torch.long)
    assert_refused(message, small.num_params, size)
    assert_refused(message, small.token_embeddings, size)
    assert_refused(message, small, idx, size)
    assert_refused(message, small.generate, idx, 1, size=size)
    if isinstance(small, MatryoshkaGPT):
        assert_refused(message, small.slice, size)


def test_bad_idx(small):
    outside = "is outside the vocabulary: allowed are 0 to 10"
    assert_refused(f"token id 11 {outside}", small, torch.tensor([[0, 11]]))
    assert_refused(f"token id -1 {outside}", small, torch.tensor([[0, -1]]))
    assert_refused("context of 5 tokens is longer than block_size=4", small, torch.tensor([[0, 1, 2, 3, 4]]))
    assert_refused(r"at least 1, not \(1, 0\)", small, torch.empty(1, 0, dtype=torch.long))
    assert_refused(r"idx must be \(B, T\) int64 or int32.* not \(2,\)", small, torch.tensor([0, 1]))
    assert_refused(r"int64 or int32.* not \(1, 2\) torch.float32", small, torch.tensor([[0.0, 1.0]]))
    assert_refused(r"int64 or int32.* not \(1, 2\) torch.bool", small, torch.tensor([[True, False]]))


# ---- what only training sees
def test_projections_into_the_residual_start_smaller_the_deeper_the_model():
    torch.manual_seed(0)
    for depth in (1, 8):
        model = MatryoshkaGPT(GPTConfig(65, 8, 128, 4, depth))
        for name, p in model.named_parameters():
            if p.dim() > 1 and not name.endswith("bias"):
                std = 0.02 / math.sqrt(2 * depth) if ".proj." in name else 0.02
                assert p.std().item() == pytest.approx(std, rel=0.05), name


@pytest.mark.parametrize("place", ["embedding", "attention weights", "attention", "feedforward"])
def test_dropout_is_in_four_places(place, monkeypatch):
    torch.manual_seed(0)
    model, idx = MatryoshkaGPT(GPTConfig(11, 8, 16, 2, 1, dropout=0.5)), torch.tensor([[1, 2, 3, 4]])
    block, attend = model.blocks[0], F.scaled_dot_product_attention
    asked, plain = [], model.eval()(idx)

    def without_dropout(q, k, v, dropout_p, is_causal):
        asked.append(dropout_p)
        return attend(q, k, v, is_causal=is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", without_dropout)
    layers = {"embedding": model, "attention": block.attention, "feedforward": block.feedforward}
    for name in layers.keys() - {place}:
        monkeypatch.setattr(layers[name].dropout, "forward", lambda x: x)
    assert torch.equal(model.eval()(idx), plain) and asked == [0.0]
    assert torch.equal(model.train()(idx), plain) == (place == "attention weights") and asked[-1] == 0.5


def test_layers_say_their_shape():
    text = repr(MatryoshkaGPT(GPTConfig(11, 8, 16, 2, 1)))
    for part in ("(16,) -> (3, 2, 8), bias=True", "11 tokens, 8 positions, 16 dimensions", "NestedNorm(16"):
        assert part in text
