"""Token files: texts larger than memory, encoded once and mapped from the disk."""

import hashlib
import itertools
import json
import shutil

import numpy as np
from tqdm import tqdm

from ..files.atomic import as_path, parsed, write
from .corpus import END, TEXTS, load_text, read_source, split
from .tokenizer import BPETokenizer, CharTokenizer, Tokenizer, load_tokenizer

FORMAT = 2  # of token files
SAMPLE = 10 * 2**20  # characters at the beginning of the texts from which token files learn their byte pairs


def prepare(paths, out, tokenizer="bpe", vocab_size=4096, pattern="*", column="text"):
    """Encode texts into memory-mapped token files in the folder `out`. Returns its meta.json.

    `paths`, `pattern`, `column` are what `read_source` takes. Validation is one document in a hundred, by a
    hash of its content, and the last tenth of each text that is named itself. `out` appears complete or not
    at all: it grows as `out`.partial. Raises ValueError if one of the two exists, or for too short texts.
    """
    if tokenizer not in ("bpe", "char"):
        raise ValueError(f"tokenizer={tokenizer!r} must be 'bpe' or 'char'")
    folder = as_path(out)
    partial = folder.parent / f"{folder.name}.partial"
    for path in (folder, partial):
        if path.exists():
            raise ValueError(f"{path} exists already: remove it or choose another folder")
    partial.mkdir(parents=True)
    try:
        tokenizer = learn(tokenizer, read(paths, pattern, column, "learning"), vocab_size)
        dtype = dtype_of(tokenizer)
        n_train, n_val = encode(read(paths, pattern, column, "encoding"), tokenizer, dtype, partial)
        if not n_train or not n_val:
            counts = f"{n_train} tokens for training and {n_val} for validation are too few"
            raise ValueError(f"{counts}: of a text that is named itself, the last tenth is for validation")
        meta = {"format": FORMAT, "vocab_size": tokenizer.vocab_size, "dtype": dtype}
        meta |= {"n_train": n_train, "n_val": n_val, "sources": list(map(str, paths))}
        tokenizer.save(partial)
        write(partial / "meta.json", json.dumps(meta, indent=1).encode())
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return meta


def dtype_of(tokenizer):
    """Return the smaller of two types that holds every id."""
    return "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"


def read(paths, pattern, column, label):
    """Yield (True, the pieces of a text) or (False, documents, each with its END), with a progress bar."""
    for path in paths:
        is_text, texts = read_source(path, pattern, column)
        yield is_text, tqdm(texts if is_text else (text + END for text in texts), f"{label} {path}")


def learn(kind, sources, vocab_size):
    """Return the tokenizer of all characters, or of the byte pairs in the first SAMPLE of them."""
    texts = itertools.chain.from_iterable(texts for _, texts in sources)
    if kind == "char":
        return CharTokenizer.from_text("".join(set(itertools.chain.from_iterable(texts))))
    sample = ""
    while len(sample) < SAMPLE and (text := next(texts, "")):
        sample += text
    return BPETokenizer.train(sample[:SAMPLE], vocab_size)


def encode(sources, tokenizer, dtype, folder):
    """Write train.bin and val.bin. Returns how many ids each holds."""
    size = np.dtype(dtype).itemsize
    with open(folder / "train.bin", "w+b") as train, open(folder / "val.bin", "wb") as val:
        for is_text, texts in sources:
            start = train.tell()
            for text in texts:
                digest = hashlib.sha256(text.removesuffix(END).encode()).hexdigest()
                file = val if not is_text and int(digest, 16) % 100 == 0 else train
                file.write(np.array(tokenizer.encode(text), dtype).data)
            if is_text:  # move its last tenth
                n_ids = (train.tell() - start) // size
                cut = train.seek(start + (n_ids - n_ids // 10) * size)
                shutil.copyfileobj(train, val)
                train.truncate(train.seek(cut))
        return train.tell() // size, val.tell() // size


def read_corpus(name, tokenizer=None, vocab_size=None):
    """Return (train_ids, val_ids, tokenizer) of a text that `load_text` reads or a folder of token files.

    tokenizer: "char" or "bpe", of a text, or a Tokenizer; None: "char", or that of the token files.
    vocab_size: that bpe learns; None: 1,024. Raises ValueError where vocab_size would change nothing, or for
    token files that were made with another tokenizer.
    """
    if vocab_size is not None and tokenizer != "bpe":
        raise ValueError(f"vocab_size={vocab_size}: only bpe learns so many tokens from a text")
    if name not in TEXTS and as_path(name).is_dir():
        train_ids, val_ids, theirs = load_tokens(name)
        if tokenizer not in (None, theirs):
            raise ValueError(f"tokenizer={tokenizer!r:.60}: the token files of {name} have one of their own")
        return train_ids, val_ids, theirs
    text = load_text(name)
    if not isinstance(tokenizer, Tokenizer):
        size = 1024 if vocab_size is None else vocab_size
        tokenizer = BPETokenizer.train(text, size) if tokenizer == "bpe" else CharTokenizer.from_text(text)
    return *split(tokenizer.encode(text)), tokenizer


def load_tokens(folder):
    """Return (train_ids, val_ids, tokenizer) of a folder that `prepare` made, ids (N,) as memory maps.

    Raises ValueError, naming the file, if one is missing, damaged or of another length.
    """
    folder = as_path(folder)
    if not (folder / "meta.json").exists():
        command = f"python -m matgpt data {folder} --out OTHER"
        raise ValueError(f"{folder} holds no token files: {command} makes them")
    tokenizer = load_tokenizer(folder)
    with parsed(folder / "meta.json") as meta:
        dtype = dtype_of(tokenizer)
        train, val = (np.memmap(folder / f"{part}.bin", dtype, "r") for part in ("train", "val"))
        expected = dict(format=FORMAT, vocab_size=tokenizer.vocab_size, dtype=dtype)
        expected |= dict(n_train=len(train), n_val=len(val))
        for name, value in expected.items():
            if meta[name] != value:
                raise ValueError(f"{name} is {meta[name]!r}, and should be {value!r}: make the folder again")
    return train, val, tokenizer
