"""Export to sentence-transformers: the library itself returns our vectors and our measures."""

import json

import pytest
import torch

from matgpt import BPETokenizer, CharTokenizer, GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, embed
from matgpt import export_sentence_transformers as export
from matgpt.embeddings.exporting import PAD
from matgpt.embeddings.pooling import cut

from .conftest import assert_refused, random_model

TEXT = "parse a date from a string, read the file and return what was parsed as a date "
TOKENIZER = BPETokenizer.train(TEXT * 5, 290)
TEXTS = ["parse a date", "read", "the file and return", "x y", "a string, read", "été <|pad|>"]
NESTING = (8, 16, Size(24, 4, 1), 32)
CONFIG = GPTConfig(TOKENIZER.vocab_size, 32, 32, 4, 2, NESTING)


@pytest.fixture(params=["output only", "doll", "odd doll"])
def model(request):
    if request.param == "output only":
        return random_model(MatryoshkaEmbeddingsGPT, CONFIG).float()
    return random_model(MatryoshkaGPT, CONFIG).float().slice(NESTING[1 if request.param == "doll" else 2])


@pytest.mark.slow
def test_the_library_gives_our_vectors_at_any_dimension(model, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    export(model, tmp_path, TOKENIZER)
    for d in (None, 16, 7):
        theirs = library.SentenceTransformer(str(tmp_path), truncate_dim=d, device="cpu")
        encoded = torch.from_numpy(theirs.encode(TEXTS, normalize_embeddings=True))
        ours = cut(embed(model, TEXTS, tokenizer=TOKENIZER), d or model.config.n_embd)
        assert encoded.shape == ours.shape and (encoded - ours).abs().max() < 2e-6


def test_the_folder_names_its_parts_and_the_model_stays_as_it_was(model, tmp_path):
    config, token = model.config, model.embedding.token.clone()
    export(model, tmp_path, TOKENIZER)
    assert model.config == config and torch.equal(token, model.embedding.token)

    def read(name):
        return json.loads((tmp_path / name).read_text())

    assert [part["type"].rpartition(".")[2] for part in read("modules.json")] == ["Transformer", "Pooling"]
    assert read("1_Pooling/config.json")["pooling_mode_mean_tokens"] is True
    assert read("tokenizer_config.json")["pad_token"] == PAD
    assert read("config.json")["vocab_size"] == TOKENIZER.vocab_size + 1
    padding = BPETokenizer(TOKENIZER.tokens[:-1], [PAD])  # already has a token for padding
    export(model, tmp_path, padding, overwrite=True)
    assert read("config.json")["vocab_size"] == TOKENIZER.vocab_size


def test_bad_tokenizers_and_weights_are_named_and_nothing_is_written(model, tmp_path):
    for tokenizer in (None, CharTokenizer("abc"), BPETokenizer(TOKENIZER.tokens, ["more"])):
        message = "tokenizer=.* must be a BPETokenizer|the tokenizer has 291 tokens"
        assert_refused(message, export, model, tmp_path / "new", tokenizer)
    model.norm.weight.data[0] = float("nan")
    assert_refused("norm.weight contains NaN", export, model, tmp_path / "new", TOKENIZER)
    assert not (tmp_path / "new").exists()


def test_files_of_the_user_are_replaced_only_when_asked(tmp_path):
    model = random_model(MatryoshkaGPT, CONFIG)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("mine")
    assert_refused("already holds config.json.*overwrite=True", export, model, tmp_path, TOKENIZER)
    assert [path.name for path in tmp_path.rglob("*")] == ["1_Pooling", "config.json"]
    export(model, tmp_path, TOKENIZER, overwrite=True)
    export(model, tmp_path, TOKENIZER)  # the same files are not replaced
