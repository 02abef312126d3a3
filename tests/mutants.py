"""Does a test notice? One-line mutants of the package, each of which must turn a test red.

    python tests/mutants.py [SUBSTRING ...]    # those whose line here holds all of the substrings; else all

Each is a fragment that stands once in its file, what takes its place, and the tests that should notice: files
of tests/ by their short names, with `pytest -k` behind a colon. A mutant lives in a copy of the package and
its tests; a process of its own runs the tests until one fails. Needs a system that can fork.

Besides caught and SURVIVED: "ran on", which counts as caught; BROKEN, a mutant that no test could import, or
whose words no test has; BLIND, where tests fail without it.
"""

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 150  # seconds of computing, not of the clock; a mutant that makes tests run for ever is noticed
JOBS = 2

MUTANTS = [
    # ---- the idea
    ("attention", "is_causal=True", "is_causal=False", "model:future"),
    ("attention", "self.dropout.p if self.training else 0.0", "0.0", "model:dropout"),
    ("attention", "if self.training else 0.0", "if self else 0.0", "model:dropout"),
    ("attention", "return self.dropout(self.proj(", "return (self.proj(", "model:dropout"),
    ("feedforward", "return self.dropout(self.proj(", "return (self.proj(", "model:dropout"),
    (
        "model",
        "self.dropout(self.embedding(idx, trunk.n_embd))",
        "self.embedding(idx, trunk.n_embd)",
        "model:dropout",
    ),
    ("feedforward", 'approximate="tanh"', 'approximate="none"', "model:gpt2"),
    ("residual", "0.02 / (2 * config.n_layer) ** 0.5", "0.02", "model:projections"),
    ("residual", "self.feedforward(self.norm2(x)", "self.feedforward(self.norm1(x)", "model:gpt2"),
    ("embedding", "std=0.02", "std=0.2", "model:first"),
    ("embedding", "x * math.sqrt(D / d)", "x", "model:gpt2"),
    ("embedding", "n_embd)) + position", "n_embd))", "model:gpt2"),
    ("nested", "std=0.02)", "std=0.05)", "model:projections"),
    (
        "nested",
        "nn.init.normal_(self.weight, std=std)",
        "nn.init.normal_(self.weight, std=0.02)",
        "model:projections",
    ),
    ("nested", "else weight * scale", "else weight", "model:gpt2"),
    ("model", "layer.weight *= self", "self", "model:slice"),
    ("nested", "in (self.weight, self.bias)", "in (self.weight, None)", "model:gpt2"),
    ("nested", "module.training = mode", "pass", "training:evaluate training:mode"),
    ("model", "p *= (self.config.n_embd / size.n_embd) ** 0.5", "pass", "model:slice"),
    ("model", "after[depth] = self.norm(x)", "after[depth] = x", "model:gpt2"),
    ("model", "in reversed(by_depth)", "in by_depth", "training:trunk"),
    ("model", "if most < T:", "if most < T - 1:", "model:bad_idx"),
    ("model", "(idx < 0) | (idx >=", "(idx >=", "model:bad_idx"),
    ("model", ".train(self.training)", ".train()", "model:slice"),
    ("model", "torch.random.fork_rng(devices=[]), ", "", "model:random"),
    ("model", "return self.config.full", "return self.config.resolve(size)", "training:trunk"),
    ("config", "self.bias * (3 * a", "(3 * a", "config"),
    ("config", "min(self.head_size,", "max(self.head_size,", "config"),
    ("config", "f * n_embd // self.n_embd", "f", "config"),
    ("config", "0 <= self.dropout < 1", "0 <= self.dropout <= 1", "config"),
    ("config", "if size in sizes[:i]", "if size is sizes[:i]", "config"),
    ("sizes", "mine == theirs[: self.n_layer]", "True", "training:trunk"),
    ("ranges", "values[0] - step / 2", "values[0]", "config"),
    ("ranges", "min(round(inner_ratio * d), high.n_inner)", "round(inner_ratio * d)", "config"),
    # ---- what is measured
    (
        "measure/evaluation",
        "np.linspace(0, len(starts) - 1, max_blocks)",
        "np.arange(max_blocks)",
        "training:evaluate",
    ),
    ("measure/evaluation", ".item() * len(x)", ".item() * batch_size", "training:evaluate"),
    (
        "measure/evaluation",
        "torch.promote_types(logits.dtype, torch.float32)",
        "logits.dtype",
        "agreement frontier",
    ),
    ("measure/agreement", "F.kl_div(doll, full,", "F.kl_div(full, doll,", "agreement"),
    ("measure/shapes", "+ 2 * a * config.block_size", "", "frontier:flops"),
    ("measure/shapes", "return 2 * weights", "return weights", "frontier:flops"),
    ("measure/shapes", "all(a <= b for", "all(a < b for", "frontier"),
    ("measure/shapes", "return min(fitting,", "return max(fitting,", "frontier"),
    ("measure/shapes", "math.isnan(p.loss) or any(", "any(", "frontier"),
    # ---- training
    ("training/run", "(self.ids, val_ids)\n", "(val_ids, val_ids)\n", "training:learns"),
    ("training/run", "(self.ids, val_ids)\n", "(self.ids, self.ids)\n", "training:learns"),
    (
        "training/run",
        'uninterrupted(), precision(self.device, s["dtype"])',
        "uninterrupted()",
        "training:dtype",
    ),
    ("training/run", "weights, total, dtype)", "weights, total)", "training:dtype"),
    (
        "training/nesting",
        'precision(self.device, self.settings["dtype"])',
        "precision(self.device)",
        "nest:bfloat16",
    ),
    ("measure/evaluation", 'enabled=dtype != "float32"', "enabled=False", "training:dtype"),
    ("commands/train", '"lr", "dtype", "seed"', '"lr", "seed"', "train:bpe"),
    (
        "benchmarks/quality",
        "settings |= dict(dtype=self.args.dtype) if self.args.dtype else {}",
        "pass",
        "benchmark:kept",
    ),
    ("benchmarks/speed", "self.weights, dtype=self.dtype)", "self.weights)", "benchmark:speed"),
    ("benchmarks/speed", "with precision(DEVICE, args.dtype):", "if True:", "benchmark:speed"),
    ("benchmarks/speed", "with precision(DEVICE, self.dtype):", "if True:", "benchmark:speed"),
    (
        "benchmarks/quality",
        "tried, loss_unit(tokenizer, val_ids))",
        'tried, "nats per token")',
        "benchmark:several",
    ),
    (
        "training/nesting",
        "importance(model, train_ids, seed))",
        "importance(model.bfloat16(), train_ids, seed))",
        "nest:bfloat16",
    ),
    ("training/run", "self.optimizers.set_lr(", "(lambda rate: rate)(", "training:rate"),
    ("training/run", 's["grad_clip"] or math.inf', "math.inf", "training:clip"),
    ("training/run", 'default_rng((s["seed"], self.done))', "default_rng(self.done)", "training:seed"),
    ("training/run", 'default_rng((s["seed"], self.done))', 'default_rng(s["seed"])', "training:differ"),
    (
        "training/run",
        "torch.manual_seed(int(rng.integers(2**31)) + self.rank)",
        "torch.manual_seed(0)",
        "training:dropout",
    ),
    (
        "training/run",
        "rng.integers(len(self.ids) - T,",
        "rng.integers(len(self.ids) - 1 - T,",
        "training:shortest",
    ),
    ("training/run", "price(model, trunk) * n ", "price(model, trunk) ", "training:flops"),
    ("training/run", "share * most + rng.random()", "share * most + 0.5", "training:share"),
    ("training/run", "counts if n]", "counts]", "training:share"),
    ("training/run", "for trunk, n in counts) / self.world", "for trunk, n in counts)", "distributed"),
    ("training/loss", "weigh(weights, [size]) * len(x)", "weigh(weights, [size])", "training:own"),
    ("training/run", " + self.optimizers.flops(read)", "", "training:flops"),
    (
        "training/run",
        "trunk_size(trunk[0]) for trunk, _ in counts]",
        "trunk_size(trunk[0]) for trunk, _ in counts[1:] or counts]",
        "training:flops",
    ),
    ("training/run", "round(10 * spent, 6)", "round(5 * spent, 6)", "training:budget"),
    (
        "training/run",
        "else self.history.spent / flops",
        "else self.history.spent / flops / 2",
        "training:budget",
    ),
    ("training/run", "        model.zero_grad()", "        pass", "resume"),
    ("training/loop", "run.model.zero_grad()  #", "pass  #", "training:gradients"),
    ("training/loop", "torch.random.fork_rng(gpu), ", "", "training:random"),
    ("training/run", "if weights[size]]", "if True]", "training:weight"),
    ("training/run", "message, history=None)", "message, history)", "training:finite"),
    ("training/loss", " * len(x) / total * loss", " * len(x) * loss", "training:weighted"),
    ("training/loss", "(weights / weights.sum()).tolist()", "weights.tolist()", "training:weighted"),
    ("training/loss", "if loss.requires_grad:", "if True:", "training:frozen"),
    ("training/schedule", "join <= spent", "True", "training:alone"),
    ("training/schedule", "0, *self.prices[:-1]", "0, *self.prices[1:]", "training:joins"),
    ("training/schedule", "min(1, paid / price(self.model, trunk))", "1", "training:stays"),
    ("training/schedule", ", *reversed(shares)", "", "training:stays"),
    ("training/schedule", " and len(trunks) == len(self.trunks)", "", "training:range"),
    ("training/schedule", "[*self.trunks[0], ", "[", "training:range nest:range"),
    ("training/schedule", "*self.trunks[-1], ", "", "training:range nest:range"),
    ("training/schedule", "(dict.fromkeys([", "(([", "training:range"),
    ("training/schedule", "paid / 2", "paid", "training:range"),
    ("training/schedule", "for _ in range(2)]", "for _ in range(1)]", "training:range"),
    ("training/schedule", ", *drawn]", "]", "training:range"),
    ("training/schedule", "(LAST - FIRST) * spent", "LAST - FIRST", "training:stays"),
    ("training/schedule", "(FIRST + (LAST", "((LAST", "training:stays"),
    (
        "training/nesting",
        "max(self.prices[0], SHARE * self.prices[-1])",
        "SHARE * self.prices[-1]",
        "nest:one",
    ),
    ("training/nesting", "if self.of_range else self.trunks", "if False else self.trunks", "nest:range"),
    ("training/nesting", "1 / self.schedule.share(trunk)", "1", "nest:range"),
    ("training/nesting", "change**2", "change", "nest"),
    ("training/nesting", "descending=True", "descending=False", "nest"),
    ("training/nesting", "SHARE * self.prices[-1]", "self.prices[-1]", "nest"),
    ("training/price", "3 * (readouts +", "2 * (readouts +", "training:flops"),
    ("training/price", "sum(2 * config.vocab_size", "sum(0 * config.vocab_size", "training:flops"),
    ("training/price", "tuple(map(max,", "tuple(map(min,", "optimizer:union"),
    ("training/optimizer", "betas=(0.9, 0.99)", "betas=(0.9, 0.5)", "optimizer"),
    ("training/optimizer", '"weight_decay": 0.0', '"weight_decay": weight_decay', "optimizer"),
    (
        "training/optimizer",
        "foreach=False, **same",
        "foreach=False, **same | {'weight_decay': 0}",
        "optimizer",
    ),
    ("training/optimizer", "w.mul_(1 - lr * decay)", "w.mul_(1)", "optimizer"),
    ("training/optimizer", "average.lerp_(grad, 1 - momentum)", "average.lerp_(grad, momentum)", "optimizer"),
    ("training/optimizer", "grad.lerp(average, momentum)", "average", "optimizer"),
    ("training/optimizer", "if rows == columns:", "if True:", "optimizer"),
    ("training/optimizer", "ITERATIONS = 3", "ITERATIONS = 2", "optimizer"),
    ("training/optimizer", "square = p @ (p @ square)", "square = p @ square", "optimizer"),
    ("training/optimizer", "(8 * ITERATIONS - 6) * r**3", "6 * r**3", "training:flops"),
    ("text/batches", "check_range(block, vocab_size)", "pass", "agreement:bad"),
    ("benchmarks/quality", "inner = tuple(round(times * f)", "inner = tuple(round(f)", "benchmark:widths"),
    ("benchmarks/common", "        raise KeyboardInterrupt\n", "        pass\n", "benchmark:stopped"),
    ("embeddings/pairs", "repr(vars(self))", "repr(len(self))", "pairs:digest"),
    (
        "training/optimizer",
        "shape[len(layer.out_shape) - 1]",
        "math.prod(shape[: len(layer.out_shape)])",
        "optimizer",
    ),
    ("training/optimizer", " if layer.weight.requires_grad", "", "optimizer"),
    ("training/optimizer", "(1 - spent) / (1 - warmup)", "1.0", "training:rate"),
    ("training/optimizer", "(spent + 1e-3) / (warmup + 1e-3)", "1.0", "training:rate"),
    ("training/optimizer", "1.024 / config.n_embd", "1.024 / 128", "training:default"),
    ("training/state", "self.files()[:-2]", "self.files()[:-1]", "resume"),
    ("training/state", "if names:", "if False:", "resume"),
    ("training/state", "handler(*pressed[0])", "pass", "resume"),
    ("training/state", "max(60, 100 * self.cost)", "1e9", "resume"),
    ("training/history", "self.flops.append(self.spent)", "self.flops.append(0)", "training:flops"),
    ("training/history", 'spent=kept["spent"]', "spent=0", "resume:flops"),
    ("training/progress", "done = min(done, self.total)", "pass", "progress"),
    ("training/threads", "torch.set_num_threads(n)", "pass", "train:threads"),
    ("training/threads", "torch.ones(768, 128)", "torch.randn(768, 128)", "training:random"),
    # ---- generation
    ("generation/sampling", "if self.top_k is not None and", "if False and", "sampling"),
    ("generation/sampling", "if self.top_p is not None and self.top_p < 1:", "if False:", "sampling"),
    ("generation/sampling", "keepdim=True)) /", "keepdim=True)) * 1.0 if True else", "sampling"),
    ("generation/sampling", "values.cumsum(-1) - values", "values.cumsum(-1)", "sampling"),
    ("generation/drafts", "kept = u * q_x < p_x", "kept = u < 2", "generation:distribution"),
    ("generation/drafts", "(weights - q[:, n]).clamp(min=0)", "weights", "generation:distribution"),
    ("sizes", "mine >= theirs for", "mine > 0 for", "config:covers"),
    ("generation/drafts", " or draft == size:", ":", "generation:arguments"),
    ("generation/reader", "tril(self.length)", "tril(0)", "generation:drafts"),
    ("generation/reader", "if start != self.start:", "if False:", "generation:cache"),
    ("generation/reader", 'approximate="tanh"', 'approximate="none"', "sampling"),
    ("generation/writing", "reader.length = min(reader.length, t + n)", "pass", "generation:drafts"),
    ("generation/writing", "final=end == out.size(1)", "final=False", "generation:stream"),
    # ---- text
    (
        "text/batches",
        "block[..., :-1], block[..., 1:]",
        "block[..., :-1], block[..., :-1]",
        "training:differ",
    ),
    ("text/batches", "<= ids.max() < vocab_size", "", "training:bad"),
    ("text/batches", "/ math.log(2)", "", "data"),
    (
        "text/corpus",
        "return ids[:n_train], ids[n_train:]",
        "return ids[n_train:], ids[:n_train]",
        "data:tenth",
    ),
    ("text/tokenizer", "if not 0 <= i < self.vocab_size", "if not i < self.vocab_size", "tokenizer"),
    ("text/tokenizer", 'errors="replace"', 'errors="ignore"', "tokenizer"),
    ("text/merges", "LONGEST = 32", "LONGEST = 2", "tokenizer"),
    ("text/sources", "% 100", "% 2", "data"),
    ("text/sources", "text + END", "text", "data"),
    ("text/token_files", r"\S(?=[ \n])", r".(?=[ \n])", "data"),
    # ---- files
    ("training/settings", "float(s[name])", "s[name]", "resume:numpy"),
    ("training/optimizer", "[(plain(name), p)", "[(name, p)", "training:compiled"),
    ("training/loop", "torch.enable_grad()", "nullcontext()", "training:gradients_are_on"),
    ("training/loop", "closing(kept) if kept else", "", "run_folder:interrupt"),
    ("commands/nest", "tokenizer != theirs", "False", "nest:another_tokenizer"),
    ("commands/train", "NAME.fullmatch(path.name)", "path.suffix", "train:files_of_the_user"),
    ("measure/shapes", "yield from (low, high, config.full)", "yield low", "frontier:full_doll"),
    ("measure/shapes", "max(widths, high.n_head - low.n_head)", "widths", "frontier:both_its_ends"),
    ("files/gpt2_tokenizer", ' or not splits["use_regex"]', "", "gpt2:otherwise"),
    ("training/state", "self.lock.acquire(timeout=0)", "pass", "run_folder:refused"),
    ("ranges", "max(1, min(", "max(0, min(", "config:feedforward"),
    ("embeddings/pairs", 'source_text.split("\\n")', "source_text.splitlines()", "pairs:parser"),
    ("text/batches", "else block).to(device, non_blocking=pinned)", "else block)", "data:any_type"),
    ("files/atomic", "os.fsync(file.fileno())", "pass", "resume:disk"),
    ("files/checkpoint", 'if kept["format"] != FORMAT:', "if False:", "checkpoint"),
    ("files/checkpoint", "(folder / name).exists() and digest", "False and digest", "checkpoint"),
    ("files/checkpoint", "if other and not overwrite", "if False", "checkpoint"),
    ("files/gpt2", "EPS * d / width", "EPS", "gpt2"),
    ("files/gpt2", "p * math.sqrt(d / width)", "p", "gpt2"),
    ("files/gpt2", "math.sqrt(width // n_head / s)", "1", "gpt2"),
    # ---- embeddings
    ("embeddings/pooling", "* real[..., None]", "", "embed"),
    ("embeddings/pooling", "F.normalize(embeddings[..., :d], dim=-1)", "embeddings[..., :d]", "embed"),
    ("embeddings/pooling", "F.normalize(total, dim=-1)", "total", "embed"),
    ("embeddings/retrieval", "(x - mean) @ axes", "x @ axes", "retrieval"),
    ("embeddings/searching", "1 - out / (self.dims / 2)", "out", "search"),
    ("embeddings/searching", "query = query * self.scale", "pass", "search"),
    ("embeddings/retrieval", "1 - b + b * length", "1 + 0 * length", "retrieval"),
    ("embeddings/retrieval", "(scores == own) & before", "scores != scores", "retrieval"),
    ("embeddings/retrieval", "(near / ranks)", "near", "retrieval"),
    ("embeddings/contrastive", " / temperature", "", "contrastive"),
    ("embeddings/contrastive", "scores.masked_fill(alike, -math.inf)", "scores", "contrastive"),
    (
        "embeddings/contrastive",
        "F.cross_entropy(scores.T, right)",
        "F.cross_entropy(scores, right)",
        "contrastive",
    ),
    # ---- figures
    ("plot/training", 'history.train[size], ":"', 'history.val[size], ":"', "progress"),
    ("plot/training", 'history.val[size], "o-"', 'history.train[size], "o-"', "progress"),
    ("plot/training", "100 * a.same", "a.same", "agreement"),
    ("plot/shapes", "for p in points if p.on_front]", "for p in points]", "frontier"),
    # ---- commands
    ("commands/train", "if other and not (args.force or own)", "if False", "train:forced"),
    ("commands/train", "torch.manual_seed(args.seed)", "pass", "train:interrupted"),
    ("commands/generate", "generator.manual_seed(args.seed)", "generator.seed()", "generation:program"),
]

# Looked at, and left out, since nothing that a test may look at tells them from the original:
# - residual: `x + self.feedforward(...)` turned round, and other sums in another order.
# - nested: `weight if scale == 1 else weight * scale` without the condition: the same numbers, more slowly.
# - price.union without its first two lines, which spare a loop: the full doll's corners are the longest.
# - optimizer.AdamW.step without its first branch, the whole step, which is faster than that of corners.
# - optimizer.orthogonalize without turning tall matrices round, which makes the products smaller.
# - state.digest, token files: how many bytes are read at once; evaluation: MOST_LOGITS, which bounds memory.


def arguments(tests):
    """What pytest is told of "model:dropout config"."""
    files = [part.partition(":") for part in tests.split()]
    words = " or ".join(word for _, _, word in files if word)
    paths = dict.fromkeys(f"tests/test_{name}.py" for name, _, _ in files)
    return [*paths, *(["-k", words] if words else [])]


def mutated(mutant):
    """(path in the package, its text with the mutant in it). SystemExit, naming it, if it has no place."""
    name, old, new, _ = mutant
    path = Path("matgpt") / f"{name}.py"
    text = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else ""
    if text.count(old) != 1:
        found = f"{path}: {old!r} is there {text.count(old)} times"
        sys.exit(f"{found}, and a mutant needs a place of its own: mend it in {Path(__file__).name}")
    return path, text.replace(old, new)


def copy(folder):
    """Package and tests, as they are, in a new folder."""
    for name in ("matgpt", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "requirements.txt", ".pytest.ini"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


def start(folder, tests):
    """A process that runs these tests in the folder: forked, so that what they import is there already."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
            os.chdir(folder)
            os.environ["PYTHONPATH"] = sys.path[0] = str(folder)
            out = os.open("pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.dont_write_bytecode = True
            quiet = ["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
            code = int(pytest.main([*quiet, *arguments(tests)]))
        finally:
            os._exit(code)
    return child


def run(jobs, folders):
    """Run (mutant or None, tests) in turn, one in each folder at a time; yields (job, exit code, seconds)."""
    waiting, running = list(reversed(jobs)), {}
    while waiting or running:
        while waiting and folders:
            (mutant, tests), folder = waiting.pop(), folders.pop()
            if mutant:
                path, text = mutated(mutant)
                (folder / path).write_text(text, encoding="utf-8")
            running[start(folder, tests)] = mutant, tests, folder, time.monotonic()
        time.sleep(0.05)
        for child, (mutant, tests, folder, began) in list(running.items()):
            seconds = time.monotonic() - began
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                del running[child]
                log = (folder / "pytest.log").read_text(errors="replace")
                if mutant:
                    path, _ = mutated(mutant)
                    shutil.copy(ROOT / path, folder / path)
                folders.append(folder)
                yield (mutant, tests), os.waitstatus_to_exitcode(status), seconds, log


def by_file(mutants):
    """Each file of tests once, with the words of all these mutants or, where one has none, whole."""
    words = {}
    for *_, tests in mutants:
        for part in tests.split():
            name, _, word = part.partition(":")
            words.setdefault(name, set()).add(word)
    whole = {name: some if all(some) else {""} for name, some in words.items()}
    return [
        " ".join(f"{name}:{word}" if word else name for word in sorted(some)) for name, some in whole.items()
    ]


def main(wanted):
    for mutant in MUTANTS:
        mutated(mutant)  # each has its place, or this ends here
    chosen = [mutant for mutant in MUTANTS if all(text in " | ".join(mutant) for text in wanted)]
    caught, red = 0, set()
    with tempfile.TemporaryDirectory() as temporary:
        folders = [copy(Path(temporary) / str(i)) for i in range(JOBS)]
        for (_, tests), code, seconds, log in run([(None, tests) for tests in by_file(chosen)], folders):
            name = tests.split()[0].partition(":")[0]
            print(f"{'RED' if code else 'green':9} {seconds:5.1f} s  {name}, without a mutant", flush=True)
            if code:
                red.add(name)
                print(log)
        for ((name, old, new, tests), _), code, seconds, _ in run([(m, m[3]) for m in chosen], folders):
            blind = red & {part.partition(":")[0] for part in tests.split()}
            verdict = {0: "SURVIVED", 1: "caught", -9: "ran on"}.get(code, "BROKEN")  # no test ran at all
            verdict = "BLIND" if blind else verdict
            caught += verdict in ("caught", "ran on")
            print(f"{verdict:9} {seconds:5.1f} s  {name}: {old!r} -> {new!r}  ({tests})", flush=True)
    print(f"{caught} of {len(chosen)} caught")
    sys.exit(caught < len(chosen))


if __name__ == "__main__":
    os.environ.update(OMP_NUM_THREADS="1", MPLBACKEND="agg")
    sys.argv, wanted = sys.argv[:1], sys.argv[1:]
    # all that tests import and mutants do not change, once for all processes
    import matplotlib.pyplot  # noqa: F401
    import pytest
    import torch._dynamo  # noqa: F401
    import torch.optim  # noqa: F401

    main(wanted)
