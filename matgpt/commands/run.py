"""What each command does, and what a run leaves in --out."""

import atexit
import inspect
import os
import sys
import warnings
from contextlib import suppress
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from .. import GPTConfig, Size, frontier, load, nest, plot, save, stream, train, write
from ..files.atomic import as_path, parsed, uninterrupted
from ..files.checkpoint import check_vocabulary, model_files, replace
from ..files.gpt2 import export_gpt2, import_gpt2, is_gpt2
from ..model import MatryoshkaEmbeddingsGPT, MatryoshkaGPT
from ..text.batches import loss_unit
from ..text.corpus import TEXTS
from ..text.token_files import prepare, read_corpus
from ..text.tokenizer import load_tokenizer
from ..training.checkpoint import digest, ended, lock, model_digest, states
from ..training.loop import Settings, processes
from .parser import Parser, thread_count

WRITTEN = ("config.json", "model.safetensors", "tokenizer.json", "losses.png", "history.json")


def run_train(args):
    if dist.is_torchelastic_launched():
        dist.init_process_group()
        atexit.register(dist.destroy_process_group)
        if args.device in (None, "cuda") and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    device, first = start(args, args.corpus), processes()[0] == 0
    train_ids, val_ids, tokenizer = read_corpus(args.corpus, **given(read_corpus, args))
    dolls = [doll if isinstance(doll, Size) else Size(doll, 4, 4) for doll in args.nesting]
    full = {name: max(getattr(doll, name) for doll in dolls) for name in ("n_embd", "n_head", "n_layer")}
    config = GPTConfig(**full | given(GPTConfig, args) | {"vocab_size": tokenizer.vocab_size})
    torch.manual_seed(args.seed or 0)
    variant = MatryoshkaEmbeddingsGPT if args.variant == "embeddings" else MatryoshkaGPT
    model = variant(config).to(device)
    if args.compile:
        torch._dynamo.config.recompile_limit = 8 * len(config.sizes)  # each doll is a graph of its own
        model.compile()
    if first:
        print(f"{model.num_params():,} parameters, {len(train_ids):,} training tokens, on {device}")
        print(f"losses in {loss_unit(tokenizer, val_ids)}")
        check_out(args)  # reading the corpus may have taken minutes
    history = train(model, train_ids, val_ids, **given(Settings, args))
    if first:
        finish(args, model, tokenizer, history, val_ids)


def run_nest(args):
    device = start(args, args.folder)
    model, tokenizer = read_model(args.folder)
    train_ids, val_ids, _ = read_corpus(args.corpus, tokenizer)
    args.out.mkdir(parents=True, exist_ok=True)
    with lock(args.out, f"--out {args.out}"):
        check_out(args)  # another command may have ended there since
        model = nest(model.to(device), args.nesting, train_ids, val_ids, **given(Settings, args))
        finish(args, model, tokenizer, model.history, val_ids)


def start(args, source):
    """Complete the options of a run; returns its device. ValueError if --out holds what it would replace."""
    if args.out is None:
        sizes = [str(size).replace("/", "_") for size in args.nesting]
        path = Path(source).resolve()
        args.out = Path("runs", "-".join([path.name if path.is_dir() else path.stem, *sizes]))
    args.out = as_path(args.out)
    check_out(args)
    args.checkpoint_dir = args.out if args.command == "train" else None
    args.progress, args.on_evaluation = sys.stderr.isatty(), partial(log, args)
    args.steps = Settings(**given(Settings, args)).steps
    return make_device(args.device)


def check_out(args):
    """Raise ValueError if --out holds what the run would replace."""
    resume = getattr(args, "resume", False)
    there = [name for name in WRITTEN if (args.out / name).exists()]
    there += [path.name for path in states(args.out) if not resume]
    if there and not args.overwrite and not (resume and is_own(args.out)):
        hint = "no run that can be resumed wrote that" if resume else "train --resume continues a run"
        raise ValueError(f"--out {args.out} already holds {', '.join(there)}: {hint}; --force replaces it")


def is_own(folder):
    """Say whether the model in a folder is that of the run that can be resumed there, or that it replaces."""
    wrote = read_record(folder).get("train_wrote", "")
    return wrote == model_digest(folder) and bool(states(folder) or ended(folder))


def log(args, history):
    """Print the step of an evaluation, and the losses of every doll."""
    of_all = f"/{args.steps}" if args.steps else ""
    line = f"step {history.steps[-1]}{of_all}, validation (training) loss"
    losses = [f"  {s}: {history.val[s][-1]:.4f} ({history.train[s][-1]:.4f})" for s in history.sizes]
    tqdm.write(line + "".join(losses))


def finish(args, model, tokenizer, history, val_ids):
    """Save model, plot and history in --out; print what each doll writes after the same prompt."""
    files = model_files(model, args.out, tokenizer)
    wrote = sha256(files["model.safetensors"]).hexdigest()  # history.json says which model is that of the run
    is_path = args.corpus not in TEXTS and os.path.exists(args.corpus)
    corpus = os.path.abspath(args.corpus) if is_path else args.corpus
    record = {"corpus": corpus, "run": history.run, f"{args.command}_wrote": wrote}
    files["history.json"] = history.as_dict() | record
    with uninterrupted():
        replace(args.out, files, overwrite=True)
        for path in states(args.out) if history.finished and args.command == "train" else ():
            path.unlink()  # model and history are all that extending the run needs
    plot.losses(history).savefig(args.out / "losses.png", dpi=120)
    if not history.finished:
        resume = "; --resume continues" if args.command == "train" else ""
        sys.exit(f"interrupted: saved in {args.out}{resume}")
    prompt = tokenizer.decode(val_ids[:16].tolist())
    for size in model.sizes:
        text = write(model, tokenizer, prompt, 80, size, seed=0, temperature=0.8)
        print(f"{size} writes: {' '.join(text.split())}")
    print(f"saved in {args.out}")


def run_generate(args):
    if args.seed is None:
        torch.seed()
    model, tokenizer = read_model(args.folder)
    if args.prompt is None:  # a newline, or the first character of a text that has none
        args.prompt = "\n" if "\n" in getattr(tokenizer, "characters", "\n") else tokenizer.characters[0]
    if args.draft_tokens and not args.draft_size:
        raise ValueError("--draft-tokens proposes nothing without --draft-size, the doll that drafts")
    pieces = stream(model, tokenizer, args.prompt, seed=args.seed, **given(model.generate, args))
    print(args.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def run_slice(args):
    model, tokenizer = load(args.folder)
    doll, write_doll = model.slice(args.size), export_gpt2 if args.gpt2 else save
    write_doll(doll, args.out, tokenizer=tokenizer, overwrite=args.overwrite)
    print(f"the doll {doll.config.full} with {doll.num_params():,} parameters: saved in {args.out}")


def run_eval(args):
    model, tokenizer = read_model(args.folder)
    record = read_record(args.folder) if args.corpus is None else {}
    args.corpus = args.corpus or record.get("corpus")
    if args.corpus is None:
        raise ValueError(f"no history.json in {args.folder} says what it was trained on: give --corpus")
    _, val_ids, _ = read_corpus(args.corpus, tokenizer)
    trained_on = (record.get("run") or {}).get("val_ids")
    if trained_on and trained_on != digest(val_ids):
        warnings.warn(f"{args.corpus} is no longer the text that the model was trained on", stacklevel=1)
    model.to(make_device(args.device))
    print(f"validation part of {args.corpus}; losses in {loss_unit(tokenizer, val_ids)}")
    print(frontier(model, val_ids, max_blocks=args.eval_blocks))


def run_data(args):
    if args.tokenizer == "char" and args.vocab_size is not None:
        raise ValueError(f"--vocab={args.vocab_size}: only bpe learns so many tokens from a text")
    meta = prepare(**given(prepare, args))
    counts = f"{meta['n_train']:,} tokens for training and {meta['n_val']:,} for validation"
    print(f"{args.out}: a vocabulary of {meta['vocab_size']:,}, {counts}")


def run_benchmark(args):
    module = import_module(f"matgpt.benchmarks.{args.name}")
    args.parser = Parser(prog=f"python -m matgpt benchmark {args.name}", description=module.__doc__)
    args.parser.add_argument("--threads", type=thread_count, default=1, help="one never waits for another")
    module.add_arguments(args.parser)
    options = args.parser.parse_args(args.options)
    torch.set_num_threads(options.threads)
    module.run(options)


def given(function, args):
    """Choose the options that were given and that `function` takes by name."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in vars(args).items() if name in names and value is not None}


def make_device(name):
    """Return the device of that name, or the best one. Raises ValueError if there is none."""
    try:
        probe = torch.zeros(1, device=name or ("cuda" if torch.cuda.is_available() else "cpu"))
        probe.cpu()  # "meta" has no numbers to give
        return probe.device
    except (RuntimeError, AssertionError):
        raise ValueError(f"--device {name}: PyTorch has no such device on this machine") from None


def read_model(folder):
    """Load (model, tokenizer) from a folder that `save` or transformers wrote."""
    model, tokenizer = import_gpt2(folder) if is_gpt2(folder) else load(folder)[0], load_tokenizer(folder)
    check_vocabulary(model.config, tokenizer, f"{folder}: ")
    return model, tokenizer


def read_record(folder):
    """Read what a run noted in history.json; {} if there is none."""
    with suppress(ValueError), parsed(as_path(folder) / "history.json") as record:
        return dict(record)
    return {}
