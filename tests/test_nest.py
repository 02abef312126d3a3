"""A trained GPT-2 becomes nested: what matters goes to the front, and the dolls learn from the whole."""

import copy
import dataclasses
import re
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from filelock import FileLock

import matgpt
from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, evaluate, export_gpt2, load, save
from matgpt.__main__ import main
from matgpt.commands import run
from matgpt.nested import NestedLinear
from matgpt.text.token_files import read_corpus
from matgpt.text.tokenizer import BPETokenizer, CharTokenizer
from matgpt.training import nesting
from matgpt.training.nesting import importance, reorder

from .conftest import assert_refused, random_model
from .test_train import TEXT, refused

TOKENIZER = CharTokenizer.from_text(TEXT)
BPE = BPETokenizer.train(TEXT, 270)
IDS = np.array(TOKENIZER.encode(TEXT))
NESTING = [Size(8, 1, 1), Size(16, 2, 2)]
QUICK = dict(batch_size=4, eval_blocks=8, progress=False)


@pytest.fixture(scope="module")
def plain():
    """A plain GPT-2 that has learned a little."""
    torch.manual_seed(0)
    model = MatryoshkaGPT(GPTConfig(TOKENIZER.vocab_size, 16, 32, 4, 2))
    matgpt.train(model, IDS, IDS[:200], steps=60, batch_size=8, eval_blocks=32, progress=False)
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"bias": False, "n_inner": (40, 9)}, {"n_embd": 20, "head_size": 4}])
def test_reordering_leaves_the_logits_as_they_were_and_puts_what_matters_first(options):
    shape = dict(vocab_size=TOKENIZER.vocab_size, block_size=16, n_embd=32, n_head=4, n_layer=2)
    model = random_model(MatryoshkaGPT, GPTConfig(**shape | options))
    idx = torch.from_numpy(IDS[:64]).view(4, 16)
    before, weights = model(idx), model.blocks[0].attention.qkv.weight.clone()
    reorder(model, importance(model, IDS))
    torch.testing.assert_close(model(idx), before, rtol=0, atol=1e-5)
    assert not torch.equal(weights, model.blocks[0].attention.qkv.weight)
    assert all(p.grad is None for p in model.parameters())
    for score in importance(model, IDS).values():
        assert (score.diff() <= 1e-9 + 1e-6 * score.max()).all()
    with torch.no_grad():  # what the model does not read does not matter
        model.blocks[0].attention.proj.weight[:, 1] = 0
        model.blocks[0].feedforward.proj.weight[:, 5] = 0
    scores = importance(model, IDS)
    assert scores["0.h"].argmin() == 1 and scores["0.f"].argmin() == 5
    halves = importance(copy.deepcopy(model).half(), IDS)  # products of small halves are not zero
    assert {name: score.count_nonzero() for name, score in halves.items()} == {
        name: score.count_nonzero() for name, score in scores.items()
    }


def test_importance_is_the_sum_over_all_weights_that_read_there(plain, monkeypatch):
    monkeypatch.setattr(nesting, "BATCHES", 1)
    scores, starts = importance(plain, IDS), np.random.default_rng(0).integers(len(IDS) - 16, size=256 // 16)
    block = torch.from_numpy(IDS[starts[:, None] + np.arange(17)])
    matgpt.measure.evaluation.cross_entropy(plain, block[:, :-1], block[:, 1:]).backward()
    ends = "token", "qkv.weight", "expand.weight"
    reads = [name for name, _ in plain.named_parameters() if name.endswith(ends)]
    change = sum((p * p.grad).flatten(0, -2).sum(0) for p in map(plain.get_parameter, reads))
    plain.zero_grad()
    torch.testing.assert_close(scores["d"], change.detach() ** 2)


@pytest.mark.slow
def test_dolls_learn_and_the_full_one_and_the_teacher_stay(plain):
    weights = [p.clone() for p in plain.parameters()]
    settings = dict(steps=100, batch_size=8, lr=0.016, eval_blocks=32, progress=False)
    model = matgpt.nest(plain, NESTING, IDS, IDS[:200], **settings)
    assert model.sizes == (*NESTING, plain.config.full) and not model.training and not plain.training
    history, before = model.history, evaluate(plain, IDS[:200])
    for size in NESTING:
        assert history.val[size][-1] < history.val[size][0] - 0.03
        assert evaluate(model.slice(size), IDS[:200]) == pytest.approx(history.val[size][-1], abs=1e-5)
    assert history.val[model.config.full][0] == pytest.approx(before, abs=1e-5)
    assert history.val[model.config.full][-1] < before + 0.05
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(plain.parameters(), weights))


@pytest.mark.parametrize("dolls", [NESTING, matgpt.between(Size(8, 1, 1), Size(32, 4, 2))])
def test_all_dolls_read_the_same_text_and_weigh_alike(plain, monkeypatch, dolls):
    """Rarely read ones count more, so that a Size without a name is taught as much as the full doll."""
    spy, drawn = Mock(side_effect=nesting.step_losses), set()
    monkeypatch.setattr(nesting, "step_losses", spy)
    matgpt.nest(plain, dolls, IDS, IDS, 3, **{**QUICK, "batch_size": 500, "eval_blocks": 1})
    for _, passes, read, weight, *_ in (call.args for call in spy.call_args_list):
        rows = {size: n for trunk, numbers in passes for size, n in zip(trunk, numbers)}
        texts = [read(n)[0].tolist() for n in rows.values()]
        longest = max(texts, key=len)
        assert len(longest) == 500 and all(text == longest[: len(text)] for text in texts)
        assert [n * weight(size) for size, n in rows.items()] == pytest.approx([500] * len(rows), rel=0.05)
        drawn |= {*rows}
    assert len(drawn) > (2 if dolls is NESTING else 10)
    of_large = [call.args[3] for call in spy.call_args_list]
    spy.reset_mock()
    matgpt.nest(plain, dolls, IDS, IDS, 3, **{**QUICK, "batch_size": 1})
    for other, (_, passes, _, weight, *_) in zip(of_large, (call.args for call in spy.call_args_list)):
        for size in (size for trunk, _ in passes for size in trunk):
            assert weight(size) == other(size), "also in a step in which some read nothing by chance"


@pytest.mark.slow
def test_the_least_budget_of_flops_and_a_seed(plain):
    fixed = matgpt.nest(plain, NESTING, IDS, IDS, 1, **QUICK).history.flops[0]
    message = re.escape(f"flops=1000 must exceed {fixed:g}")
    assert_refused(message, matgpt.nest, plain, NESTING, IDS, IDS, flops=1000, **QUICK)
    a, b, c = (matgpt.nest(plain, NESTING, IDS, IDS, flops=2 * fixed, seed=s, **QUICK) for s in (1, 1, 2))
    assert 2 * fixed <= a.history.spent < 2.2 * fixed and a.history == b.history != c.history
    assert torch.equal(a.embedding.token, b.embedding.token)


def test_a_batch_of_one_is_read_in_every_step(plain):
    for dolls in (None, [Size(32, 4, 1)]):
        model = matgpt.nest(plain, dolls, IDS, IDS[:200], 12, **{**QUICK, "batch_size": 1})
        assert model.history.steps[-1] == 12


def test_teacher_and_dolls_multiply_in_bfloat16_where_that_is_asked_for(plain, monkeypatch):
    """Importance, which comes first, and evaluations stay in float32."""
    seen, teacher = {}, set(plain.modules())

    def forward(module, x, y):
        if isinstance(module, NestedLinear):
            role = "teacher" if module in teacher else "learning" if module.training else "evaluated"
            seen.setdefault(role, set()).add(y.dtype)

    def reordered(model, scores):
        seen["importance"] = seen.pop("learning", set()) | seen.pop("evaluated", set())
        reorder(model, scores)

    monkeypatch.setattr(nesting, "reorder", reordered)
    with torch.nn.modules.module.register_module_forward_hook(forward):
        matgpt.nest(plain, NESTING, IDS, IDS, 2, dtype="bfloat16", **QUICK)
    half, whole = {torch.bfloat16}, {torch.float32}
    assert seen == {"importance": whole, "evaluated": whole, "teacher": half, "learning": half}


def test_the_teacher_has_no_dropout_whatever_on_evaluation_leaves(plain):
    teacher = MatryoshkaGPT(dataclasses.replace(plain.config, dropout=0.5)).eval()
    runs = [
        matgpt.nest(teacher, NESTING, IDS, IDS, 4, eval_interval=1, on_evaluation=leave, **QUICK).history
        for leave in (None, lambda history: teacher.train())
    ]
    assert runs[0] == runs[1] and not teacher.training


def test_errors_name_what_is_wrong(plain):
    output_only = MatryoshkaEmbeddingsGPT(plain.config)
    assert_refused("no axis may be larger", matgpt.nest, plain, [Size(64, 1, 1)], IDS, IDS)
    assert_refused("MatryoshkaEmbeddingsGPT", matgpt.nest, output_only, NESTING, IDS, IDS)
    assert_refused("loss_weights=1 cannot", matgpt.nest, plain, NESTING, IDS, IDS, loss_weights=1)
    assert_refused("share=2", matgpt.nest, plain, NESTING, IDS, IDS, share=2)
    assert_refused("val_ids", matgpt.nest, plain, NESTING, IDS, IDS[:5])
    assert_refused("train_ids", matgpt.nest, plain, NESTING, IDS[:5], IDS)


def test_without_a_share_the_full_doll_alone_learns(plain):
    depths = [Size(32, 4, 1)]  # read out of the full doll's pass
    assert matgpt.nest(plain, depths, IDS, IDS, 2, **QUICK, share=0).history.done == 2


def test_a_run_resumes_with_its_own_teacher_and_texts(plain, tmp_path):
    settings = dict(QUICK, checkpoint_dir=tmp_path, resume=True)
    matgpt.nest(plain, NESTING, IDS, IDS, 2, **settings)
    other = MatryoshkaGPT(plain.config)
    assert_refused("another run: teacher was", matgpt.nest, other, NESTING, IDS, IDS, 4, **settings)
    assert_refused("another run: val_ids was", matgpt.nest, plain, NESTING, IDS, IDS[:200], 4, **settings)
    assert matgpt.nest(plain, NESTING, IDS, IDS, 4, **settings).history.done == 4


# ---- the command
@pytest.fixture
def options(tmp_path):
    (tmp_path / "text").write_text(TEXT)
    files = f"--corpus {tmp_path / 'text'} --out {tmp_path / 'out'}"
    return f"{files} --nesting 8,1,1 16,2,2 --steps 4 --batch-size 4 --threads 1".split()


@pytest.mark.slow
@pytest.mark.parametrize("write, tokenizer", [(save, TOKENIZER), (export_gpt2, BPE)])
def test_the_command_on_a_folder_of_matgpt_or_of_transformers(write, tokenizer, options, tmp_path, capsys):
    torch.manual_seed(0)
    trained = MatryoshkaGPT(GPTConfig(tokenizer.vocab_size, 16, 32, 4, 2))
    write(trained, tmp_path / "trained", tokenizer=tokenizer)
    main(["nest", str(tmp_path / "trained"), *options])
    model, loaded = load(tmp_path / "out")
    assert model.sizes == (*NESTING, trained.config.full) and loaded == tokenizer
    assert (tmp_path / "out" / "losses.png").exists() and (tmp_path / "out" / "history.json").exists()
    assert "step 4/4" in capsys.readouterr().out


def test_the_command_names_what_is_wrong(plain, options, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(plain, tmp_path / "plain", TOKENIZER)
    save(plain, tmp_path / "bare")
    other = CharTokenizer("".join(map(chr, range(1000, 1000 + TOKENIZER.vocab_size))))  # of as many tokens
    (tmp_path / "strange").write_text(other.decode(list(range(other.vocab_size)) * 40))
    main(["data", str(tmp_path / "strange"), "--tokenizer", "char", "--out", str(tmp_path / "data")])
    assert "nowhere" in refused(capsys, "nest", tmp_path / "nowhere", *options)
    assert "tokenizer.json" in refused(capsys, "nest", tmp_path / "bare", *options)
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".matgpt-lock"):  # another command runs there
        assert "out is in use by another run" in refused(capsys, "nest", tmp_path / "plain", *options)
    error = refused(capsys, "nest", tmp_path / "plain", *options, "--corpus", "~/data")
    assert "the token files of ~/data have one of their own" in error

    def ends_meanwhile(*arguments):
        save(plain, tmp_path / "out")
        return read_corpus(*arguments)

    monkeypatch.setattr(run, "read_corpus", ends_meanwhile)
    assert "already holds config.json" in refused(capsys, "nest", tmp_path / "plain", *options)
