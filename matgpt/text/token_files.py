"""Token files: texts larger than memory, encoded once and mapped from the disk."""

import itertools
import json
import os
import re
import shutil

import numpy as np
from tqdm import tqdm

from ..files.atomic import as_path, parsed, write
from .corpus import find, load_text, split
from .sources import texts
from .tokenizer import BPETokenizer, CharTokenizer, load_tokenizer

FORMAT = 2  # of token files
SAMPLE = 10 * 2**20  # characters at the beginning of the texts from which token files learn their BPE


def prepare(paths, out, tokenizer="bpe", vocab_size=4096, pattern="*", column="text"):
    """Encode texts, one behind the other, into memory-mapped token files in `out`. Returns its meta.json.

    `paths` are names of corpora, folders (each file that fits `pattern` is a document), .jsonl and .parquet
    files (each text in `column` is one) and UTF-8 texts; all but .parquet may be packed as .gz or .zst. For
    validation is one document in a hundred, by a hash of its content, and the last tenth of a text that is
    named itself. Only a piece, or a document, is in memory. A "char" tokenizer is made in a first pass, a
    "bpe" one learns from the first SAMPLE characters.

    `out` appears complete or not at all. It must not exist, nor must `out`.partial, where it grows: what a
    killed run left there is not removed. Raises ValueError for that and for what cannot be read.
    """
    if tokenizer not in ("bpe", "char"):
        raise ValueError(f"tokenizer={tokenizer!r} must be 'bpe' or 'char'")
    out = as_path(out)
    partial = out.parent / f"{out.name}.partial"
    for folder in (out, partial):
        if folder.exists():
            raise ValueError(f"{folder} exists already: remove it or choose another folder")
    found = [(str(path), find(path, pattern)) for path in paths]
    sources = [source for _, files in found for source in files]
    partial.mkdir(parents=True)
    try:
        tokenizer = learn(tokenizer, sources, column, vocab_size)
        dtype = np.dtype("uint16" if tokenizer.vocab_size <= 2**16 else "uint32")
        n_train, n_val = encode(read(sources, column, "encoding"), tokenizer, dtype, partial)
        if not n_train or not n_val:
            raise ValueError(
                f"{n_train} tokens for training and {n_val} for validation are too few: give more documents, "
                "of which one in a hundred is for validation, or a text itself, of which the last tenth is"
            )
        meta = {
            "format": FORMAT,
            "dtype": dtype.name,
            "vocab_size": tokenizer.vocab_size,
            "n_train": n_train,
            "n_val": n_val,
            "sources": [
                {"from": name, "files": len(files), "bytes": n_bytes(files)} for name, files in found
            ],
        }
        tokenizer.save(partial)
        write(partial / "meta.json", json.dumps(meta, indent=1).encode())
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return meta


def n_bytes(sources):
    return sum(source.path.stat().st_size for source in sources)


def read(sources, column, label=None):
    """(source, its texts) of each source; with a `label`, under a bar that counts bytes on the disk."""
    end = 0
    with tqdm(total=n_bytes(sources), desc=label, unit="B", unit_scale=True, disable=not label) as bar:
        for source in sources:
            yield source, texts(source, column, bar.update)
            end += n_bytes([source])
            bar.update(end - bar.n)  # of a table, one column alone is read


def learn(kind, sources, column, vocab_size):
    """The tokenizer of all characters, or of the byte pairs in the first SAMPLE of them."""
    label = "finding the characters" if kind == "char" else None
    pieces = (text for _, found in read(sources, column, label) for _, text in found)
    if kind == "char":
        return CharTokenizer("".join(sorted(set(itertools.chain.from_iterable(pieces)))))
    sample = ""
    while len(sample) < SAMPLE and (text := next(pieces, "")):
        sample += text
    return BPETokenizer.train(sample[:SAMPLE], vocab_size)


def encode(sources, tokenizer, dtype, folder):
    """Write train.bin and val.bin; returns how many ids are in each."""
    size = dtype.itemsize
    with open(folder / "train.bin", "w+b") as train, open(folder / "val.bin", "wb") as val:
        for source, found in sources:
            start = train.tell()
            if source.kind == "text" and isinstance(tokenizer, BPETokenizer):
                found = ((None, text) for text in between_words(text for _, text in found))
            for part, text in found:
                (val if part == "val" else train).write(np.array(tokenizer.encode(text), dtype).data)
            if source.kind == "text":  # its last tenth
                end = train.tell()
                cut = train.seek(end - (end - start) // size // 10 * size)
                shutil.copyfileobj(train, val)
                train.truncate(train.seek(cut))
        for file in (train, val):
            file.flush()
            os.fsync(file.fileno())
        return train.tell() // size, val.tell() // size


def between_words(texts):
    """The same text, cut only where no BPE token can reach across: before a blank or newline behind what is
    not white space. No alternative of GPT2_SPLIT matches across it, and none that ends there looks further. A
    text without any such place is held in memory until its end.
    """
    held = []
    for text in texts:
        end = text[-1000:]
        last = re.match(r"(?s).*\S(?=[ \n])", end)
        if last:
            cut = len(text) - len(end) + last.end()
            yield "".join((*held, text[:cut]))
            held = []
            text = text[cut:]
        held.append(text)
    yield "".join(held)


def read_corpus(name, tokenizer="char", vocab_size=1024):
    """(train_ids, val_ids, tokenizer) of a text, as `load_text` knows it, or of a folder of token files."""
    if as_path(name).is_dir():
        return load_tokens(name)
    text = load_text(name)
    bpe = tokenizer == "bpe"
    tokenizer = BPETokenizer.train(text, vocab_size) if bpe else CharTokenizer.from_text(text)
    return *split(tokenizer.encode(text)), tokenizer


def load_tokens(folder):
    """(train_ids, val_ids, tokenizer) of a folder that `python -m matgpt data` made; ids (N,) are mapped.

    Raises ValueError, naming the file and what is wrong, where one is missing, damaged or of another length.
    """
    folder = as_path(folder)
    path = folder / "meta.json"
    tokenizer = load_tokenizer(folder)
    with parsed(path, "a record of token files") as meta:
        sizes, types = [tokenizer.vocab_size], ["uint16", "uint32"]
        for entry, allowed in (("format", [FORMAT]), ("vocab_size", sizes), ("dtype", types)):
            if meta[entry] not in allowed:
                allowed = " or ".join(map(str, allowed))
                raise ValueError(f"its {entry} is {meta[entry]!r}, not {allowed}: make the folder anew")
        parts = [(folder / f"{part}.bin", meta["dtype"], meta[f"n_{part}"]) for part in ("train", "val")]
        return *itertools.starmap(mapped, parts), tokenizer


def mapped(path, dtype, n):
    size = path.stat().st_size
    if type(n) is not int or n < 1 or size != n * np.dtype(dtype).itemsize:
        raise ValueError(f"{n!r} tokens of {dtype} are not what {path} has, {size} bytes")
    return np.memmap(path, dtype, mode="r")
