"""The program: what it prints and leaves, what it refuses to replace, and what it says of bad options."""

import inspect
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import matgpt
import matgpt.commands.train as command
from matgpt import GPTConfig, History, MatryoshkaGPT, Size, load, nest, save, split, train
from matgpt.__main__ import main
from matgpt.commands.parser import Parser

LOSSES = "".join(rf"  {size}: \d\.\d{{4}} \(\d\.\d{{4}}\)" for size in ("4,1,2", "8,1,1,9", "8,1,2"))
TEXT = "".join("the dolls stand one inside another, "[i % 36] + " \n"[i % 7 == 0] for i in range(2500))
ROOT = Path(__file__).parent.parent


def program(*arguments):
    main(["train", *map(str, arguments)])


def refused(capsys, *arguments, by="train"):
    """The line that the program ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([by, *map(str, arguments)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith("python -m matgpt") and error.count("\n") == 1, error
    return error


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".matgpt-lock"}


def states(folder):
    return [path.name[:13] for path in sorted(folder.glob("step-*"))]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def options(tmp_path, out):
    (tmp_path / "text").write_text(TEXT)
    return [
        *f"--corpus {tmp_path / 'text'} --nesting 4 8,1,1,9 8 --n-layer 2 --block-size 8 --batch-size 4 "
        f"--steps 20 --eval-interval 10 --eval-blocks 1000 --out {out}".split()
    ]


# ---- a run


@pytest.mark.slow
def test_a_run(options, out, capsys):
    program(*options)
    *_, first, middle, last, smallest, _, largest, end = capsys.readouterr().out.splitlines()
    loss = r"FLOPs, validation \(training\) loss"
    assert re.fullmatch(rf"step 0/20, 0.00e\+00 {loss}{LOSSES}", first)
    assert re.fullmatch(rf"step 20/20, \d\.\d\de\+\d\d {loss}{LOSSES}  00:00 left", last)
    assert smallest.startswith("4,1,2 writes: ") and largest.startswith("8,1,2 writes: ")
    assert end == f"saved in {out}"
    model, tokenizer = load(out)
    assert model.sizes == (Size(4, 1, 2), Size(8, 1, 1, 9), Size(8, 1, 2)) and tokenizer.decode([0]) == "\n"
    history = History.load(out / "history.json")
    assert history.steps == [0, 10, 20]
    val_ids = split(tokenizer.encode(TEXT))[1]
    assert matgpt.evaluate(model, val_ids, 4) == pytest.approx(history.val[4][-1], abs=1e-6)
    assert (out / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert states(out) == ["step-00000020"]  # enough to extend the run
    main(["eval", str(out)])
    name, *rows = [line.split() for line in capsys.readouterr().out.splitlines()][1:]
    assert name[0] == "doll" and [row[0] for row in rows] == ["4,1,2", "8,1,1,9", "8,1,2"]
    assert float(rows[0][-1]) == pytest.approx(history.val[4][-1], abs=1e-4)


@pytest.mark.slow
def test_a_budget_of_flops_and_bits_per_byte(options, out, capsys):
    at = options.index("--steps")
    del options[at : at + 2]
    program(*options, "--flops", "1e7", "--tokenizer", "bpe", "--vocab", 270)
    printed = capsys.readouterr().out
    assert re.search(rf"\nstep \d+, 1\.\d\de\+07 FLOPs, .*{LOSSES}  00:00 left\n", printed)
    history, (_, tokenizer) = History.load(out / "history.json"), load(out)
    assert history.spent >= 1e7
    val_ids = split(tokenizer.encode(TEXT))[1]
    bits = history.val[4][-1] / math.log(2) * len(val_ids) / len(tokenizer.decode_bytes(val_ids))
    assert f"bits per byte  4,1,2: {bits:.3f}  " in printed


def test_every_option_reaches_the_run(options, out, monkeypatch):
    heard = {}

    def fake(model, train_ids, val_ids, **settings):
        heard.update(settings, model=model)
        raise KeyboardInterrupt

    fake.__signature__ = inspect.signature(train)
    monkeypatch.setattr(command, "train", fake)
    given = dict(lr=1e-3, share=0.1, seed=3, optimizer="adamw", dtype="bfloat16", threads=1, eval_blocks=5)
    more = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    more += ["--variant=embeddings", "--dropout=0.1", "--tokenizer=bpe", "--vocab=300", "--resume"]
    with pytest.raises(SystemExit, match="interrupted"):
        program(*options, *more, "--loss-weights", 1, 0, 2)
    model, given = heard["model"], given | dict(loss_weights=[1, 0, 2], resume=True, steps=20, batch_size=4)
    assert {name: heard[name] for name in given} == given
    assert type(model) is matgpt.MatryoshkaEmbeddingsGPT and model.config.dropout == 0.1
    assert 256 < model.config.vocab_size <= 300 and "warmup" not in heard


def test_the_folder_of_a_run_is_named_by_corpus_and_nesting(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    at = options.index("--out")
    program(*options[:at], "--steps", 1)
    assert load("runs/text-4-8,1,1,9-8")[0].config.n_embd == 8


# ---- what --out may lose


@pytest.mark.slow
def test_interrupted_and_resumed(options, tmp_path, out, capsys, monkeypatch):
    """The model that an interrupted run left is its own to replace."""

    def interrupt(log, history):
        raise KeyboardInterrupt

    program(*options[:-1], tmp_path / "whole")
    with monkeypatch.context() as context:
        context.setattr(command.Log, "__call__", interrupt)
        program(*options)
    assert "interrupted: --resume goes on" in capsys.readouterr().out
    program(*options, "--resume")
    assert "saved in" in capsys.readouterr().out
    models = [load(folder)[0] for folder in (tmp_path / "whole", out)]
    assert all(map(torch.equal, *(model.parameters() for model in models)))


@pytest.mark.slow
def test_a_finished_run_is_extended_or_replaced(options, out, capsys):
    program(*options)
    before = contents(out)
    for more in ([], ["--force", "--lr", "-1"]):  # forced or not, what begins nothing replaces nothing
        error = refused(capsys, *options, *more)
        assert contents(out) == before
    assert "--lr=-1" in error
    error = refused(capsys, *options)
    assert "already holds" in error and "--resume" in error and "--force" in error
    program(*options, "--resume")
    assert "this run was finished already" in capsys.readouterr().out and contents(out) == before
    program(*options, "--resume", "--steps", 40)
    assert History.load(out / "history.json").steps == [0, 10, 20, 30, 40]
    assert states(out) == ["step-00000040"]
    program(*options, "--force", "--n-head", 2)
    assert load(out)[0].config.n_head == 2 and states(out) == ["step-00000020"]
    assert not list(out.glob("*.old"))
    next(out.glob("step-*")).unlink()
    assert "that run is finished, and its state is gone" in refused(capsys, *options, "--resume")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["nest", "save"])
def test_resume_does_not_replace_another_model(way, options, tmp_path, out, capsys):
    program(*options)
    if way == "nest":
        shape = ["--nesting", "6", "--corpus", tmp_path / "text", "--steps", 1, "--batch-size", 4]
        main(["nest", *map(str, [out, *shape, "--out", out, "--force"])])
    else:
        tokenizer = load(out)[1]
        save(MatryoshkaGPT(GPTConfig(tokenizer.vocab_size, 4, 6, 1, 1)), out, tokenizer, overwrite=True)
    before = contents(out)
    assert "did not write" in refused(capsys, *options, "--resume", "--steps", 40)
    assert contents(out) == before
    program(*options, "--resume", "--steps", 40, "--force")
    assert load(out)[0].sizes[0] == Size(4, 1, 2)


@pytest.mark.parametrize("name", ["config.json", "history.json", "losses.png", "step-500.pt"])
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_files_of_the_user_stay(name, resume, options, out, capsys):
    """A file named nearly as a state is not one, so the model beside it is that of another run."""
    save(MatryoshkaGPT(GPTConfig(5, 4, 8, 2, 1)), out)
    (out / name).write_text("mine")
    before = contents(out)
    assert "already holds" in refused(capsys, *options, *resume)
    assert contents(out) == before
    program(*options, "--steps", 1, "--force")
    assert load(out)[0].config.block_size == 8


# ---- what it says


@pytest.mark.parametrize(
    "bad, message",
    [
        (["--steps", "0"], "--steps=0 must"),
        (["--steps", "x"], "'x'"),
        (["--nesting", "4,3"], "argument --nesting: '4,3' "),
        (["--nesting", "8,3,1"], "--n-head=3"),
        (["--nesting", "4", "16,1,1", "--n-embd", "8"], "16,1,1"),
        (["--batch-size", 10**20], f"--batch-size={10**20} must"),
        (["--lr", "1e30"], "--lr=1e+30"),
        (["--share", "2"], "--share=2"),
        (["--loss-weights", "1"], "--loss-weights"),
        (["--flops", "1e9"], "give one budget"),
        (["--threads", "0"], "--threads 0"),
        (["--corpus", "."], "tokenizer.json"),
        (["--device", "mps"], "--device mps: PyTorch has no such device on this machine\n"),
        (["--tokenizer", "bpe", "--vocab", "3"], "--vocab=3"),
        (["--block-size", "999999"], "--block-size=999999"),
        (["--out", "/dev/null/x"], "--out='/dev/null/x'"),
        (["--out", ""], "'' names no folder"),
    ],
)
def test_bad_option_is_one_line(bad, message, options, capsys):
    error = refused(capsys, *options, *bad)
    assert message in error and "Size(" not in error and len(error) < 300, error


@pytest.mark.parametrize("function", [train, nest])
def test_the_help_names_the_defaults_of_the_functions(function, capsys):
    with pytest.raises(SystemExit):
        main([function.__name__, "--help"])
    text = capsys.readouterr().out
    for name in ("batch_size", "seed", "share", *(["optimizer"] if function is train else ["eval_blocks"])):
        default = inspect.signature(function).parameters[name].default
        assert re.search(rf"--{name.replace('_', '-')} [^(]*\(default:\s+{default}\)", text), name


def test_help_does_not_load_pytorch():
    code = (
        "import sys, runpy\n"
        "sys.argv = ['matgpt', *sys.argv[1:]]\n"
        "try: runpy.run_module('matgpt', run_name='__main__')\n"
        "finally: assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    for arguments in (["--help"], ["train", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stdout, done.stderr


def test_only_too_little_memory_is_called_that(capsys):
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        with pytest.raises(SystemExit), Parser(prog="p").one_line():
            raise error
        assert capsys.readouterr().err.startswith("p: error: out of memory: choose a smaller model")
    with pytest.raises(RuntimeError, match="illegal"), Parser(prog="p").one_line():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


# ---- slice


def test_a_doll_is_sliced_out(tmp_path, capsys, monkeypatch):
    model, idx = MatryoshkaGPT(GPTConfig(5, 4, 8, 2, 2, nesting=(4,))).eval(), torch.tensor([[1, 2, 3]])
    save(model, tmp_path / "whole")
    for name, more, read in (("a", [], lambda path: load(path)[0]), ("b", ["--gpt2"], matgpt.import_gpt2)):
        arguments = [tmp_path / "whole", "--out", tmp_path / name, *more, "--size"]
        main(["slice", *map(str, arguments), "4"])
        assert f"4,2,2 with {model.num_params(4)} parameters" in capsys.readouterr().out
        torch.testing.assert_close(read(tmp_path / name)(idx), model(idx, 4), rtol=1e-4, atol=1e-5)
        assert "or --force" in refused(capsys, *arguments, 8, by="slice")
    assert refused(capsys, *arguments, 3, by="slice").endswith(
        "--size=3 names no doll: the nesting is 4,2,2, 8,2,2\n"
    )
    show = lambda *warning: sys.stderr.write(warnings.formatwarning(*warning[:4]))
    monkeypatch.setattr(warnings, "showwarning", show)
    main(["slice", *map(str, arguments), "4,1,1", "--force"])
    assert re.fullmatch(r"warning: .*[ (]4,1,1.*\n", capsys.readouterr().err)
