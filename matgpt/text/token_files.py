"""Token files: texts larger than memory, encoded once and mapped from the disk."""

import codecs
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..files.atomic import write
from .corpus import not_utf8, split
from .tokenizer import BPETokenizer, CharTokenizer, load_tokenizer

FORMAT = 1  # of token files
CHUNK = 2**20  # bytes of a text that are read at once
SAMPLE = 10 * 2**20  # characters at the beginning of the texts from which token files learn their BPE


def prepare(paths, out, tokenizer="bpe", vocab_size=4096):
    """Encode UTF-8 files, one behind the other as if they were one text, into memory-mapped token files in `out`.

    The ids are those of encoding the whole text at once, yet only a chunk of it is in memory. A "char" tokenizer is
    made in a first pass over all of it, a "bpe" one learns from its first SAMPLE characters. `out` appears complete
    or not at all: what a killed run left, in `out`.partial, is removed by the next. Returns what meta.json says.
    Raises ValueError for files that are missing or not UTF-8, and for an `out` that exists.
    """
    paths, out = [Path(path) for path in paths], Path(out)
    for path in paths:
        if not path.is_file():
            raise ValueError(f"there is no file {str(path)!r}")
    if out.exists():
        raise ValueError(f"{out} exists already: remove it or choose another folder")
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        if tokenizer == "char":
            characters = set()
            for text in read(paths, "finding the characters"):
                characters.update(text)
            tokenizer = CharTokenizer("".join(sorted(characters)))
            texts = read(paths, "encoding")
        else:
            sample = ""
            for text in read(paths):
                sample += text
                if len(sample) >= SAMPLE:
                    break
            tokenizer = BPETokenizer.train(sample[:SAMPLE], vocab_size)
            texts = between_words(read(paths, "encoding"))
        dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        n = 0
        with open(partial / "tokens.bin", "wb") as file:
            for text in texts:
                ids = np.array(tokenizer.encode(text), dtype)
                file.write(ids.data)
                n += len(ids)
            file.flush()
            os.fsync(file.fileno())
        n_train = len(split(np.broadcast_to(0, n))[0])
        meta = {
            "format": FORMAT,
            "dtype": np.dtype(dtype).name,
            "vocab_size": tokenizer.vocab_size,
            "n_tokens": n,
            "n_train": n_train,
            "sources": [{"file": str(path), "bytes": path.stat().st_size} for path in paths],
        }
        tokenizer.save(partial)
        write(partial / "meta.json", json.dumps(meta, indent=1).encode())
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return meta


def read(paths, label=None):
    """The text of UTF-8 files in pieces of about a MiB; with a `label`, under a bar that counts bytes."""
    with tqdm(
        total=sum(path.stat().st_size for path in paths),
        desc=label,
        unit="B",
        unit_scale=True,
        disable=label is None,
    ) as bar:
        for path in paths:
            decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
            with open(path, "rb") as file:
                while True:
                    data = file.read(CHUNK)
                    held = len(decoder.getstate()[0])  # bytes of a character that began in the last piece
                    try:
                        text = decoder.decode(data, final=not data)
                    except UnicodeDecodeError as error:
                        raise not_utf8(path, at - held + error.start) from None
                    if text:
                        yield text
                    if not data:
                        break
                    at += len(data)
                    bar.update(len(data))


def between_words(texts):
    """The same text, cut only where no BPE token can reach across: before a blank or newline behind a character that
    is not white space. No alternative of GPT2_SPLIT matches across it, and none that ends there looks further.

    A text without any such place is held in memory until its end.
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


def load_tokens(folder):
    """(train_ids, val_ids, tokenizer) of a folder that `python -m matgpt data` made; ids (N,) are mapped, not loaded.

    Raises ValueError, naming the file and what is wrong, where one is missing, damaged or of another length.
    """
    path, tokens = Path(folder) / "meta.json", Path(folder) / "tokens.bin"
    tokenizer = load_tokenizer(folder)
    try:
        meta = json.loads(path.read_bytes())
        if meta["format"] != FORMAT:
            raise ValueError(f"its format is {meta['format']!r}, and this version reads {FORMAT}")
        dtype, n, n_train = np.dtype(meta["dtype"]), meta["n_tokens"], meta["n_train"]
        if dtype not in (np.uint16, np.uint32) or not type(n) is type(n_train) is int or not 0 < n_train < n:
            raise ValueError(
                f"dtype={meta['dtype']!r}, n_tokens={n!r}, n_train={n_train!r} do not fit together"
            )
        if meta["vocab_size"] != tokenizer.vocab_size:
            raise ValueError(
                f"vocab_size={meta['vocab_size']!r}, but the tokenizer has {tokenizer.vocab_size} tokens"
            )
        if tokens.stat().st_size != n * dtype.itemsize:
            raise ValueError(
                f"{n} tokens take {n * dtype.itemsize} bytes, but {tokens} has {tokens.stat().st_size}"
            )
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise ValueError(f"{path} is damaged: it has no entry {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    ids = np.memmap(tokens, dtype, mode="r")
    return ids[:n_train], ids[n_train:], tokenizer
