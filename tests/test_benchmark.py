"""What the benchmarks promise: finished runs are kept, both sides are tuned alike, and pay the same price."""

import argparse
import math

import numpy as np
import pytest

from matgpt import CharTokenizer, DivergedError, GPTConfig, MatryoshkaGPT, Size, save
from matgpt.benchmarks import anywhere, generate, quality, speed
from matgpt.text import token_files
from matgpt.training import loss
from matgpt.training.run import Run

IDS = np.array([0, 1, 2, 3] * 40)
CONFIG = GPTConfig(4, 8, 8, 2, 2, nesting=(4,))


@pytest.fixture
def args(tmp_path):
    parser = argparse.ArgumentParser()
    quality.add_arguments(parser)
    return parser.parse_args(["--out", str(tmp_path), "--budget", "2", "--seeds", "0", "1"])


@pytest.mark.slow
def test_a_finished_run_is_kept_and_another_setting_or_text_is_another_run(args, monkeypatch):
    ran, train = [], quality.train
    monkeypatch.setattr(
        quality, "train", lambda *a, **settings: (ran.append(settings), train(*a, **settings))[1]
    )
    bench, settings = quality.Bench(args, IDS, IDS), dict(lr=0.01, batch_size=2, steps=2)
    first = bench.one(CONFIG, 0, **settings)
    assert set(first["losses"]) == {str(size) for size in CONFIG.sizes} and first["tokens"] == 2 * 2 * 8
    assert bench.one(CONFIG, 0, **settings) == first and len(ran) == 1
    bench.one(CONFIG, 1, **settings)
    bench.one(CONFIG, 0, **{**settings, "lr": 0.02})
    bench.one(CONFIG.doll(4), 0, **settings)
    other = quality.Bench(args, IDS[::-1], IDS)  # as long, and read the other way round
    assert other.one(CONFIG, 0, **settings)["losses"] != first["losses"] and len(ran) == 5
    args.optimizer = "adamw"
    bench.one(CONFIG, 0, **settings)
    args.dtype = "bfloat16"
    bench.one(CONFIG, 0, **settings)
    assert len(ran) == 7 and ran[-1]["dtype"] == "bfloat16"
    assert all("dtype" not in settings for settings in ran[:-1]), "what is kept without one stays kept"


@pytest.mark.slow
def test_a_run_that_was_stopped_is_no_result_and_goes_on_where_it_was(args, tmp_path, monkeypatch):
    settings, stops, step = dict(lr=0.01, batch_size=2, steps=5), [2], Run.step
    whole = quality.Bench(args, IDS, IDS).one(CONFIG, 0, **settings)
    args.out, taken = str(tmp_path / "stopped"), []

    def stopped(run):
        if run.done in stops:
            raise KeyboardInterrupt  # as by Ctrl-C
        step(run)
        taken.append(run.done)

    monkeypatch.setattr(Run, "step", stopped)
    for budget in (settings, {**settings, "steps": None, "flops": 1e6}):
        stops, taken = [2], []
        with pytest.raises(KeyboardInterrupt):
            quality.Bench(args, IDS, IDS).one(CONFIG, 0, **budget)
        stops = []
        found = quality.Bench(args, IDS, IDS).one(CONFIG, 0, **budget)
        assert taken == list(range(1, len(taken) + 1)) and len(taken) > 2, "no step was taken twice"
        assert budget["steps"] is None or found["losses"] == whole["losses"]
    left = list((tmp_path / "stopped" / "runs").iterdir())
    assert len(left) == 2 and all(path.suffix == ".json" for path in left), "its state goes with the result"


def test_the_search_follows_the_better_neighbour_and_runs_all_seeds_there(args, monkeypatch):
    ran = []

    def one(self, config, seed, lr, batch_size, **budget):
        ran.append((lr, batch_size, seed))
        loss = abs(math.log(lr / 0.128 / 4)) + abs(batch_size - 8) / 10
        return {"losses": {str(config.full): loss + seed}}

    monkeypatch.setattr(quality.Bench, "one", one)
    found = quality.Bench(args, IDS, IDS).tune(CONFIG.doll(8), [1, 2, 4, 8], [4, 8, 12, 16], flops=1.0)
    assert (found["lr"], found["batch_size"]) == (0.512, 8) and len(found["runs"]) == 2
    assert {(lr, size) for lr, size, seed in ran if seed == 1} == {(0.512, 8)}
    assert len({(lr, size) for lr, size, _ in ran}) < 16, "not the whole grid"


def test_a_rate_that_diverges_is_never_the_best(args, monkeypatch):
    def train(model, *data, lr, **settings):
        raise DivergedError("not finite", None)

    monkeypatch.setattr(quality, "train", train)
    losses = quality.Bench(args, IDS, IDS).one(CONFIG, 0, lr=1.0, batch_size=2, steps=2)["losses"]
    assert set(losses.values()) == {math.inf}


@pytest.mark.slow
def test_the_step_that_the_budget_counts_is_that_of_the_full_model_alone(args):
    args.batch_size, args.optimizer = 3, "adamw"
    V, T, D, L = 4, 8, 8, 2
    products = V * D + L * (4 * D * D + 8 * D * D + 2 * D * T)  # as in PaLM, appendix B
    passes = 3 * 2 * products * 3 * T
    config = CONFIG.doll(CONFIG.full)
    assert quality.Bench(args, IDS, IDS).step_flops(config) == passes + 15 * config.num_params()


@pytest.mark.slow
def test_the_table_pays_the_same_price_on_both_sides(args, tmp_path, monkeypatch):
    text = "to be or not to be, that is the question. " * 40
    monkeypatch.setattr(token_files, "load_text", lambda name: text)
    shape = dict(block_size=8, n_embd=[8], n_head=2, n_layer=2, nesting=["4,1,1"], batch_size=2, budget=30)
    vars(args).update(shape, rates=[1], batches=[2])
    quality.run(args)
    table = (tmp_path / "quality-muon-8-30.md").read_text(encoding="utf-8")
    assert "nats per token, mean" in table
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ")]
    header, _, small, full = [[cell.strip() for cell in row] for row in rows]
    assert [small[0], full[0]] == [str(Size(4, 1, 1)), "8,2,2"]
    assert (tmp_path / "quality-muon-8-30.png").exists() and not (tmp_path / "scale-muon.png").exists()
    price = header.index("price alone")
    assert float(small[price]) < 0.5 and float(full[price]) == pytest.approx(1, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", [quality, speed])
def test_nesting_names_what_is_no_size(args, monkeypatch, name):
    monkeypatch.setattr(token_files, "load_text", lambda name: "to be or not to be, that is it. " * 40)
    vars(args).update(block_size=8, n_embd=8 if name is speed else [8], n_head=2, n_layer=2)
    vars(args).update(nesting=["4,1,1", "32"], batch_size=2, vocab_size=5, quick=False, rounds=1)
    with pytest.raises(ValueError, match="'32' is no size"):
        name.run(args)


def test_several_widths_take_dolls_budget_and_the_best_rate_in_proportion(args, tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "load_text", lambda name: "to be or not to be, that is it. " * 40)
    monkeypatch.setattr(quality, "read_corpus", lambda name: token_files.read_corpus(name, "bpe", 260))
    shape = dict(block_size=8, n_embd=[8, 16], n_head=2, n_layer=1, nesting=["4,1,1"], batch_size=2)
    vars(args).update(shape, rates=[0.5, 1, 2], batches=[1, 2], budget=10, seeds=[0])
    vars(args).update(no_twins=True, dtype="bfloat16")
    one, ran = quality.Bench.one, []

    def noted(self, config, seed, **settings):
        ran.append((config, settings))
        return one(self, config, seed, **settings)

    monkeypatch.setattr(quality.Bench, "one", noted)
    quality.run(args)
    wide = [(config, settings) for config, settings in ran if config.n_embd == 16]
    assert {config.sizes for config, _ in wide} == {(Size(16, 2, 1),), (Size(8, 1, 1), Size(16, 2, 1))}
    assert len({(s["lr"], s["batch_size"]) for config, s in ran if config.n_embd == 8}) > 3
    for n in (1, 2):  # alone, nested: one cell each
        (chosen,) = {(s["lr"], s["batch_size"]) for config, s in wide if len(config.sizes) == n}
        assert (2 * chosen[0], chosen[1]) in {(s["lr"], s["batch_size"]) for _, s in ran}
    (large,), (small,) = ({s["flops"] for config, s in ran if config.n_embd == D} for D in (16, 8))
    bench, narrow, broad = quality.Bench(args, IDS, IDS), ran[0][0], wide[0][0]
    ratio = broad.num_params() / narrow.num_params()
    assert large == pytest.approx(10 * ratio * bench.step_flops(broad)) and small == 10 * bench.step_flops(
        narrow
    )
    assert (tmp_path / "scale-muon-bfloat16.png").exists()
    assert "\n| 16,2,1 | " in (tmp_path / "scale-muon-bfloat16.md").read_text(encoding="utf-8")
    tables = [
        path.read_text(encoding="utf-8") for path in sorted(tmp_path.glob("quality-muon-bfloat16-*.md"))
    ]
    assert len(tables) == 2 and all("bits per byte), mean" in table for table in tables)


@pytest.mark.slow
def test_speed_has_a_row_for_each_step_and_each_doll(tmp_path, monkeypatch):
    dtypes, precision = {"passes": [], "moves, and peers": []}, loss.precision
    for module, what in ((loss, "passes"), (speed, "moves, and peers")):
        look = lambda device, dtype, what=what: dtypes[what].append(dtype) or precision(device, dtype)
        monkeypatch.setattr(module, "precision", look)
    (tmp_path / "model.py").write_text(NANO)
    parser = argparse.ArgumentParser()
    speed.add_arguments(parser)
    shape = "--n-embd 16 --n-head 4 --n-layer 4 --block-size 12 --batch-size 8 --vocab-size 7 --quick"
    folders = ["--nanogpt", str(tmp_path), "--out", str(tmp_path), "--dtype", "bfloat16"]
    speed.run(parser.parse_args([*shape.split(), *folders]))
    rows = [line.split(" | ") for line in (tmp_path / "speed-bfloat16.md").read_text().splitlines()]
    rows = {row[0].strip("| "): row[1:] for row in rows if len(row) > 1}
    assert rows["nanoGPT, AdamW"][1] == "1.00" and float(rows["transformers, AdamW"][1]) > 0
    for kind in ("adamw", "muon"):
        assert rows[f"plain, {kind}"][2:4] == ["1.00", "1.00"]
        drawn, whole = (rows[f"family, {kind}, {when}"] for when in WHEN)
        assert 1 < float(drawn[3]) < float(whole[3]) < 2
    assert {"4,1,1", "8,2,2", "12,3,3", "16,4,4"} < set(rows)
    every = sum(dtypes.values(), [])
    assert set(every) == {"bfloat16"} and len(dtypes["passes"]) > 66
    # 7 rounds of 6 steps and 2 peers, and for the memory of each of the 6 two more of it and of its plain one
    assert len(dtypes["moves, and peers"]) == 7 * (6 + 2) + 6 * 4


@pytest.mark.slow
def test_generate_has_a_row_for_each_doll_and_for_each_that_drafts(tmp_path):
    text = "to be or not to be, that is the question. " * 40
    (tmp_path / "text.txt").write_text(text)
    tokenizer, shape = CharTokenizer.from_text(text), dict(block_size=16, n_embd=8, n_head=2, n_layer=2)
    for name, nesting in (("model", [4]), ("other", [2, 4])):
        save(
            MatryoshkaGPT(GPTConfig(tokenizer.vocab_size, **shape, nesting=nesting)),
            tmp_path / name,
            tokenizer,
        )
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    options = ["--corpus", str(tmp_path / "text.txt"), "--quick", "--out", str(tmp_path)]
    options += ["--model", str(tmp_path / "model"), "--draft-model", str(tmp_path / "other")]
    generate.run(parser.parse_args(options))
    table = (tmp_path / "generate.md").read_text(encoding="utf-8")
    first = [line.split(" | ")[0].strip("| ") for line in table.splitlines() if line.startswith("| ")]
    own, drafting = ["4,2,2", "8,2,2"], ["2,2,2", "4,2,2", "8,2,2"]
    assert first == ["doll", "---", *own, "draft", "---", *(d for d in drafting for _ in range(2))]
    save(MatryoshkaGPT(GPTConfig(9, **shape)), tmp_path / "bare")
    with pytest.raises(ValueError, match="bare holds no tokenizer"):
        generate.run(parser.parse_args([*options, "--model", str(tmp_path / "bare")]))


NANO = """
import torch
class GPTConfig:
    def __init__(self, **settings): vars(self).update(settings)
class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        assert config.n_embd == 16 and config.block_size == 12 and config.vocab_size == 7
        self.table = torch.nn.Embedding(7, 7)
    def forward(self, idx, targets):
        logits = self.table(idx)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    def configure_optimizers(self, decay, lr, betas, device): return torch.optim.AdamW(self.parameters())
"""
WHEN = "in the middle of a run", "all dolls on a whole batch"


def test_a_size_without_a_name_is_held_against_the_line_between_its_neighbours():
    named, between = (Size(8, 1, 1), Size(16, 2, 2)), (Size(8, 2, 1), Size(12, 1, 2))
    flops = dict(zip((*named, *between), (1, 100, 10, 31.6227766)))
    losses = dict(zip((*named, *between), ([3.0, 3.2], [2.1], [2.6], [2.3, 2.5])))
    found = anywhere.above_the_line(flops, losses, between, named)
    assert found == pytest.approx({between[0]: 0.0, between[1]: 0.05})


@pytest.mark.slow
def test_a_range_stands_beside_a_nesting_of_its_names(tmp_path, monkeypatch):
    text = "to be or not to be, that is the question. " * 40
    monkeypatch.setattr(token_files, "load_text", lambda name: text)
    parser = argparse.ArgumentParser()
    anywhere.add_arguments(parser)
    options = "--between 8,1,1 16,2,2 --block-size 8 --batch 4 --budget 20 --seeds 0 --held 4 --out"
    anywhere.run(parser.parse_args([*options.split(), str(tmp_path)]))
    table = (tmp_path / "anywhere-muon-20.md").read_text(encoding="utf-8")
    assert "validation loss, nats per token.\n" in table
    rows = [line for line in table.splitlines() if line.startswith("| ") and line[2] in "*0123456789"]
    named = [line for line in rows if line.startswith("| **")]
    assert len(rows) == len(named) + 4 and "| **8,1,1** |" in table and "| **16,2,2** |" in table
    assert all("+0.000" in line or "-0.000" in line for line in named), "they are the line"
    assert (tmp_path / "anywhere-muon-20.png").exists() and len(list((tmp_path / "runs").iterdir())) == 2
