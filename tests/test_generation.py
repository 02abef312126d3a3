"""Cached, streamed and drafted text against the model that is simply run from the start each time."""

import copy
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size, save, stream, train
from matgpt.__main__ import main
from matgpt.generation.drafts import verify
from matgpt.generation.sampling import Sampling
from matgpt.text.token_files import load_tokens, prepare
from matgpt.text.tokenizer import BPETokenizer, CharTokenizer

ROOT = Path(__file__).parent.parent

BLOCK = 8
SIZES = (Size(8, 1, 1, 20), Size(15, 3, 2, (20, 40)), Size(16, 2, 3, 50))


def make(kind=MatryoshkaGPT, std=0.3, vocab_size=23, nesting=SIZES, **options):
    """A model whose logits vary enough with the context that a wrong key shows in the tokens."""
    torch.manual_seed(0)
    config = dict(block_size=BLOCK, n_embd=36, n_head=3, n_layer=3, head_size=10) | options
    model = kind(GPTConfig(vocab_size, nesting=nesting, **config))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=std)
    return model.eval()


def by_hand(model, idx, n, size=None):
    """Greedy text by the plain forward alone."""
    for _ in range(n):
        idx = torch.cat([idx, model(idx[:, -BLOCK:], size)[:, -1].argmax(-1, keepdim=True)], 1)
    return idx


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MatryoshkaGPT, MatryoshkaEmbeddingsGPT])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_cached_tokens_are_those_of_the_plain_forward(kind, bias):
    model = make(kind, bias=bias)
    unlisted = Size(13, 1, 2, 7)
    for size in (*model.sizes, unlisted):
        for prompt in (1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK):
            idx = torch.randint(23, (3, prompt))
            expected = by_hand(model, idx, 12, size)
            for use_cache in (True, False):
                assert torch.equal(
                    model.generate(idx, 12, size, temperature=0, use_cache=use_cache), expected
                )


@torch.no_grad()
def test_cached_samples_are_the_uncached_ones():
    model, idx = make(std=0.1), torch.randint(23, (2, 3))
    draw = lambda **options: model.generate(
        idx, 20, temperature=1.3, top_k=15, top_p=0.9, **options, generator=torch.Generator().manual_seed(4)
    )
    assert torch.equal(draw(), draw(use_cache=False))
    assert len(draw().unique()) > 5


def test_the_cache_saves_the_positions_that_it_holds(monkeypatch):
    model, read = make(), []
    forward = model.embedding.forward
    monkeypatch.setattr(
        model.embedding, "forward", lambda idx, *a: read.append(idx.size(1)) or forward(idx, *a)
    )
    model.generate(torch.zeros(1, 3, dtype=torch.long), 8)
    assert read == [3, 1, 1, 1, 1, 1, BLOCK, BLOCK]
    read.clear()
    model.generate(torch.zeros(1, 3, dtype=torch.long), 8, use_cache=False)
    assert read == [3, 4, 5, 6, 7, 8, 8, 8]


def test_training_mode_and_dropout():
    model = make(dropout=0.5)
    idx = torch.randint(23, (1, 4))
    expected = model.generate(idx, 12, temperature=0)
    model.train()
    assert torch.equal(model.generate(idx, 12, temperature=0), expected)
    assert torch.equal(model.generate(idx, 12, temperature=0, use_cache=False), expected)
    assert model.training and model.blocks[0].attention.dropout.training


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind", [MatryoshkaGPT, MatryoshkaEmbeddingsGPT])
def test_greedy_drafts_write_what_plain_greedy_writes(kind):
    model = make(kind, std=0.1)
    small, middle, other, full = model.sizes
    for draft, size in (small, middle), (small, other), (small, full), (middle, full), (other, full):
        for prompt, draft_tokens in (1, 1), (1, 3), (5, 2), (2, 20), (BLOCK, 3), (BLOCK + 3, 3):
            idx = torch.randint(23, (2, prompt))
            out = model.generate(idx, 15, size, temperature=0, draft_size=draft, draft_tokens=draft_tokens)
            assert torch.equal(out, by_hand(model, idx, 15, size))


NARROW = (torch.int32, torch.int16, torch.uint16, torch.uint32, torch.uint64, torch.uint8, torch.int8)


def test_prompts_of_every_integer_type():
    model, idx = make(vocab_size=300), torch.randint(120, (2, 3))
    draw = lambda idx: model.generate(
        idx, 4, draft_size=8, draft_tokens=2, generator=torch.Generator().manual_seed(0)
    )
    expected = draw(idx)
    assert expected[:, 3:].max() > 255  # more than the narrow types can hold
    prompts = [idx.to(dtype) for dtype in NARROW]
    for prompt in (*prompts, idx.numpy(), idx.numpy().astype(np.uint16)):
        assert torch.equal(draw(prompt), expected) and draw(prompt).dtype == torch.int64


def test_ids_of_token_files(tmp_path):
    (tmp_path / "text").write_text("abcdefghij" * 40)
    prepare([tmp_path / "text"], tmp_path / "out", tokenizer="char")
    ids = load_tokens(tmp_path / "out")[0]
    assert ids.dtype == np.uint16
    out = make(vocab_size=10).generate(ids[None, :5], 3)
    assert out[0, :5].tolist() == ids[:5].tolist()


@pytest.mark.parametrize("temperature", [1e-300, 1e-50, 1e-45, 1e-38])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_tiny_temperature_is_greedy(temperature, dtype):
    logits = torch.tensor([[-3.0, 5.0, 4.0, -torch.inf, -6e4]]).to(dtype)
    assert Sampling(temperature).probabilities(logits).tolist() == [[0, 1, 0, 0, 0]]
    assert Sampling(temperature, 2, 0.5).probabilities(logits).tolist() == [[0, 1, 0, 0, 0]]


def test_a_tiny_top_p_keeps_the_best():
    for logits in (torch.tensor([[1.0, 2.0, 0.5]]), torch.zeros(1, 50_000)):
        probs = Sampling(top_p=1e-50).probabilities(logits)
        assert probs.max() == 1 and probs.sum() == 1
    assert Sampling(1e300).probabilities(logits).allclose(torch.tensor(1 / 50_000))


def test_modes_are_never_changed():
    """Not behind, not between the pieces of streams, and module by module."""
    model, tokenizer = make(vocab_size=3, dropout=0.5), CharTokenizer("abc")
    model.train()
    model.blocks[1].eval()
    modes = lambda: [module.training for module in model.modules()]
    before = modes()
    for options in (dict(), dict(use_cache=False), dict(draft_size=8)):
        alone = [*stream(model, tokenizer, "ab", 12, temperature=0, **options)]
        streams = [stream(model, tokenizer, "ab", 12, temperature=0, **options) for _ in range(2)]
        pieces = [[], []]
        for i in (0, 1, 1, 0, 0, 0, *[0] * 20, *[1] * 20):
            pieces[i] += [piece for piece in [next(streams[i], None)] if piece]
            assert modes() == before
        assert pieces == [alone, alone]
        model.generate(torch.zeros(1, 2, dtype=torch.long), 3, **options)
        assert modes() == before


def test_the_global_random_state_is_drawn_from_only_without_a_generator():
    model, idx, state = make(), torch.zeros(1, 2, dtype=torch.long), torch.get_rng_state()
    for options in (dict(temperature=0), dict(generator=torch.Generator()), dict(draft_size=8)):
        model.generate(idx, 5, **({"generator": torch.Generator()} | options))
        assert torch.equal(torch.get_rng_state(), state)
    first = model.generate(idx, 20)
    torch.set_rng_state(state)
    assert torch.equal(model.generate(idx, 20), first)


def test_a_draft_that_agrees_is_kept_whole():
    model = make(block_size=32)
    for name, p in model.blocks[2].named_parameters():
        if ".proj." in name:
            p.data.zero_()  # the last block adds nothing, so the doll without it says the same
    idx, stats = torch.randint(23, (2, 2)), {}
    two = Size(36, 3, 2)
    out = model.generate(idx, 20, temperature=0, draft_size=two, draft_tokens=4, stats=stats)
    assert torch.equal(out, model.generate(idx, 20, temperature=0, use_cache=False))
    assert stats == dict(steps=4, tokens=20, proposed=16, accepted=16, acceptance=1.0, tokens_per_step=5.0)
    stats = {}
    model.generate(idx, 20, draft_size=two, draft_tokens=4, stats=stats)
    assert stats["acceptance"] > 0.9  # sampled, too: the distributions are the same


def test_another_model_drafts(variant):
    """Of any shape and kind: what is written is what the model itself would write."""
    model, other, idx = make(), make(variant, n_embd=30, n_layer=1, nesting=None), torch.randint(23, (2, 3))
    other.load_state_dict({name: torch.randn_like(p) * 0.1 for name, p in other.state_dict().items()})
    stats = {}
    out = model.generate(idx, 12, temperature=0, draft_model=other, draft_tokens=3, stats=stats)
    assert torch.equal(out, model.generate(idx, 12, temperature=0)) and stats["proposed"] > 0
    twin, stats = copy.deepcopy(model), {}
    model.generate(idx, 3, temperature=0, draft_model=twin, draft_tokens=2, stats=stats)
    assert stats["acceptance"] == 1 and stats["proposed"] == 2
    model.generate(idx, 3, temperature=0, draft_model=twin, draft_size=8)
    for wrong in (dict(vocab_size=24), dict(block_size=BLOCK + 1)):
        with pytest.raises(ValueError, match=f"draft_model has {next(iter(wrong))}="):
            model.generate(idx, 3, draft_model=make(**wrong))


def exact(model, prompt, length, **sampling):
    """The probability of each continuation of `length` tokens, plainly sampled, in the order of `product`."""
    V, found = model.config.vocab_size, []
    for tokens in itertools.product(range(V), repeat=length):
        idx = torch.tensor([[*prompt, *tokens]])
        probs = Sampling(**sampling).probabilities(model(idx[:, :-1]))[0, len(prompt) - 1 :]
        found.append(probs.gather(1, torch.tensor(tokens)[:, None]).prod().item())
    return torch.tensor(found)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("sampling", [dict(temperature=1.0), dict(temperature=1.5, top_k=2, top_p=0.8)])
def test_drafted_samples_have_the_exact_distribution(sampling):
    """Rows of a batch, which stop each other's drafts, each have it, and are independent of each other."""
    model = make(std=0.5, vocab_size=3, nesting=(Size(8, 1, 1),), n_embd=16, n_layer=1, n_head=1)
    generator, stats, rows = torch.Generator().manual_seed(1), {}, []
    idx = torch.tensor([[0, 1]] * 2)
    for _ in range(500):
        rows.append(
            model.generate(idx, 3, generator=generator, draft_size=8, draft_tokens=2, stats=stats, **sampling)
        )
    codes = torch.stack(rows)[:, :, 2:] @ torch.tensor([9, 3, 1])  # (runs, 2)
    expected = exact(model, (0, 1), 3, **sampling)
    assert abs(expected.sum() - 1) < 1e-5 and 0.1 < stats["acceptance"] < 0.9
    found = torch.bincount(codes.flatten(), minlength=27) / codes.numel()
    assert (found[expected == 0] == 0).all()
    assert chi2(found, expected, codes.numel()) < 4
    first = codes // 9
    pairs = torch.bincount(first[:, 0] * 3 + first[:, 1], minlength=9) / len(first)
    one = expected.view(3, 9).sum(1)
    assert chi2(pairs, torch.outer(one, one).flatten(), len(first)) < 4


def chi2(found, expected, n):
    """Pearson's statistic in standard deviations from what chance gives."""
    seen = expected * n > 3
    statistic = (n * (found - expected) ** 2 / expected)[seen].sum().item()
    return (statistic - seen.sum().item()) / (2 * seen.sum().item()) ** 0.5


@pytest.mark.slow
def test_verify_keeps_the_distribution_of_one_step():
    """Algorithm 1 on given distributions: the first token it writes is drawn from p, whatever proposed it."""
    torch.manual_seed(0)
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    logits = p.log().expand(1, 2, 4)
    proposed = torch.multinomial(q, 4000, replacement=True)
    tokens = [verify(logits, x.view(1, 1), q.view(1, 1, 4), Sampling()) for x in proposed]
    first = torch.bincount(torch.stack([t[0, 0] for t in tokens]), minlength=4) / 4000
    assert first[3] == 0 and chi2(first, p, 4000) < 4
    kept = sum(t.size(1) == 2 for t in tokens) / 4000
    assert abs(kept - torch.minimum(p, q).sum().item()) < 0.02
    sure = verify(logits, torch.tensor([[0]]), p.view(1, 1, 4), Sampling())  # p = q: max(0, p - q) is empty
    assert sure.shape == (1, 2) and sure[0, 0] == 0


TEXT = "naïve 日本語 🙂 "
START = TEXT[:6]
REST = len((TEXT * 3).encode()) - len(START.encode())  # bytes, and so tokens, behind it


@pytest.fixture(scope="module")
def written():
    """A model that has learnt, byte by byte, a text whose characters have one to four bytes."""
    tokenizer = BPETokenizer([bytes([b]) for b in range(256)])
    ids = tokenizer.encode(TEXT * 40)
    torch.manual_seed(0)
    model = MatryoshkaGPT(GPTConfig(256, 16, 32, 2, 1, nesting=(16,)))
    train(model, ids, ids, steps=100, batch_size=8, eval_interval=100, eval_blocks=4, progress=False)
    return model, tokenizer


@pytest.mark.slow
def test_stream_never_cuts_a_character(written):
    model, tokenizer = written
    pieces = list(stream(model, tokenizer, TEXT, 59, temperature=0))
    bytes_written = (TEXT * 9).encode()[:59]
    assert "".join(pieces) == bytes_written.decode(errors="replace")
    assert all(len(piece) == 1 for piece in pieces) and {"ï", "日", "🙂"} < set(pieces)


@pytest.mark.slow
def test_stream_writes_what_generate_writes(written):
    model, tokenizer = written
    for seed, options in enumerate(
        [{}, dict(temperature=3.0), dict(size=16), dict(draft_size=16, draft_tokens=3)]
    ):
        idx = torch.tensor([tokenizer.encode(START)])
        out = model.generate(idx, 50, generator=torch.Generator().manual_seed(seed), **options)
        pieces = stream(model, tokenizer, START, 50, generator=torch.Generator().manual_seed(seed), **options)
        assert "".join(pieces) == tokenizer.decode(out[0, idx.size(1) :].tolist())


def test_stream_comes_as_it_is_written():
    tokenizer, model = CharTokenizer("abc"), make(vocab_size=3)
    model.train()
    pieces = stream(model, tokenizer, "ab", 10**6, temperature=1.0)
    assert next(pieces) in "abc" and next(pieces) in "abc"  # long before a million tokens
    pieces.close()
    assert model.training
    assert list(stream(model, tokenizer, "ab", 0)) == []


@pytest.mark.parametrize(
    "options, names",
    [
        (dict(draft_size=36), "draft_size"),  # the doll itself
        (dict(size=8, draft_size=36), "draft_size"),
        (dict(size=Size(16, 2, 3), draft_size=Size(9, 3, 1)), "draft_size"),  # narrower but more heads
        (dict(size=Size(16, 2, 3, 50), draft_size=Size(8, 1, 1, 51)), "draft_size"),
        (dict(draft_size=9), "size=9"),
        (dict(draft_size=8, draft_tokens=-1), "draft_tokens=-1"),
        (dict(draft_tokens=-1), "draft_tokens=-1"),
        (dict(draft_size=8, draft_tokens=1.5), "draft_tokens=1.5"),
        (dict(temperature=-1.0), "temperature=-1.0"),
        (dict(temperature=float("nan")), "temperature=nan"),
        (dict(top_k=0), "top_k=0"),
        (dict(top_p=0.0), "top_p=0.0"),
        (dict(top_p=1.5), "top_p=1.5"),
        (dict(max_new_tokens=-1), "max_new_tokens=-1"),
        (dict(size=17), "size=17"),
        (dict(idx=torch.zeros(1, 0, dtype=torch.long)), "prompt"),
        (dict(idx=torch.zeros(3, dtype=torch.long)), "prompt"),
        (dict(idx=torch.tensor([[23]])), "token id 23"),
        (dict(idx=torch.tensor([[0.5]])), "prompt"),
        (dict(idx=torch.tensor([[1j]])), "prompt"),
        (dict(idx=torch.tensor([[True]])), "prompt"),
        (dict(idx=torch.tensor([[2**63]], dtype=torch.uint64)), "token id -"),
        (dict(idx=torch.tensor([[40]], dtype=torch.uint16)), "token id 40"),
        (dict(idx=[[1, 2]]), "idx=.*tensor"),
        (dict(idx=np.array([["a"]])), "idx=.*tensor"),
        (dict(idx="ab"), "idx='ab'"),
        (dict(idx=None), "idx=None"),
        (dict(max_new_tokens=10**13), "max_new_tokens=10000000000000"),
        (dict(max_new_tokens=10**30), "max_new_tokens=1000"),
        (dict(max_new_tokens=2.0), "max_new_tokens=2.0"),
        (dict(temperature="1"), "temperature='1'"),
        (dict(temperature=float("inf")), "temperature=inf"),
        (dict(top_p="0.5"), "top_p='0.5'"),
        (dict(top_p=float("nan")), "top_p=nan"),
        (dict(top_k=2.5), "top_k=2.5"),
        (dict(generator=5), "generator=5"),
    ],
)
def test_bad_arguments_are_named_before_any_work(options, names, monkeypatch):
    model = make()
    monkeypatch.setattr(model, "trunk_size", lambda size: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=names):
        model.generate(**(dict(idx=torch.zeros(1, 2, dtype=torch.long), max_new_tokens=3) | options))
    options.pop("idx", None)
    if options:
        with pytest.raises(ValueError, match=names):  # at the call, not at the first piece
            stream(model, CharTokenizer("ab"), "ab", **(dict(max_new_tokens=3) | options))


def test_stream_of_an_empty_prompt():
    with pytest.raises(ValueError, match="prompt"):
        stream(make(), CharTokenizer("ab"), "", 3)


def program(*arguments):
    """`python -m matgpt generate` with these arguments."""
    main(["generate", *map(str, arguments)])


@pytest.mark.filterwarnings("error")
def test_the_program_writes_to_the_terminal(written, tmp_path, capsys):
    model, tokenizer = written
    save(model, tmp_path, tokenizer)
    common = (tmp_path, "--prompt", START, "--tokens", REST, "--threads", torch.get_num_threads())
    program(*common, "--temperature", 0)
    assert capsys.readouterr().out == TEXT * 3 + "\n"
    texts = []
    for options in ([], [], ["--size", 16], ["--size", "32,2,1", "--draft-size", 16]):
        program(*common, "--seed", 3, "--temperature", 3, *options)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and len(set(texts)) == 3
    generator = torch.Generator().manual_seed(3)
    pieces = stream(model, tokenizer, START, REST, size=16, temperature=3, generator=generator)
    assert texts[2] == START + "".join(pieces) + "\n"


@pytest.mark.parametrize(
    "options, names",
    [
        (["--size", "17"], "size=17"),
        (["--size", "1,x"], "1,x"),
        (["--tokens", "-1"], "--tokens=-1"),
        (["--draft-size", "32"], "--draft-size="),
        (["--threads", "0"], "--threads 0: allowed are 1 to"),
        (["--threads", "100000"], "--threads 100000: allowed are 1 to"),
        (["--tokens", "1" + "0" * 13], "--tokens=1"),
        (["--tokens", "1" + "0" * 30], "--tokens=1"),
        (["--tokens", "x"], "--tokens"),
        (["--seed", "1" + "0" * 30], "--seed 1"),
        (["--top-p", "nan"], "--top-p=nan"),
        (["--temperature", "inf"], "temperature=inf"),
    ],
)
def test_the_program_names_what_is_wrong(written, tmp_path, capsys, options, names):
    save(written[0], tmp_path, written[1])
    with pytest.raises(SystemExit):
        program(tmp_path, *options)
    error = capsys.readouterr().err
    assert names in error and error.count("\n") == 1
    with pytest.raises(SystemExit):
        program(tmp_path / "nowhere")
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.slow
def test_the_program_stops_in_silence_where_nobody_reads_on(written, tmp_path):
    save(written[0], tmp_path, written[1])
    command = [sys.executable, "-m", "matgpt", "generate", tmp_path, "--tokens", "100000"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    with child:
        assert len(child.stdout.read(20)) == 20
        child.stdout.close()
        assert child.stderr.read() == b"" and child.wait() == 1
