"""The program: what it prints and leaves, what it refuses to replace, and what it says of bad options."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

import matgpt
from matgpt import BPETokenizer, GPTConfig, History, MatryoshkaGPT, Size, load, save, split
from matgpt.__main__ import main
from matgpt.commands import run
from matgpt.text.token_files import prepare, read_corpus
from matgpt.training import nesting
from matgpt.training.loop import Settings
from matgpt.training.schedule import READOUTS, SHARE

from .conftest import assert_refused, contents

TEXT = "".join("the dolls stand one inside another, "[i % 36] + " \n"[i % 7 == 0] for i in range(2500))
SHAPE = "--nesting 4 8,1,1,9 8 --n-head 1 --n-layer 2 --block-size 8"
BUDGET = "--batch-size 4 --eval-blocks 1000 --steps 20"
ROOT = Path(__file__).parent.parent


def program(*arguments):
    main(["train", *map(str, arguments)])


def refused(capsys, *arguments):
    """Return the line that the program ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith("python -m matgpt") and error.count("\n") == 1, error
    return error


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def options(tmp_path, out):
    (tmp_path / "text").write_text(TEXT)
    return f"--corpus {tmp_path / 'text'} {SHAPE} {BUDGET} --eval-interval 10 --out {out}".split()


@pytest.mark.slow
def test_a_run(options, out, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program(*options, "--corpus", "text")
    *_, first, middle, last, smallest, _, largest, end = capsys.readouterr().out.splitlines()
    losses = "".join(rf"  {size}: \d\.\d{{4}} \(\d\.\d{{4}}\)" for size in ("4,1,2", "8,1,1,9", "8,1,2"))
    for step, line in ((0, first), (20, last)):
        assert re.fullmatch(rf"step {step}/20, validation \(training\) loss{losses}", line)
    assert smallest.startswith("4,1,2 writes: ") and largest.startswith("8,1,2 writes: ")
    assert end == f"saved in {out}" and (out / "losses.png").read_bytes().startswith(b"\x89PNG")
    history = History.load(out / "history.json")
    model, tokenizer = load(out)
    assert history.steps == [0, 10, 20] and model.sizes == history.sizes
    val_ids = split(tokenizer.encode(TEXT))[1]
    assert matgpt.evaluate(model, val_ids, 4) == pytest.approx(history.val[4][-1], abs=1e-6)
    main(["eval", str(out)])
    unit, *rows = capsys.readouterr().out.splitlines()
    assert "nats per token" in unit and [row.split()[0] for row in rows] == ["4,1,2", "8,1,1,9", "8,1,2"]
    assert f"loss {history.val[4][-1]:.3f}" in rows[0]
    main(["eval", str(out), "--eval-blocks", "1"])
    assert f"loss {matgpt.evaluate(model, val_ids, 4, max_blocks=1):.3f}" in capsys.readouterr().out
    assert json.loads((out / "history.json").read_text())["corpus"] == str(tmp_path / "text")
    (tmp_path / "text").write_text(TEXT[::-1])
    main(["eval", str(out)])
    assert "is no longer the text" in capsys.readouterr().err
    assert "no/model.safetensors is missing" in refused(capsys, "eval", out / "no")


def test_every_option_reaches_the_run(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "train", Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr(matgpt.MatryoshkaEmbeddingsGPT, "compile", compiled := Mock())
    given = dict(lr=1e-3, share=0.1, seed=3, optimizer="adamw", dtype="bfloat16", threads=1, eval_blocks=5)
    more = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    more += ["--variant=embeddings", "--dropout=0.1", "--tokenizer=bpe", "--vocab=300", "--resume"]
    with torch._dynamo.config.patch(recompile_limit=8):
        with pytest.raises(SystemExit, match="interrupted"):
            program(*options[:-2], *more, "--compile", "--loss-weights", 1, 0, 2)
        assert compiled.called and torch._dynamo.config.recompile_limit == 3 * 8, "a graph for each doll"
    assert "bits per byte" in capsys.readouterr().out
    (model, *_), taken = run.train.call_args
    given |= dict(loss_weights=[1, 0, 2], resume=True, steps=20, batch_size=4, eval_interval=10)
    given |= dict(checkpoint_dir=Path("runs/text-4-8,1,1,9-8"))
    assert {*taken} == {*given, "progress", "on_evaluation", "overwrite"} and taken == taken | given
    assert type(model) is matgpt.MatryoshkaEmbeddingsGPT and model.config.dropout == 0.1
    assert 256 < model.config.vocab_size <= 300


@pytest.mark.slow
def test_a_run_is_interrupted_resumed_extended_and_replaced(options, out, capsys, monkeypatch):
    with monkeypatch.context() as context, pytest.raises(SystemExit, match="interrupted: saved in"):
        context.setattr(run, "log", Mock(side_effect=KeyboardInterrupt))
        program(*options)
    assert History.load(out / "history.json").done == 0
    program(*options, "--resume")  # the model that an interrupted run left is its own to replace
    before = contents(out)
    for more in ([], ["--force", "--loss-weights", 1]):  # forced or not, what begins nothing replaces nothing
        error = refused(capsys, "train", *options, *more)
        assert contents(out) == before
    assert "--loss-weights=" in error
    error = refused(capsys, "train", *options)
    assert "already holds" in error and "--resume" in error and "--force" in error
    assert not [*out.glob("step-*")], "a finished run leaves its model and history"
    model, ids = load(out)[0], list(range(9))
    assert_refused("already holds a run", matgpt.train, model, ids, ids, checkpoint_dir=out)
    program(*options, "--resume")
    error = refused(capsys, "train", *options, "--resume", "--lr", 0.1)
    assert "another run: lr was None, is 0.1; --force in place of --resume begins anew" in error
    assert contents(out) == before
    program(*options, "--resume", "--steps", 40)
    assert History.load(out / "history.json").steps == [0, 10, 20, 30, 40]
    save(MatryoshkaGPT(model.config), out, overwrite=True)
    before = contents(out)
    assert "no run that can be resumed wrote" in refused(capsys, "train", *options, "--resume", "--steps", 60)
    assert contents(out) == before
    program(*options, "--resume", "--steps", 60, "--n-head", 2, "--force")
    assert History.load(out / "history.json").start == 0, "it began anew"
    assert load(out)[0].config.n_head == 2 and not [*out.glob("step-*")]
    corpus, short = options[:2], "--nesting 6 --steps 1 --batch-size 4 --force --out"
    main(["nest", str(out), *corpus, *short.split(), str(out)])
    assert "no run that can be resumed wrote" in refused(capsys, "train", *options, "--resume", "--steps", 80)


HALFWAY = """from matgpt.commands import run
run.log = lambda args, history: history.steps[-1] == 10 and os._exit(9)"""
AT_THE_END = """from matgpt.files import atomic, checkpoint
write = atomic.write_all
last = lambda files: os._exit(9) if any(path.name == "history.json" for path in files) else write(files)
atomic.write_all = checkpoint.write_all = last"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [HALFWAY, AT_THE_END])
def test_a_run_that_replaces_another_is_killed_and_resumed(killed, options, out):
    program(*options)
    main = f"from matgpt.__main__ import main; main({['train', *options, '--force', '--seed', '1']})"
    command = [sys.executable, "-c", f"import os\n{killed}\n{main}"]
    assert subprocess.run(command, cwd=ROOT).returncode == 9
    program(*options, "--seed", 1, "--resume")
    assert History.load(out / "history.json").steps == [0, 10, 20] and not [*out.glob("step-*.pt")]


@pytest.mark.parametrize("name", ["config.json", "history.json", "losses.png", "step-500.pt"])
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_files_of_the_user_stay(name, resume, options, out, capsys):
    """A file named nearly as a state is not one, so the model beside it is that of another run."""
    save(MatryoshkaGPT(GPTConfig(5, 4, 8, 2, 1)), out)
    (out / name).write_text("mine")
    before = contents(out)
    assert "already holds" in refused(capsys, "train", *options, *resume)
    assert contents(out) == before
    program(*options, "--steps", 1, "--force")
    assert load(out)[0].config.block_size == 8


def test_a_model_that_came_while_the_text_was_read_stays(options, out, monkeypatch, capsys):
    def comes_meanwhile(*arguments, **named):
        save(MatryoshkaGPT(GPTConfig(5, 4, 8, 2, 1)), out)
        return read_corpus(*arguments, **named)

    monkeypatch.setattr(run, "read_corpus", comes_meanwhile)
    assert "already holds config.json" in refused(capsys, "train", *options)
    assert load(out)[0].config.block_size == 4


def test_the_name_of_a_text_need_not_be_utf8(options, out, tmp_path, capsys):
    name = tmp_path / os.fsdecode(b"caf\xe9.txt")
    name.write_text(TEXT)
    program(*options, "--corpus", name)
    main(["eval", str(out)])
    assert "is no longer the text" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "bad, message",
    [
        (["--steps", "0"], "--steps=0 must"),
        (["--nesting", "4,3"], "argument --nesting: '4,3' must be width,heads,layers"),
        (["--nesting", "8,3,1"], "8,3,1,32 does not fit"),
        (["--nesting", "8,3,2,9/8"], "8,3,2,9/8 does not fit"),
        (["--lr", "1e30"], "--lr=1e+30"),
        (["--corpus", "."], "holds no token files"),
        (["--vocab", "300"], "--vocab=300: only bpe"),
        (["--tokenizer", "bpe", "--vocab", "0"], "--vocab=0"),
        (["--device", "mps"], "--device mps: PyTorch has no such device on this machine\n"),
        (["--device", "meta"], "--device meta: PyTorch has no such device on this machine\n"),
        (["--threads", "x"], "x: allowed are 1 to 1024"),
        (["--threads", "0"], "0: allowed are 1 to 1024"),
        (["--block-size", "999999"], "--block-size=999999"),
        (["--out", "/dev/null/x"], "--out='/dev/null/x'"),
        (["--out", ""], "'' is not a path"),
    ],
)
def test_bad_option_is_one_line(bad, message, options, capsys):
    error = refused(capsys, "train", *options, *bad)
    assert message in error and "Size(" not in error and len(error) < 300, error


def test_the_help_names_the_defaults_of_the_functions(capsys):
    texts = {}
    for command in ("train", "generate"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        texts[command] = " ".join(capsys.readouterr().out.split())
    batch_size = re.search(r"batch_size \((\d+)\)", matgpt.nest.__doc__)[1]
    shares = f"{SHARE}, readouts {READOUTS}; nest: {nesting.SHARE}"
    vocab = [inspect.signature(f).parameters["vocab_size"].default for f in (BPETokenizer.train, prepare)]
    defaults = [f"{Settings.batch_size}; nest: {batch_size}", shares, "{}; data: {}".format(*vocab)]
    defaults += [Settings.optimizer, GPTConfig.block_size, Settings().steps]
    assert all(f"(default: {default})" in texts["train"] for default in defaults)
    assert f"(default: {Settings.seed}; generate: a new text each time)" in texts["train"]
    draft_tokens = inspect.signature(MatryoshkaGPT.generate).parameters["draft_tokens"].default
    assert f"proposals at a time (default: {draft_tokens})" in texts["generate"]


@pytest.mark.parametrize("arguments", ["--help", "train --help", "--version"])
def test_help_does_not_load_pytorch(arguments):
    start = "import atexit, sys, matgpt.__main__ as program; atexit.register(lambda: print(*sys.modules))"
    command = [sys.executable, "-c", f"{start}; program.main({arguments.split()})"]
    *told, modules = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    assert told and not {"torch", "numpy", "matplotlib"} & {*modules.split()}


def test_only_too_little_memory_is_called_that(monkeypatch, capsys):
    monkeypatch.setattr(run, "run_eval", Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory")))
    assert "error: out of memory: choose a smaller model" in refused(capsys, "eval", "folder")
    run.run_eval.side_effect = lambda args: torch.empty(2**50)
    assert "error: out of memory: choose a smaller model" in refused(capsys, "eval", "folder")
    run.run_eval.side_effect = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal"):
        main(["eval", "folder"])


def test_a_run_without_out_is_named_after_its_text_and_dolls(tmp_path):
    (tmp_path / "lr0.01").mkdir()  # a folder has no suffix
    for source, name in (("data/some.txt", "some"), (tmp_path / "lr0.01", "lr0.01")):
        args = SimpleNamespace(command="nest", out=None, nesting=[8, Size(8, 1, 2, (9, 16))], device="cpu")
        run.start(args, source)
        assert args.out == Path("runs", f"{name}-8-8,1,2,9_16")


def test_a_doll_is_sliced_out(tmp_path, capsys):
    model, idx = MatryoshkaGPT(GPTConfig(5, 4, 8, 2, 2, nesting=(4,))).eval(), torch.tensor([[1, 2, 3]])
    save(model, tmp_path / "whole", matgpt.CharTokenizer("abcde"))
    for name, more, read in (("a", [], lambda path: load(path)[0]), ("b", ["--gpt2"], matgpt.import_gpt2)):
        arguments = [*map(str, ["slice", tmp_path / "whole", "--out", tmp_path / name, *more, "--size"])]
        main([*arguments, "4"])
        assert f"4,2,2 with {model.num_params(4)} parameters" in capsys.readouterr().out
        torch.testing.assert_close(read(tmp_path / name)(idx), model(idx, 4), rtol=1e-4, atol=1e-5)
        assert "pass --force" in refused(capsys, *arguments, 8)
        main(["generate", str(tmp_path / name), "--tokens", "5"])  # after the first character
        assert re.fullmatch("a[a-e]{5}\n", capsys.readouterr().out)
        assert "without --draft-size" in refused(capsys, "generate", tmp_path / name, "--draft-tokens", 2)
    error = refused(capsys, *arguments, 3)
    assert error.endswith("--size=3 names no doll: the nesting is 4,2,2,16, 8,2,2,32\n")
    main([*arguments, "4,1,1", "--force"])
    assert re.fullmatch(r"warning: .*[ (]4,1,1.*\n", capsys.readouterr().err)


def test_corpus_nesting_and_folder_have_defaults_and_flops_may_be_the_budget(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("python-docs").write_text("a file of this name is not what is read")
    program("--flops", 1e7, "--eval-blocks", 1, "--batch-size", 1)
    assert "saved in runs/python-docs-32-64-128" in capsys.readouterr().out
    assert History.load("runs/python-docs-32-64-128/history.json").spent >= 1e7
    assert load("runs/python-docs-32-64-128")[0].sizes[0] == Size(32, 4, 4)
    assert json.loads(Path("runs/python-docs-32-64-128/history.json").read_text())["corpus"] == "python-docs"
