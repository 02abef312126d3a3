"""Cached, streamed and drafted text, compared with the plain model; and what a token is drawn from."""

import copy
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from matgpt import GPTConfig, MatryoshkaGPT, Size, save, stream, train, write
from matgpt.__main__ import main
from matgpt.generation.sampling import Sampling
from matgpt.text.tokenizer import BPETokenizer, CharTokenizer

from .conftest import assert_refused
from .test_train import ROOT, refused

BLOCK = 8
SIZES = (Size(8, 1, 1, 20), Size(15, 3, 2, (20, 40)), Size(16, 2, 3, 50))
LETTERS = CharTokenizer("abcdefghijklmnopqrstuvw")  # as many as `make` has tokens


def make(kind=MatryoshkaGPT, std=0.3, vocab_size=23, nesting=SIZES, **options):
    """A model whose logits vary enough with the context that a wrong key shows in the tokens."""
    torch.manual_seed(0)
    config = dict(block_size=BLOCK, n_embd=36, n_head=3, n_layer=3, head_size=10) | options
    model = kind(GPTConfig(vocab_size, nesting=nesting, **config))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=std)
    return model.eval()


def prompt(rows=1, length=3):
    return torch.randint(23, (rows, length), generator=torch.Generator().manual_seed(length))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def by_hand(model, idx, n, size=None):
    """Greedy text by the plain forward alone."""
    for _ in range(n):
        idx = torch.cat([idx, model(idx[:, -BLOCK:], size)[:, -1].argmax(-1, keepdim=True)], 1)
    return idx


@pytest.mark.parametrize("bias", [True, False])
def test_cached_tokens_are_those_of_the_plain_forward(variant, bias):
    model = make(variant, bias=bias)
    for size in (*model.sizes, Size(13, 1, 2, 7)):
        for length in (1, 2, BLOCK - 1, BLOCK, 2 * BLOCK):
            idx = prompt(3, length)
            expected = by_hand(model, idx, 12, size)
            for use_cache in (True, False):
                assert torch.equal(model.generate(idx, 12, size, 0, use_cache=use_cache), expected)


def test_the_cache_saves_the_positions_that_it_holds_and_changes_no_sample():
    model, lengths, samples = make(std=0.1), [], []
    model.embedding.register_forward_pre_hook(lambda layer, args: lengths.append(args[0].size(1)))
    for use_cache, expected in ((True, [3, 1, 1, 1, 1, 1, BLOCK, BLOCK]), (False, [3, 4, 5, 6, 7, 8, 8, 8])):
        lengths.clear()
        options = dict(temperature=1.3, top_k=15, top_p=0.9, generator=seeded())
        samples.append(model.generate(prompt(2), 8, use_cache=use_cache, **options))
        assert lengths == expected
    assert torch.equal(*samples) and len(samples[0].unique()) > 5


def test_greedy_drafts_write_what_plain_greedy_writes(variant):
    model = make(variant, std=0.1)
    small, middle, other, full = model.sizes
    for draft, size in (small, middle), (small, full), (middle, full), (other, full):
        for length, draft_tokens in (1, 1), (1, 3), (2, 20), (BLOCK, 3), (BLOCK + 3, 3):
            out = model.generate(prompt(2, length), 15, size, 0, draft_size=draft, draft_tokens=draft_tokens)
            assert torch.equal(out, by_hand(model, prompt(2, length), 15, size))
    model = make(variant, std=0.1, block_size=32)
    for size in model.sizes[:-1]:  # rows that agree wait; nothing is left of their p - q to draw from
        out = model.generate(prompt(8), 20, top_k=1, draft_size=size, draft_tokens=3)
        assert torch.equal(out, model.generate(prompt(8), 20, temperature=0))


def test_prompts_of_every_integer_type():
    model, idx = make(vocab_size=300), torch.randint(120, (2, 3))
    types = "int64", "int32", "int16", "uint16", "uint32", "uint64", "uint8", "int8"
    prompts = [idx.to(getattr(torch, name)) for name in types]
    prompts += [idx.numpy(), idx.numpy().astype(np.uint16), idx.tolist()]
    outs = [model.generate(p, 4, draft_size=8, draft_tokens=2, generator=seeded()) for p in prompts]
    assert outs[0][:, 3:].max() > 255  # more than the narrow types can hold
    assert all(torch.equal(out, outs[0]) and out.dtype == torch.int64 for out in outs)


def test_modes_are_never_changed_and_dropout_is_off():
    """Not even between the pieces of streams that take turns."""
    model, tokenizer = make(vocab_size=3, dropout=0.5).train(), CharTokenizer("abc")
    model.blocks[1].eval()
    before = [module.training for module in model.modules()]
    for options in (dict(), dict(use_cache=False), dict(draft_size=8)):
        alone, *streams = (stream(model, tokenizer, "ab", 12, temperature=0, **options) for _ in range(3))
        texts = [*zip(*streams)]
        assert texts == [(piece, piece) for piece in alone]
        assert [module.training for module in model.modules()] == before


def test_the_global_random_state_is_drawn_from_only_without_a_generator():
    model, idx, state = make(), prompt(), torch.get_rng_state()
    for options in (dict(temperature=0), dict(generator=seeded()), dict(draft_size=8, generator=seeded())):
        model.generate(idx, 5, **options)
        assert torch.equal(torch.get_rng_state(), state)
    first = model.generate(idx, 20)
    torch.set_rng_state(state)
    assert torch.equal(model.generate(idx, 20), first)


def test_any_grad_mode():
    """Also where a stream begins in inference mode and goes on outside it, or the other way round."""
    model = make()
    for options in (dict(), dict(draft_size=8), dict(use_cache=False)):
        text = write(model, LETTERS, "abc", 9, temperature=0, **options)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert not model.generate(prompt(), 3, **options).is_inference()
                begun = stream(model, LETTERS, "abc", 9, temperature=0, **options)
                pieces = ["abc", next(begun)]
            pieces.append(next(begun))
            with mode():
                assert "".join([*pieces, *begun]) == text
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("options", [dict(temperature=0), dict(), dict(use_cache=False), dict(draft_size=8)])
def test_weights_that_are_not_finite_write_nothing(value, options):
    model, large = make(), make().half()
    model.blocks[0].attention.qkv.bias.data[0] = value  # of queries, which attention hides
    assert_refused("qkv.bias contains NaN or infinity", model.generate, prompt(), 3, **options)
    large.embedding.token.data.uniform_(-3e4, 3e4)
    assert_refused("logits of Size.* are not finite", large.generate, prompt(), 3, **options)


def test_a_draft_that_agrees_is_accepted_whole():
    model = make(block_size=32)
    for name, p in model.blocks[2].named_parameters():
        if ".proj." in name:
            p.data.zero_()  # the last block adds nothing, so the doll without it says the same
    idx, stats, two = prompt(2, 2), {}, Size(36, 3, 2)
    out = model.generate(idx, 20, temperature=0, draft_size=two, draft_tokens=4, stats=stats)
    assert torch.equal(out, model.generate(idx, 20, temperature=0, use_cache=False))
    assert stats == dict(steps=4, tokens=20, proposed=16, accepted=16, acceptance=1.0, tokens_per_step=5.0)
    stats = {}
    model.generate(idx, 20, draft_size=two, draft_tokens=4, stats=stats)
    assert stats["acceptance"] > 0.9  # sampled, too: the distributions are the same


def test_another_model_drafts(variant):
    """Of any shape and kind: what is written is what the model itself would write."""
    model, other = make(), make(variant, n_embd=30, n_layer=1, nesting=None)
    for draft, size in ((other, None), (copy.deepcopy(model), None), (model, 8)):
        stats = {}
        options = dict(draft_model=draft, draft_size=size, draft_tokens=3, stats=stats)
        out = model.generate(prompt(2), 12, temperature=0, **options)
        assert torch.equal(out, model.generate(prompt(2), 12, temperature=0))
        assert stats["proposed"] > 0 and (stats["acceptance"] == 1) == (draft is not other and size is None)
    for name, value in dict(vocab_size=24, block_size=BLOCK + 1).items():
        draft = make(**{name: value})
        assert_refused(f"draft_model must have the {name}", model.generate, prompt(), 3, draft_model=draft)


def chi2(measured, expected, n):
    """Pearson's statistic in standard deviations from what chance gives."""
    cells = expected * n > 3
    statistic = (n * (measured - expected) ** 2 / expected)[cells].sum().item()
    return (statistic - cells.sum().item()) / (2 * cells.sum().item()) ** 0.5


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("sampling", [dict(temperature=1.0), dict(temperature=1.5, top_k=2, top_p=0.8)])
def test_drafted_samples_have_the_exact_distribution(sampling):
    """Rows of a batch, which stop each other's drafts, each have it, and are independent of each other."""
    model = make(std=0.5, vocab_size=3, nesting=(Size(8, 1, 1),), n_embd=16, n_layer=1, n_head=1)
    options, stats = dict(generator=seeded(1), draft_size=8, draft_tokens=2, **sampling), {}
    rows = [model.generate([[0, 1]] * 2, 3, stats=stats, **options) for _ in range(500)]
    codes = torch.stack(rows)[:, :, 2:] @ torch.tensor([9, 3, 1])  # (runs, 2)
    idx = torch.tensor([(0, 1, *tokens) for tokens in itertools.product(range(3), repeat=3)])
    probs = Sampling(**sampling).probabilities(model(idx[:, :-1]))[:, 1:]  # of plain samples
    expected = probs.gather(2, idx[:, 2:, None]).prod(1).flatten()
    assert abs(expected.sum() - 1) < 1e-5 and 0.1 < stats["acceptance"] < 0.9
    measured = torch.bincount(codes.flatten(), minlength=27) / codes.numel()
    assert (measured[expected == 0] == 0).all()
    assert chi2(measured, expected, codes.numel()) < 4
    first = codes // 9
    pairs = torch.bincount(first[:, 0] * 3 + first[:, 1], minlength=9) / len(first)
    one = expected.view(3, 9).sum(1)
    assert chi2(pairs, torch.outer(one, one).flatten(), len(first)) < 4


TEXT = "naïve 日本語 🙂 "
REST = len((TEXT * 2).encode())  # bytes, and so tokens


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
def test_stream_and_write_give_the_text_of_generate_and_cut_no_character(written):
    pieces = list(stream(*written, TEXT, 59, temperature=0))
    assert "".join(pieces) == (TEXT * 9).encode()[:59].decode(errors="replace")
    assert all(len(piece) == 1 for piece in pieces) and {"ï", "日", "🙂"} < set(pieces)
    model, tokenizer = written
    idx = torch.tensor([tokenizer.encode(TEXT)])
    for options in ({}, dict(temperature=3.0), dict(size=16), dict(draft_size=16, draft_tokens=3)):
        out = model.generate(idx, 50, generator=seeded(5), **options)
        text = tokenizer.decode(out[0, idx.size(1) :].tolist())
        assert "".join(stream(model, tokenizer, TEXT, 50, generator=seeded(5), **options)) == text
        assert write(model, tokenizer, TEXT, 50, seed=5, **options) == TEXT + text
    assert len({write(model, tokenizer, TEXT, 50, temperature=3.0) for _ in range(2)}) == 2, "without a seed"


def test_stream_comes_as_it_is_written():
    model = make()
    pieces = stream(model, LETTERS, "ab", 10**6)
    assert len(next(pieces) + next(pieces)) == 2  # long before a million tokens
    assert list(stream(model, LETTERS, "ab", 0)) == [] and write(model, LETTERS, "ab", 0) == "ab"


VALUES = dict(draft_tokens=(-1, 1.5), temperature=(-1.0, math.nan, math.inf, "1"), top_k=(0, 2.5))
VALUES |= dict(top_p=(0.0, 1.5, "0.5", math.nan), max_new_tokens=(-1, 10**13, 10**30, 2.0), stats=([], 5))
BAD = [
    *(({name: value}, f"{name}=") for name, values in VALUES.items() for value in values),
    (dict(draft_size=36), "draft_size"),  # the doll itself
    (dict(size=Size(16, 2, 3), draft_size=Size(9, 3, 1)), "draft_size"),  # narrower but more heads
    (dict(draft_size=9), "size=9"),
    (dict(draft_model="m"), "draft_model='m'"),
    (dict(generator=5), "generator=5"),
    *((dict(idx=torch.zeros(*shape, dtype=torch.long)), "prompt") for shape in ((1, 0), (0, 3), (3,))),
    *((dict(idx=torch.tensor([[value]])), "prompt") for value in (0.5, 1j, True)),
    (dict(idx=torch.tensor([[23] + [0] * 20])), "token id 23"),  # also where no window reads it
    (dict(idx=torch.tensor([[2**63]], dtype=torch.uint64)), "token id -"),
    *((dict(idx=value), "idx=.*prompt") for value in ("ab", None, np.array([["a"]]))),
]


@pytest.mark.parametrize("options, names", BAD)
def test_bad_arguments_are_named_before_any_work(options, names, monkeypatch):
    model = make()
    monkeypatch.setattr(model, "trunk_size", lambda size: pytest.fail("work was done"))
    assert_refused(names, model.generate, **dict(idx=prompt(), max_new_tokens=3) | options)
    if "idx" not in options:  # at the call, not at the first piece
        assert_refused(names, stream, model, LETTERS, "ab", **dict(max_new_tokens=3) | options)


def test_bad_texts_tokenizers_and_seeds_are_named():
    model, few = make(), CharTokenizer("ab")
    assert_refused("prompt", write, model, LETTERS, "", 3)
    assert_refused("the tokenizer has 2 tokens, the model vocab_size=23", write, model, few, "ab", 3)
    assert_refused("tokenizer=None must be what `load` returns", write, model, None, "ab", 3)
    assert_refused("seed='a'", write, model, LETTERS, "ab", 3, seed="a")
    assert_refused("seed=1 and a generator", write, model, LETTERS, "ab", 3, seed=1, generator=seeded())
    assert write(model, LETTERS, "ab", 3, seed=1, generator=None) == write(model, LETTERS, "ab", 3, seed=1)
    assert_refused("model=None", write, None, LETTERS, "ab", 3, seed=0)


@pytest.fixture
def folder(written, tmp_path):
    save(written[0], tmp_path, written[1])
    return str(tmp_path)


@pytest.mark.filterwarnings("error")
def test_the_program_writes_to_the_terminal_and_names_what_is_wrong(written, folder, capsys):
    command = ["generate", folder, "--prompt", TEXT, "--tokens", str(REST), "--threads", "1"]
    main([*command, "--temperature", "0"])
    assert capsys.readouterr().out == TEXT * 3 + "\n"
    main([*command, "--seed", "3", "--temperature", "3", "--size", "16"])
    assert capsys.readouterr().out == write(*written, TEXT, REST, 16, seed=3, temperature=3) + "\n"
    command = "generate", folder
    assert "1,x" in refused(capsys, *command, "--size", "1,x")
    assert "--tokens=-1" in refused(capsys, *command, "--tokens", -1)
    assert "--draft-size=" in refused(capsys, *command, "--draft-size", 32)
    assert "--threads: 100000: allowed are 1 to" in refused(capsys, *command, "--threads", 100000)
    assert "--seed=1" in refused(capsys, *command, "--seed", 10**30)


@pytest.mark.slow
def test_the_program_stops_in_silence_where_nobody_reads_on(folder):
    command = [sys.executable, "-m", "matgpt", "generate", folder, "--tokens", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as child:
        assert len(child.stdout.read(20)) == 20
        child.stdout.close()
        assert child.stderr.read() == b"" and child.wait() == 1


# ---- what a token is drawn from
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


def test_of_equals_top_k_keeps_k():
    assert Sampling(top_k=2).probabilities(torch.zeros(1, 5)).count_nonzero() == 2


def test_top_p_is_reached_by_equality():
    probs = Sampling(top_p=0.5).probabilities(torch.tensor([0.0, 0.0, -torch.inf]))
    assert probs.tolist() in ([1, 0, 0], [0, 1, 0])


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-38])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_tiny_temperature_is_greedy(temperature, dtype):
    logits = torch.tensor([[-3.0, 5.0, 4.0, -torch.inf, -6e4]]).to(dtype)
    assert Sampling(temperature, 2, 0.5).probabilities(logits).tolist() == [[0, 1, 0, 0, 0]]
    assert Sampling(temperature).probabilities(logits).tolist() == [[0, 1, 0, 0, 0]]
