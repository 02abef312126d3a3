"""Every doll as a GPT-2 of transformers, and GPT-2 as a nested model."""

import random

import pytest
import safetensors.torch
import torch

from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, export_gpt2, import_gpt2, load
from matgpt.text.tokenizer import BPETokenizer, CharTokenizer, load_tokenizer

from .conftest import assert_refused, edit_json, random_model

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
IDX = torch.randint(13, (3, 7), generator=torch.Generator().manual_seed(0))
CLOSE = dict(rtol=1e-5, atol=1e-5)


def make(kind=MatryoshkaGPT, seed=0, **options):
    shape = dict(vocab_size=13, block_size=7, n_embd=24, n_head=4, n_layer=3)
    return random_model(kind, GPTConfig(**shape | options), seed).float().eval()


def gpt2_at(path):
    return transformers.GPT2LMHeadModel.from_pretrained(path, local_files_only=True).eval()


@torch.no_grad()
def assert_same(model, size, path):
    expected = model(IDX, size)
    torch.testing.assert_close(gpt2_at(path)(IDX).logits, expected, **CLOSE)
    assert expected.std() > 0.1


# heads of 3; fewer heads than the width has room for; an n_inner for each layer
NARROW = [Size(24, 4, 3), Size(12, 4, 3), Size(24, 1, 1), Size(18, 2, 2), Size(24, 3, 2, (5, 40))]
ODD = [Size(13, 2, 3), Size(23, 3, 1)]  # a prime width: no number of heads but 1 and itself divides it


@pytest.mark.slow
@pytest.mark.parametrize("options", [dict(bias=True), dict(bias=False), dict(head_size=5)], ids=str)
@pytest.mark.parametrize("size", NARROW + ODD, ids=str)
def test_every_doll_has_the_same_logits_as_its_gpt2(tmp_path, size, options):
    model = make(**options)
    export_gpt2(model, tmp_path / "new" / "folder", size)
    assert_same(model, size, tmp_path / "new" / "folder")


def test_a_plain_shape_stays_as_it_is(tmp_path):
    model = make(nesting=(Size(12, 2, 2),), dropout=0.25)
    export_gpt2(model, tmp_path, 12)
    config = transformers.GPT2Config.from_pretrained(tmp_path)
    assert (config.n_embd, config.n_head, config.n_layer, config.n_inner) == (12, 2, 2, 48)
    assert config.tie_word_embeddings and config.resid_pdrop == 0.25 and config.layer_norm_epsilon == 1e-5
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118


def test_the_output_only_model_leaves_whole(tmp_path):
    model = make(MatryoshkaEmbeddingsGPT, nesting=(8,))
    export_gpt2(model, tmp_path)
    assert_same(model, None, tmp_path)
    assert_refused("output-only", export_gpt2, model, tmp_path, 8)


def test_there_and_back(tmp_path):
    model = make(n_inner=(30, 40, 50), dropout=0.25)
    export_gpt2(model, tmp_path)
    back = import_gpt2(tmp_path, nesting=(8, Size(12, 2, 2)))
    torch.testing.assert_close(back(IDX), model(IDX), **CLOSE)
    assert {size.n_embd for size in back.sizes} == {8, 12, 24}
    assert back.config.dropout == 0.25 and back.config.n_inner == 50
    assert_refused("^nesting=5", import_gpt2, tmp_path, nesting=5)  # not a fault of config.json
    edit_json(tmp_path / "config.json", lambda config: config.pop("resid_pdrop"))
    assert import_gpt2(tmp_path).config.dropout == transformers.GPT2Config().resid_pdrop == 0.1


@pytest.mark.slow
def test_any_gpt2_comes_in(tmp_path):
    torch.manual_seed(0)
    shape = dict(vocab_size=13, n_positions=7, n_embd=24, n_head=4, n_layer=2, n_inner=50)
    config = transformers.GPT2Config(**shape, activation_function="gelu_pytorch_tanh", eos_token_id=None)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    for p in theirs.parameters():
        p.data += 0.3 * torch.randn_like(p)
    theirs.save_pretrained(tmp_path / "head")
    theirs.transformer.save_pretrained(tmp_path / "base")  # its names lack "transformer."
    for name in ("head", "base"):
        model = import_gpt2(tmp_path / name, nesting=(12,))
        torch.testing.assert_close(model(IDX), theirs(IDX).logits, **CLOSE)


def test_masks_of_old_checkpoints_and_half_precision(tmp_path):
    model = make()
    export_gpt2(model.bfloat16(), tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert weights["transformer.ln_f.bias"].dtype == torch.bfloat16
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 7, 7)
    weights["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    back = import_gpt2(tmp_path)
    torch.testing.assert_close(back(IDX), model.float()(IDX), **CLOSE)


UNSUPPORTED = dict(model_type="llama", activation_function="gelu", layer_norm_epsilon=1e-6, vocab_size=None)
UNSUPPORTED |= dict(scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True)
UNSUPPORTED |= dict(add_cross_attention=True, tie_word_embeddings=False)


@pytest.mark.parametrize(
    "change, names",
    [
        *(({name: value}, f"{name}={value!r}") for name, value in UNSUPPORTED.items()),
        (dict(n_embd=20), r"wte.weight must have the shape \(13, 20\)"),
        (dict(n_head=5), "n_embd=24 must be a multiple of n_head=5"),
        (dict(n_layer=4), "h.3.ln_1.weight must have the shape"),
        (dict(n_layer=2), "has no h.2.attn.c_attn.bias"),
    ],
)
def test_other_configurations_are_named(tmp_path, change, names):
    export_gpt2(make(), tmp_path)
    edit_json(tmp_path / "config.json", lambda config: config.update(change))
    assert_refused(names, import_gpt2, tmp_path)


def test_folders_that_hold_no_gpt2(tmp_path):
    for read in (import_gpt2, load):
        assert_refused("gpt2/model.safetensors is missing; .*save_pretrained", read, "gpt2")
    for name in (".", "one"):
        export_gpt2(make(), tmp_path / name)
    file = tmp_path / "model.safetensors"
    weights = safetensors.torch.load(file.read_bytes())
    for message, name, weight in (
        ("lm_head.weight is not", "lm_head.weight", torch.randn(13, 24)),
        ("h.0.extra", "transformer.h.0.extra", torch.randn(3)),
        ("h.0.ln_1.bias contains NaN", "transformer.h.0.ln_1.bias", torch.full((24,), torch.nan)),
        ("float8", "transformer.ln_f.bias", torch.zeros(24, dtype=torch.float8_e4m3fn)),
    ):
        safetensors.torch.save_file(weights | {name: weight}, file)
        assert_refused(message, import_gpt2, tmp_path)
    gpt2_at(tmp_path / "one").save_pretrained(tmp_path / "many", max_shard_size="10KB")
    assert_refused(r"is missing.*from_pretrained\('\S*many'\)\.save", import_gpt2, tmp_path / "many")


def test_files_that_other_libraries_read_are_replaced_or_named(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 5, "do_sample": true}')
    assert_refused("already holds generation_config.json", export_gpt2, make(), tmp_path)
    export_gpt2(make(), tmp_path, overwrite=True)
    gpt2 = gpt2_at(tmp_path)
    assert gpt2.generation_config.eos_token_id is None and not gpt2.generation_config.do_sample
    for name in ("added_tokens.json", "chat_template.jinja", "adapter_config.json", "vocab.json"):
        (tmp_path / name).write_text("{}")
        assert_refused(f"holds {name} of another model", export_gpt2, make(seed=1), tmp_path, overwrite=True)
        (tmp_path / name).unlink()


def tokenizer_at(path, tokenizer, texts):
    """What transformers loads from a folder; it encodes and decodes as our tokenizer does."""
    auto = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    assert len(auto) == tokenizer.vocab_size
    for text in texts:
        ids = tokenizer.encode(text)
        assert auto(text)["input_ids"] == ids and auto.decode(ids) == text
    return auto


@pytest.mark.parametrize("special", [(), ("<|endoftext|>", "<|pad|>")])
def test_autotokenizer_encodes_as_the_bpe_tokenizer(tmp_path, special):
    text = "it's <|endoftext|>b<|pad|> naïve 日本語 🙂 \n\n  x\t" + (random.__doc__ or "") + "a" * 20
    tokenizer = BPETokenizer(BPETokenizer.train(text * 3, 300).tokens, special)
    model = make(vocab_size=tokenizer.vocab_size, nesting=(12,))
    export_gpt2(model, tmp_path, 12, tokenizer)
    auto = tokenizer_at(tmp_path, tokenizer, [text])
    assert auto.eos_token_id == (tokenizer.vocab_size - 2 if special else None)
    assert auto.model_max_length == model.config.block_size
    export_gpt2(model, tmp_path, 12)  # without one it stays, but not beside a model that it does not fit
    assert load_tokenizer(tmp_path) == tokenizer
    message = f"has {tokenizer.vocab_size} tokens.*vocab_size=13"
    assert_refused(message, export_gpt2, make(), tmp_path, overwrite=True)


def test_autotokenizer_encodes_as_the_character_tokenizer(tmp_path):
    tokenizer = CharTokenizer("".join(sorted({*"abc XYZ\n\t\r\x00é日🙂\u0301\u2581\u0120#<|>\u00a0'.,"})))
    model = make(vocab_size=tokenizer.vocab_size)
    export_gpt2(model, tmp_path, tokenizer=tokenizer)
    rng = random.Random(0)
    texts = ["".join(rng.choices(tokenizer.characters, k=n)) for n in range(200)]
    auto = tokenizer_at(tmp_path, tokenizer, texts)
    with pytest.raises(Exception, match="Missing"):
        auto("?")  # as CharTokenizer does, and not another character in its place
