"""A GPT-2 that is trained already becomes nested: what matters goes to the front, dolls learn from it."""

import numpy as np
import pytest
import torch

import matgpt
from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, evaluate, export_gpt2, load, save
from matgpt.__main__ import main
from matgpt.nested import NestedLinear
from matgpt.text.tokenizer import BPETokenizer, CharTokenizer
from matgpt.training import nesting
from matgpt.training.nesting import Turns, importance, reorder
from matgpt.training.price import price

TEXT = "".join("the dolls stand one inside another, "[i % 36] + " \n"[i % 7 == 0] for i in range(1500))
TOKENIZER = CharTokenizer.from_text(TEXT)
IDS = np.array(TOKENIZER.encode(TEXT))
NESTING = [Size(8, 1, 1), Size(16, 2, 2)]


@pytest.fixture(scope="module")
def plain():
    """A plain GPT-2 that has learned a little."""
    torch.manual_seed(0)
    model = MatryoshkaGPT(GPTConfig(TOKENIZER.vocab_size, 16, 32, 4, 2))
    matgpt.train(model, IDS, IDS[:200], steps=60, batch_size=8, eval_blocks=32, progress=False)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"bias": False, "n_inner": (40, 9)}, {"n_embd": 20, "head_size": 4}])
def test_reordering_leaves_the_logits_as_they_were(build, options):
    shape = dict(vocab_size=TOKENIZER.vocab_size, block_size=16, n_embd=32, n_head=4, n_layer=2)
    model = build(MatryoshkaGPT, GPTConfig(**shape | options))
    idx = torch.from_numpy(IDS[:64]).view(4, 16)
    before, weights = model(idx), model.blocks[0].attention.qkv.weight.clone()
    scores = importance(model, IDS)
    reorder(model, scores)
    torch.testing.assert_close(model(idx), before, rtol=0, atol=1e-5)
    assert not torch.equal(weights, model.blocks[0].attention.qkv.weight)
    assert all(p.grad is None for p in model.parameters())
    for score in importance(model, IDS).values():  # now what matters stands in front
        assert (score.diff() <= 1e-9 + 1e-6 * score.max()).all()


def test_what_the_model_does_not_read_goes_to_the_end(build):
    model = build(MatryoshkaGPT, GPTConfig(TOKENIZER.vocab_size, 16, 32, 4, 1))
    with torch.no_grad():
        model.blocks[0].attention.proj.weight[:, 1] = 0
        model.blocks[0].feedforward.proj.weight[:, 5] = 0
    scores = importance(model, IDS)
    assert scores["0.h"].argmin() == 1 and scores["0.f"].argmin() == 5


def test_every_doll_reads_what_its_share_pays_from_first_to_last():
    model = MatryoshkaGPT(GPTConfig(11, 16, 32, 4, 2, nesting=NESTING))
    turns, trunks = Turns(model, model.sizes), [[size] for size in model.sizes[::-1]]
    for spent in (0.0, 0.9):
        found = turns.draw(spent, np.random.default_rng(0))
        assert [trunk for trunk, _ in found] == trunks
        for trunk, share in found:
            paid = nesting.SHARE * price(model, trunks[0]) / price(model, trunk)
            assert share == pytest.approx(min(1, paid))


def test_a_range_is_drawn_from_and_all_that_is_drawn_weighs_alike():
    """A Size without a name is taught by some steps, and counts for as much as the full doll."""
    model = MatryoshkaGPT(GPTConfig(11, 16, 32, 4, 2, nesting=matgpt.between(Size(8, 1, 1), Size(32, 4, 2))))
    settings = dict(batch_size=1000, optimizer="adamw", lr=0.01, weight_decay=0.0)
    lesson = nesting.Lesson(model, model, IDS, {**settings, "loss_weights": dict.fromkeys(model.sizes, 1)})
    found = set()
    for step in range(20):
        counts = lesson.counts(0.0, np.random.default_rng(step))
        counts, weights = {tuple(trunk): n for trunk, n in counts}, lesson.weights(counts)
        assert {model.config.full, Size(8, 1, 1)} <= set(weights) == {s for trunk in counts for s in trunk}
        for trunk, n in counts.items():
            assert [weights[size] * n for size in trunk] == pytest.approx([1000] * len(trunk), rel=0.01)
        found |= set(weights)
    assert len(found - set(model.sizes)) > 20


@pytest.mark.slow
def test_dolls_learn_and_the_full_one_stays(plain):
    weights = [p.clone() for p in plain.parameters()]
    model = matgpt.nest(
        plain, NESTING, IDS, IDS[:200], steps=100, batch_size=8, lr=0.016, eval_blocks=32, progress=False
    )
    assert model.sizes == (*NESTING, plain.config.full) and not model.training
    history, was = model.history, evaluate(plain, IDS[:200])
    for size in NESTING:
        assert history.val[size][-1] < history.val[size][0] - 0.03
        assert evaluate(model.slice(size), IDS[:200]) == pytest.approx(history.val[size][-1], abs=1e-5)
    assert history.val[model.config.full][0] == pytest.approx(was, abs=1e-5)
    assert history.val[model.config.full][-1] < was + 0.05
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), weights))  # the original is left alone


@pytest.mark.slow
def test_a_budget_of_flops_and_a_seed(plain):
    run = lambda seed: matgpt.nest(
        plain, NESTING, IDS, IDS, flops=9e8, batch_size=4, eval_blocks=8, seed=seed, progress=False
    )
    a, b, c = run(1), run(1), run(2)
    assert 9e8 <= a.history.flops[-1] < 1e9 and a.history == b.history != c.history
    assert torch.equal(a.embedding.token, b.embedding.token)


def test_teacher_and_dolls_multiply_in_bfloat16_where_that_is_asked_for(plain, monkeypatch):
    """Importance, which comes first, and evaluations stay in float32."""
    seen, teacher, real = {}, set(plain.modules()), nesting.reorder

    def look(module, x, y):
        if isinstance(module, NestedLinear):
            who = "teacher" if module in teacher else "learning" if module.training else "evaluated"
            seen.setdefault(who, set()).add(y.dtype)

    def reorder(model, scores):
        seen["important"] = seen.pop("learning", set()) | seen.pop("evaluated", set())
        real(model, scores)

    monkeypatch.setattr(nesting, "reorder", reorder)
    with torch.nn.modules.module.register_module_forward_hook(look):
        matgpt.nest(
            plain, NESTING, IDS, IDS, 2, batch_size=4, dtype="bfloat16", eval_blocks=8, progress=False
        )
    short, whole = {torch.bfloat16}, {torch.float32}
    assert seen == {"important": whole, "evaluated": whole, "teacher": short, "learning": short}


@pytest.mark.slow
def test_errors_name_what_is_wrong(plain, tmp_path):
    with pytest.raises(ValueError, match="n_embd may be at most 32"):
        matgpt.nest(plain, [Size(64, 1, 1)], IDS, IDS)
    with pytest.raises(ValueError, match="nowhere"):
        matgpt.nest(tmp_path / "nowhere", NESTING, IDS, IDS)
    with pytest.raises(ValueError, match="MatryoshkaEmbeddingsGPT"):
        matgpt.nest(MatryoshkaEmbeddingsGPT(plain.config), NESTING, IDS, IDS)
    with pytest.raises(ValueError, match="train_ids"):
        matgpt.nest(plain, NESTING, IDS[:5], IDS)
    with pytest.raises(ValueError, match="steps=0"):
        matgpt.nest(plain, NESTING, IDS, IDS, steps=0)


def command(*arguments):
    main(["nest", *map(str, arguments), "--threads", "1"])


def options(tmp_path):
    (tmp_path / "text").write_text(TEXT)
    files = f"--corpus {tmp_path / 'text'} --out {tmp_path / 'out'}"
    return f"{files} --nesting 8,1,1 16,2,2 --steps 4 --batch-size 4".split()


@pytest.mark.slow
def test_the_command_on_a_folder_of_matgpt(plain, tmp_path, capsys):
    save(plain, tmp_path / "plain", TOKENIZER)
    command(tmp_path / "plain", *options(tmp_path))
    model, tokenizer = load(tmp_path / "out")
    assert model.sizes == (*NESTING, plain.config.full) and tokenizer.encode("the") == TOKENIZER.encode("the")
    assert (tmp_path / "out" / "losses.png").exists() and (tmp_path / "out" / "history.json").exists()
    assert "step 4/4" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_on_a_gpt2_of_transformers_and_its_dolls_leave(tmp_path, capsys):
    tokenizer = BPETokenizer.train(TEXT, 270)
    torch.manual_seed(0)
    export_gpt2(
        MatryoshkaGPT(GPTConfig(tokenizer.vocab_size, 16, 32, 4, 2)), tmp_path / "gpt2", tokenizer=tokenizer
    )
    command(tmp_path / "gpt2", *options(tmp_path))
    assert "\nvalidation at step 4, bits per byte  8,1,1: " in capsys.readouterr().out
    model, kept = load(tmp_path / "out")
    assert kept.encode(TEXT) == tokenizer.encode(TEXT) and kept.tokens == tokenizer.tokens
    export_gpt2(model, tmp_path / "doll", Size(16, 2, 2), kept)
    idx = torch.tensor([kept.encode("the dolls stand")])
    doll = matgpt.import_gpt2(tmp_path / "doll")
    torch.testing.assert_close(doll(idx), model(idx, Size(16, 2, 2)), rtol=1e-4, atol=1e-5)


def test_the_command_says_what_is_wrong(plain, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command(tmp_path / "nowhere", *options(tmp_path))
    assert "nowhere" in capsys.readouterr().err
    save(plain, tmp_path / "plain")
    with pytest.raises(SystemExit):
        command(tmp_path / "plain", *options(tmp_path))
    assert "tokenizer.json" in capsys.readouterr().err


def test_a_batch_of_one_is_read_by_somebody_in_every_step():
    """Also where the full doll is the only one, whose share is less than a batch."""
    for dolls in (None, [Size(32, 4, 1)]):
        plain = MatryoshkaGPT(GPTConfig(TOKENIZER.vocab_size, 16, 32, 4, 2))
        settings = dict(steps=12, batch_size=1, eval_blocks=1, progress=False)
        assert matgpt.nest(plain, dolls, IDS, IDS[:200], **settings).history.steps[-1] == 12


def test_the_command_refuses_ids_of_another_tokenizer(plain, tmp_path, capsys):
    """Of as many tokens, so that only the tokens themselves tell."""
    other = CharTokenizer("".join(map(chr, range(1000, 1000 + TOKENIZER.vocab_size))))
    save(plain, tmp_path / "plain", TOKENIZER)
    (tmp_path / "text").write_text(other.decode(list(range(other.vocab_size)) * 40))
    main(["data", str(tmp_path / "text"), "--tokenizer", "char", "--out", str(tmp_path / "data")])
    with pytest.raises(SystemExit):
        command(tmp_path / "plain", *options(tmp_path), "--corpus", tmp_path / "data")
    assert f"the tokens of {tmp_path / 'data'} are not those of" in capsys.readouterr().err
