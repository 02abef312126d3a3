"""What is of the wrong kind is refused by name; public calls work wherever they stand."""

import copy
import inspect
from contextlib import nullcontext
from functools import partial

import pytest
import torch

import matgpt
from matgpt import BPETokenizer, CharTokenizer, GPTConfig, MatryoshkaGPT, Size
from matgpt.embeddings.pairs import Pairs

from .conftest import assert_refused

IDS = list(range(97, 107)) * 6
MODEL = MatryoshkaGPT(GPTConfig(256, 8, 8, 2, 1, nesting=(4,)))
LETTERS = list("abcd")
PAIRS = Pairs([f"q {a}" for a in LETTERS], [f"doc {a}" for a in LETTERS], LETTERS, LETTERS)
ONE = Pairs(*([column[0]] * 2 for column in vars(PAIRS).values()))
BPE = BPETokenizer([bytes([b]) for b in range(256)])
POINTS = matgpt.frontier(MODEL, IDS)

PATHS = [matgpt.load, matgpt.load_text, matgpt.load_pairs, matgpt.import_gpt2, matgpt.History.load]
PATHS += [CharTokenizer("ab").save, partial(matgpt.save, MODEL), partial(matgpt.export_gpt2, MODEL)]
WRONG = [("5 is not a path", partial(function, 5)) for function in PATHS] + [
    ("5 is not a path", lambda: matgpt.train(MODEL, IDS, IDS, 1, 1, checkpoint_dir=5, progress=False)),
    (r"\['a'\] is not a path", lambda: matgpt.load_text(["a"])),
    ("lr=True must be a number", lambda: matgpt.train(MODEL, IDS, IDS, 1, 1, True)),
    ("2 numbers of at least 0", lambda: matgpt.train(MODEL, IDS, IDS, 1, 1, loss_weights=[[1, 2], [3, 4]])),
    ("64 must be width,heads,layers", lambda: Size.parse(64)),
    ("config=None must be a GPTConfig", lambda: MatryoshkaGPT(None)),
    ("idx must be a tensor .* not list", lambda: MODEL([[1, 2]])),
    ("names no doll: give at least one", lambda: MODEL(torch.tensor([[1]]), [])),
    ("sizes=4 must be several", lambda: matgpt.frontier(MODEL, IDS, 4)),
    ("max_params=10+ must be a number", lambda: matgpt.best_size(POINTS, max_params=10**400)),
    ("model=.* must be a MatryoshkaGPT or", lambda: matgpt.train(IDS, MODEL, IDS)),
    ("model=Linear.* must be a MatryoshkaGPT or", lambda: matgpt.train(torch.nn.Linear(2, 2), IDS, IDS)),
    ("is on the meta device", lambda: matgpt.nest(copy.deepcopy(MODEL).to("meta"), (4,), IDS, IDS, 1)),
    ("pairs to learn from, 0", lambda: matgpt.train_embeddings(MODEL, (["a", "b"], ["c", "d"]), BPE, 1)),
    ("must be arrays of numbers", lambda: matgpt.search("abc", torch.eye(2))),
    ("meta device", lambda: MatryoshkaGPT(MODEL.config).to("meta").generate([[1]], 2)),
    ("the model: .* is on the meta device", lambda: matgpt.save(MatryoshkaGPT(MODEL.config).to("meta"), "a")),
    ("seed='a' must be", lambda: PAIRS.split(0.5, "a")),
    ("pairs=.* must be Pairs", lambda: matgpt.train_embeddings(MODEL, [("a", "b")], BPE, 1)),
    ("val_pairs asks one question", lambda: matgpt.train_embeddings(MODEL, PAIRS, BPE, 1, 2, val_pairs=ONE)),
    ("overwrite='no' must be True or False", lambda: matgpt.train(MODEL, IDS, IDS, 1, 1, overwrite="no")),
    ("special token 'é' is written", lambda: BPETokenizer(BPE.tokens, ["é"])),
    ("val_pairs=.* must be Pairs", lambda: matgpt.train_embeddings(MODEL, PAIRS, BPE, 1, 2, val_pairs=[1])),
]


@pytest.mark.parametrize("message, call", WRONG)
def test_the_wrong_kind_is_named(message, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(message, call)
    assert list(tmp_path.iterdir()) == []


# ---- a walk over the public names

WITHOUT_A_NUMBER = {"History", "DivergedError", "MatryoshkaGPT", "MatryoshkaEmbeddingsGPT", "slider"}
CALLS = {  # name: function of a model that returns (what is called, arguments, keywords); it runs in a folder
    "train": lambda m: (matgpt.train, (m, IDS, IDS, 1, 2), dict(progress=False)),
    "nest": lambda m: (matgpt.nest, (m, (4,), IDS, IDS, 1), dict(batch_size=1, progress=False)),
    "train_embeddings": lambda m: (matgpt.train_embeddings, (m, PAIRS, BPE, 1, 2), dict(progress=False)),
    "matryoshka_loss": lambda m: (matgpt.matryoshka_loss, (m, *torch.tensor(IDS[:16]).view(2, 1, 8)), {}),
    "evaluate": lambda m: (matgpt.evaluate, (m, IDS), {}),
    "agreement": lambda m: (matgpt.agreement, (m, IDS), {}),
    "frontier": lambda m: (matgpt.frontier, (m, IDS), {}),
    "best_size": lambda m: (matgpt.best_size, (POINTS,), dict(max_params=9**9)),
    "generate": lambda m: (m.generate, (torch.tensor([IDS[:4]]), 3), dict(draft_size=4)),
    "draft_model": lambda m: (MODEL.generate, (torch.tensor([IDS[:4]]), 3), dict(draft_model=m)),
    "slice": lambda m: (m.slice, (4,), {}),
    "write": lambda m: (matgpt.write, (m, BPE, "ab", 2), dict(seed=0)),
    "stream": lambda m: (matgpt.stream, (m, BPE, "ab", 2), {}),
    "embed": lambda m: (matgpt.embed, (m, ["ab"]), dict(tokenizer=BPE)),
    "search": lambda m: (matgpt.search, (torch.eye(6), torch.eye(6), 2), {}),
    "save": lambda m: (matgpt.save, (m, "new"), {}),
    "load": lambda m: (matgpt.load, ("saved",), {}),
    "export_gpt2": lambda m: (matgpt.export_gpt2, (m, "new"), {}),
    "import_gpt2": lambda m: (matgpt.import_gpt2, ("gpt2",), {}),
    "export_sentence_transformers": lambda m: (matgpt.export_sentence_transformers, (m, "new", BPE), {}),
    "load_text": lambda m: (matgpt.load_text, ("code/text.py",), {}),
    "load_pairs": lambda m: (matgpt.load_pairs, ("code",), {}),
    "split": lambda m: (matgpt.split, (IDS,), {}),
    "lattice": lambda m: (matgpt.lattice, ((4,), (1,), 4), {}),
    "between": lambda m: (matgpt.between, (Size(8, 1, 1), Size(8, 1, 1)), {}),
    "Size": lambda m: (Size, (4, 1, 1), {}),
    "GPTConfig": lambda m: (GPTConfig, (7,), {}),
    "CharTokenizer": lambda m: (CharTokenizer.from_text, ("ab",), {}),
    "BPETokenizer": lambda m: (BPETokenizer.train, ("ab", 256), {}),
}
CODE = 'def twice(x):\n    """Return twice the number x, which is a sum."""\n' + "    x = 2 * x\n" * 9


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "text.py").write_text(CODE)
    matgpt.save(MODEL, "saved")
    matgpt.export_gpt2(MODEL, "gpt2")


def call(function, args, kwargs):
    result = function(*args, **kwargs)
    return list(result) if inspect.isgenerator(result) else result


def test_the_walk_knows_every_public_name():
    assert set(matgpt.__all__) <= WITHOUT_A_NUMBER | set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_none_for_a_number_is_allowed_or_named(name, folder):
    function, args, kwargs = CALLS[name](MODEL)
    signature = inspect.signature(function)
    given = signature.bind(*args, **kwargs)
    given.apply_defaults()
    for number, value in given.arguments.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and signature.parameters[number].default is not None:
            arguments = signature.bind(*args, **kwargs)
            arguments.arguments[number] = None
            try:
                call(function, arguments.args, arguments.kwargs)
            except ValueError as error:
                assert f"{number}=None" in str(error), number


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, "compiled"])
@pytest.mark.parametrize("name", CALLS)
def test_every_call_works_without_gradients_and_with_a_compiled_model(name, around, folder):
    compiled = around == "compiled"
    function, args, kwargs = CALLS[name](torch.compile(MODEL) if compiled else MODEL)
    with torch.compiler.set_stance("force_eager"), nullcontext() if compiled else around():
        call(function, args, kwargs)
    assert all(p.grad is None for p in MODEL.parameters())
