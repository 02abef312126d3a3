"""What the benchmarks promise: finished runs are stored, all models are tuned alike and pay one price."""

import argparse
import math
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest

from matgpt import CharTokenizer, DivergedError, GPTConfig, MatryoshkaGPT, Size, save
from matgpt.benchmarks import common, generate, quality, speed
from matgpt.measure.shapes import flops_per_token
from matgpt.text import token_files
from matgpt.training.cost import step_flops

from .conftest import assert_refused

IDS = np.array([0, 1, 2, 3] * 40)
CONFIG = GPTConfig(4, 8, 8, 2, 2, nesting=(4,))
TEXT = "to be or not to be, that is the question. " * 40


def parsed(module, *options):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args([*map(str, options)])


@pytest.fixture
def args(tmp_path):
    return parsed(quality, "--out", tmp_path, "--budget", 2, "--seeds", 0, 1)


def test_the_first_round_does_not_count(monkeypatch):
    monkeypatch.setattr(common, "in_turn", lambda calls, rounds: {"a": [9.0, 1.0, 2.0]})
    assert common.medians({"a": print}, 2) == {"a": 1.5}


@pytest.mark.slow
def test_a_finished_run_is_stored_and_another_setting_or_text_is_another_run(args, monkeypatch):
    train = Mock(side_effect=quality.train)
    monkeypatch.setattr(quality, "train", train)
    bench, settings = quality.Bench(args, IDS, IDS), dict(lr=0.01, batch_size=2, steps=2)
    first = bench.one(CONFIG, 0, **settings)
    assert set(first["losses"]) == {str(size) for size in CONFIG.sizes}
    assert bench.one(CONFIG, 0, **settings) == first and train.call_count == 1
    bench.one(CONFIG, 1, **settings)
    bench.one(CONFIG, 0, **{**settings, "lr": 0.02})
    bench.one(CONFIG.doll(4), 0, **settings)
    other = quality.Bench(args, IDS[::-1], IDS)  # the same length, read in the other direction
    assert other.one(CONFIG, 0, **settings)["losses"] != first["losses"] and train.call_count == 5
    monkeypatch.setattr(common, "FORMAT", "another default schedule")
    bench.one(CONFIG, 0, **settings)
    assert train.call_count == 6


@pytest.mark.slow
def test_an_interrupted_run_resumes_and_leaves_a_result_only_when_finished(args, tmp_path, monkeypatch):
    settings, train = dict(lr=0.01, batch_size=2, steps=5), quality.train
    whole = quality.Bench(args, IDS, IDS).one(CONFIG, 0, **settings)
    args.out = str(tmp_path / "stopped")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # as by Ctrl-C
        patch.setattr(quality, "train", partial(train, on_evaluation=Mock(side_effect=KeyboardInterrupt)))
        quality.Bench(args, IDS, IDS).one(CONFIG, 0, **settings)
    assert not list((tmp_path / "stopped" / "runs").glob("*.json"))
    resumed = quality.Bench(args, IDS, IDS).one(CONFIG, 0, **settings)
    assert resumed["losses"] == whole["losses"]
    assert whole["seconds"] > 0 and math.isnan(resumed["seconds"]), "the time before is not known"


def test_every_rate_and_batch_is_tried_once_and_all_seeds_run_at_the_best(args, monkeypatch):
    ran = []

    def one(self, config, seed, lr, batch_size, **budget):
        ran.append((lr, batch_size, seed))
        return {"losses": {str(config.full): abs(math.log(lr / 0.512)) + abs(batch_size - 8) / 10 + seed}}

    monkeypatch.setattr(quality.Bench, "one", one)
    args.rates, args.batches = [1, 4, 2], [4, 8]
    quality.Bench(args, IDS, IDS).tune(CONFIG.doll(8), flops=1.0)
    assert len(ran) == len(set(ran)) == 7 and [run for run in ran if run[2] == 1] == [(0.512, 8, 1)]


def test_a_rate_that_diverges_is_never_the_best(args, monkeypatch):
    monkeypatch.setattr(quality, "train", Mock(side_effect=DivergedError("not finite")))
    losses = quality.Bench(args, IDS, IDS).one(CONFIG, 0, lr=1.0, batch_size=2, steps=2)["losses"]
    assert set(losses.values()) == {math.inf}


@pytest.mark.slow
def test_every_family_pays_the_same_price(args, tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "load_text", lambda name: TEXT)
    shape = dict(block_size=8, n_embd=16, n_head=2, n_layer=2, nesting=["12,1,1"], batch_size=2, budget=240)
    vars(args).update(shape, rates=[1], batches=[8], apart=True, twins=True, shares=[0.1, 0.3], held=4)
    quality.run(args)
    table = (tmp_path / "quality-shakespeare-muon-12,1,1-16,2,2-8-240.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line]
    header, _, small, full, price, *_ = rows
    assert header[2:] == ["alone", "nested, share 0.1", "nested, share 0.3", "apart", "twins"]
    assert [small[0], full[0], price[0]] == ["12,1,1", "16,2,2", "price"] and small[2] == ""
    assert [float(cell) for cell in price[2:6]] == pytest.approx([1] * 4, abs=0.06)
    assert 0.6 < float(price[6]) < 1, "as many tokens in larger batches take fewer steps of the optimizer"
    assert "nats per token, mean" in table and "A range: " in table and "silent units" in table
    figures = {path.name for path in tmp_path.glob("*.png")}
    assert figures == {f"{front}quality-shakespeare-muon-12,1,1-16,2,2-8-240.png" for front in ("", "front-")}


def test_a_range_is_compared_with_the_line_over_flops_whatever_the_order_of_the_dolls():
    config = GPTConfig(4, 64, 16, 4, 8, [Size(4, 1, 8), Size(8, 2, 2)])  # the first takes more FLOPs
    held = Size(4, 1, 7)
    losses = {size: -math.log(flops_per_token(config, size)) for size in (*config.sizes, held)}
    nested = {size: [losses[size]] for size in config.sizes}
    text = quality.above_the_line(config, nested, [{"also": [held], "losses": {str(held): losses[held] + 1}}])
    assert "lie +1.000 above" in text


def test_a_run_that_diverged_has_a_mean_without_a_deviation():
    assert common.mean_sd([1.0, 2.0]) == "1.500 ± 0.707" and common.mean_sd([1.0, math.inf]) == "inf"


def test_the_price_is_that_of_steps_of_the_full_model_alone_or_of_tokens_a_parameter(args, monkeypatch):
    prices = []
    monkeypatch.setattr(quality.Bench, "tune", lambda self, config, flops, **settings: prices.append(flops))
    args.batch_size, args.optimizer = 3, "adamw"
    step, tokens = step_flops(CONFIG, 3, "adamw"), 3 * CONFIG.block_size
    for ratio, steps in ((None, args.budget), (0.5, 0.5 * CONFIG.num_params() / tokens)):
        args.ratio = ratio
        quality.Bench(args, IDS, IDS).compare(CONFIG)
        assert prices.pop() == prices.pop() == pytest.approx(steps * step)


def test_silent_units_are_counted():
    model = MatryoshkaGPT(CONFIG)
    model.blocks[1].feedforward.expand.bias.data[:24] = -1e6  # of 32
    model.blocks[1].feedforward.expand.bias.data[24:] = 1e6
    assert quality.silent(model, IDS) == 0.75


@pytest.mark.slow
def test_speed_has_a_row_for_each_step(tmp_path):
    (tmp_path / "model.py").write_text(NANO)
    shape = "--n-embd 16 --n-head 4 --n-layer 4 --block-size 12 --batch-size 8 --rounds 2"
    folders = ["--nanogpt", tmp_path, "--out", tmp_path, "--dtype", "bfloat16"]
    speed.run(parsed(speed, *shape.split(), *folders))
    lines = (tmp_path / "speed-bfloat16.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if "|" in line]
    rows = {row[1]: row[2:-1] for row in cells}
    assert rows["nanoGPT, AdamW"][1] == "1.00"
    for kind in ("adamw", "muon"):
        assert rows[f"plain, {kind}"][2:] == ["1.00", "1.00"]
        drawn = float(rows[f"family, {kind}, as train draws it"][3])
        assert 1 < drawn < float(rows[f"family, {kind}, all dolls on a whole batch"][3]) < 2


@pytest.mark.slow
def test_generate_has_a_row_for_each_doll_and_for_each_that_drafts(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    tokenizer, shape = CharTokenizer.from_text(TEXT), dict(block_size=16, n_embd=8, n_head=2, n_layer=2)
    for name, nesting in (("model", [4]), ("other", [2, 4])):
        config = GPTConfig(tokenizer.vocab_size, **shape, nesting=nesting)
        save(MatryoshkaGPT(config), tmp_path / name, tokenizer)
    options = ["--corpus", tmp_path / "text.txt", "--quick", "--out", tmp_path]
    options += ["--draft-model", tmp_path / "other", "--model"]
    generate.run(parsed(generate, *options, tmp_path / "model"))
    table = (tmp_path / "generate.md").read_text(encoding="utf-8")
    first = [line.split(" | ")[0].strip("| ") for line in table.splitlines() if line.startswith("| ")]
    drafting = ["2,2,2"] * 2 + ["4,2,2"] * 2 + ["8,2,2"] * 2
    assert first == ["doll", "---", "4,2,2", "8,2,2", "draft", "---", *drafting]
    save(MatryoshkaGPT(GPTConfig(9, **shape)), tmp_path / "bare")
    assert_refused("bare holds no tokenizer", generate.run, parsed(generate, *options, tmp_path / "bare"))


NANO = """
import torch
class GPTConfig:
    def __init__(self, **settings): vars(self).update(settings)
class GPT(torch.nn.Embedding):
    def __init__(self, config):
        assert config.n_embd == 16 and config.block_size == 12 and config.vocab_size == 65
        super().__init__(65, 65)
    def forward(self, idx, targets):
        logits = super().forward(idx)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    def configure_optimizers(self, decay, lr, betas, device): return torch.optim.AdamW(self.parameters())
"""
