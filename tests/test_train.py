"""The program: what it prints and leaves, and what it says of bad options."""

import math
import re

import pytest
import torch

import matgpt.commands.train as command
from matgpt import (
    GPTConfig,
    History,
    MatryoshkaEmbeddingsGPT,
    MatryoshkaGPT,
    Size,
    evaluate,
    load,
    save,
    split,
)
from matgpt.__main__ import main
from matgpt.commands.parser import Parser
from matgpt.training import threads

LOSSES = r"4,1,2: \d\.\d{4}  8,1,1,9: \d\.\d{4}  8,1,2: \d\.\d{4}"
TEXT = "".join("the dolls stand one inside another, "[i % 36] + " \n"[i % 7 == 0] for i in range(2500))


def program(*arguments):
    main(["train", *map(str, arguments)])


@pytest.fixture
def options(tmp_path):
    (tmp_path / "text").write_text(TEXT)
    return [
        *f"--corpus {tmp_path / 'text'} --nesting 4 8,1,1,9 8 --n-layer 2 --block-size 8 --batch-size 4 "
        f"--steps 20 --eval-interval 10 --threads 1 --out {tmp_path / 'out'}".split()
    ]


@pytest.mark.slow
def test_byte_pairs_are_reported_in_bits_per_byte_too(options, tmp_path, capsys):
    program(*options, "--tokenizer", "bpe", "--vocab", 270)
    line = capsys.readouterr().out.splitlines()[-2]
    _, tokenizer = load(tmp_path / "out")
    val_ids = split(tokenizer.encode(TEXT))[1]
    nats = History.load(tmp_path / "out" / "history.json").val[4][-1]
    bits = nats / math.log(2) * len(val_ids) / len(tokenizer.decode_bytes(val_ids))
    assert re.match(rf"validation at step 20, bits per byte  4,1,2: {bits:.3f}  ", line)


@pytest.mark.slow
def test_a_run(options, tmp_path, capsys):
    program(*options)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"step 0/20, 0.00e\+00 FLOPs, validation loss {LOSSES}", lines[-4])
    assert re.fullmatch(
        rf"step 20/20, \d\.\d\de\+\d\d FLOPs, validation loss {LOSSES}  [\d,.]+ GFLOP/s  00:00 left",
        lines[-2],
    )
    assert lines[-1] == f"kept in {tmp_path / 'out'}"
    model, tokenizer = load(tmp_path / "out")
    assert model.sizes == (Size(4, 1, 2), Size(8, 1, 1, 9), Size(8, 1, 2)) and tokenizer.decode([0]) == "\n"
    history = History.load(tmp_path / "out" / "history.json")
    assert history.steps == [0, 10, 20]
    assert evaluate(model, split(tokenizer.encode(TEXT))[1], 4) == pytest.approx(history.val[4][-1], abs=1e-6)
    assert history.flops[0] == 0 < history.flops[1] < history.flops[2] == history.spent
    assert (tmp_path / "out" / "losses.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_budget_of_flops(options, tmp_path, capsys):
    at = options.index("--steps")
    del options[at : at + 2]
    program(*options, "--flops", "1e7")
    *_, last, end = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"step \d+, 1\.\d\de\+07 FLOPs, .*{LOSSES}  .* GFLOP/s  00:00 left", last)
    assert end.startswith("kept in")
    history = History.load(tmp_path / "out" / "history.json")
    assert history.spent == history.flops[-1] >= 1e7 and len(history.steps) > 2


@pytest.mark.slow
def test_interrupted_and_resumed(options, tmp_path, capsys, monkeypatch):
    """The model that an interrupted run left is its own to replace."""

    def interrupt(log, history):
        raise KeyboardInterrupt

    program(*options[:-1], tmp_path / "whole")
    with monkeypatch.context() as context:
        context.setattr(command.Log, "__call__", interrupt)
        program(*options)
    assert "interrupted: --resume goes on" in capsys.readouterr().out
    program(*options, "--resume")
    assert "kept in" in capsys.readouterr().out
    models = [load(tmp_path / name)[0] for name in ("whole", "out")]
    assert all(map(torch.equal, *(model.parameters() for model in models)))


def test_a_folder_that_holds_another_model_is_used_only_if_forced(options, tmp_path, capsys):
    save(MatryoshkaGPT(GPTConfig(5, 4, 4, 1, 1)), tmp_path / "out")
    for more in ([], ["--resume"]):
        with pytest.raises(SystemExit):
            program(*options, *more)
        assert "already holds MatryoshkaGPT" in (error := capsys.readouterr().err) and "--force" in error
    assert load(tmp_path / "out")[0].config.n_embd == 4
    program(*options, "--steps", "2", "--force")
    assert load(tmp_path / "out")[0].config.n_embd == 8


@pytest.mark.slow
def test_stopped_and_resumed(options, tmp_path, capsys):
    program(*options)
    model, _ = load(tmp_path / "out")
    before = (tmp_path / "out" / "history.json").read_bytes()
    with pytest.raises(SystemExit):
        program(*options)
    assert "already holds a run" in capsys.readouterr().err
    sorted((tmp_path / "out").glob("step-*"))[-1].unlink()
    (tmp_path / "out" / "history.json").unlink()
    program(*options, "--resume")
    assert "step 10/20" not in (out := capsys.readouterr().out) and "step 20/20" in out
    assert (tmp_path / "out" / "history.json").read_bytes() == before
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), load(tmp_path / "out")[0].parameters()))


def test_bpe_variant_and_weights(options, tmp_path):
    program(
        *options,
        "--tokenizer",
        "bpe",
        "--vocab",
        "300",
        "--variant",
        "embeddings",
        "--loss-weights",
        "1",
        "0",
        "2",
        "--optimizer",
        "adamw",
        "--dtype",
        "bfloat16",
        "--dropout",
        "0.1",
        "--steps",
        "2",
        "--lr",
        "1e-3",
        "--seed",
        "3",
    )
    model, tokenizer = load(tmp_path / "out")
    assert type(model) is MatryoshkaEmbeddingsGPT and 256 < tokenizer.vocab_size <= 300
    assert History.load(tmp_path / "out" / "history.json").lr == 1e-3
    state = torch.load(next((tmp_path / "out").glob("step-*2-*.pt")))
    assert (state["run"]["optimizer"], state["run"]["dtype"]) == ("adamw", "bfloat16")


@pytest.mark.parametrize(
    "bad, message",
    [
        (["--steps", "0"], "steps=0"),
        (["--steps", "x"], "'x'"),
        (["--bogus"], "--bogus"),
        (["--n-embd", "0"], "n_embd=0"),
        (["--nesting", "4,3"], "'4,3' is no size"),
        (["--nesting", "8,3,1"], "n_head=3"),
        (["--dropout", "1"], "dropout=1"),
        (["--batch-size", "-1"], "batch_size=-1"),
        (["--lr", "-1"], "lr=-1"),
        (["--seed", "-1"], "seed=-1"),
        (["--loss-weights", "1"], "loss_weights"),
        (["--flops", "1e9"], "--flops: not allowed with argument --steps"),
        (["--optimizer", "sgd"], "sgd"),
        (["--threads", "0"], "--threads 0"),
        (["--corpus", "nowhere"], "nowhere"),
        (["--corpus", "."], "tokenizer.json"),
        (["--device", "abacus"], "--device abacus"),
        (["--tokenizer", "bpe", "--vocab", "3"], "vocab_size=3"),
        (["--block-size", "999999"], "block_size=999999"),
        (["--variant", "round"], "round"),
        (["--out", "/dev/null/x"], "/dev/null/x"),
        (["--eval-interval", "0"], "eval_interval=0"),
    ],
)
def test_bad_option_is_one_line(bad, message, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        program(*options, *bad)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error


def test_help_states_every_default(capsys):
    with pytest.raises(SystemExit):
        program("--help")
    options = re.split(r"\n  (?=-)", capsys.readouterr().out.split("options:")[1])[2:]
    assert len(options) > 20
    for option in options:
        none = option.startswith(("--out", "--resume", "--force", "--flops", "--compile"))
        assert none or "(default:" in " ".join(option.split()), option


def test_diverging_is_one_line(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        program(*options, "--lr", "1e30")
    assert stopped.value.code != 0 and re.fullmatch(r".*step \d+: .*lr=1e\+30.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried 9 bytes")])
def test_too_little_memory_is_one_line(error, capsys):
    with pytest.raises(SystemExit), Parser("nest", "").one_line():
        raise error
    wanted = "out of memory: choose a smaller model, or smaller batches where there are any"
    assert capsys.readouterr().err == f"python -m matgpt nest: error: {wanted}\n"


def test_a_mistake_of_our_own_is_no_line():
    with pytest.raises(RuntimeError, match="size mismatch"), Parser("nest", "").one_line():
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize("slower, said", [(1.5, None), (9.0, "one thread is 9 times as fast as 4")])
def test_slow_threads(slower, said, monkeypatch):
    """With a clock that runs by the operations: `slower` each on four threads, 1 on one."""
    now, n = [0.0], [4]

    def linear(x, weight):
        now[0] += slower if n[0] == 4 else 1.0

    monkeypatch.setattr(threads.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(threads.torch.nn.functional, "linear", linear)
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: n[0])
    monkeypatch.setattr(threads.torch, "set_num_threads", lambda value: n.__setitem__(0, value))
    advice = threads.slow_threads()
    assert n == [4] and (advice is None if said is None else said in advice)
    monkeypatch.setattr(threads.torch.nn.functional, "linear", lambda x, weight: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        threads.slow_threads()
    assert n == [4]


def test_another_model_is_replaced_only_by_force(tmp_path, capsys):
    save(MatryoshkaGPT(GPTConfig(5, 4, 8, 2, 1)), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "text.txt").write_text("abcdefgh" * 40)
    options = ["--corpus", tmp_path / "text.txt", "--out", tmp_path, "--nesting", 8, "--n-head", 2]
    options += ["--n-layer", 1, "--block-size", 4, "--steps", 2]
    with pytest.raises(SystemExit):
        program(*options)
    assert "already holds MatryoshkaGPT (config.json, model.safetensors)" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_bytes() == before
    program(*options, "--force")
    assert load(tmp_path)[0].config.vocab_size == 8


@pytest.mark.parametrize("name", ["history.json", "losses.png", "step-500.pt"])
def test_files_of_the_user_stay(name, options, tmp_path, capsys):
    """A file that is named nearly as a state is none, so the model beside it is another one."""
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    if name == "step-500.pt":
        save(MatryoshkaGPT(GPTConfig(5, 4, 8, 2, 1)), out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(SystemExit):
        program(*options)
    assert "already holds" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("option", ["--block-size", "--n-embd", "--batch-size"])
def test_numbers_beyond_64_bits_are_named(option, options, capsys):
    with pytest.raises(SystemExit):
        program(*options, option, 10**20)
    assert f"{option[2:].replace('-', '_')}={10**20} must be" in capsys.readouterr().err
