"""Texts, their split into training and validation, and token files for texts larger than memory.

    python -m matgpt.data my.txt more.txt --tokenizer bpe --vocab 4096 --out data/mine
"""
import argparse
import codecs
import hashlib
import http.client
import json
import os
import re
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .checkpoint import write
from .tokenizer import BPETokenizer, CharTokenizer, load_tokenizer

CORPORA = ("python-docs", "shakespeare")
DATA = Path(__file__).parent.parent / "data"
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

FORMAT = 1
CHUNK = 2**20        # bytes of a text that are read at once
SAMPLE = 10 * 2**20  # characters at the beginning of the texts from which token files learn their BPE


def load_text(name_or_path, data_dir=None):
    """The text of "python-docs" (in every Python), "shakespeare" (downloaded once into `data_dir`, by default the
    folder data/ of this repository) or the UTF-8 file of that path.

    Raises ValueError for a file that is missing, damaged or not UTF-8, ConnectionError if the download fails, and
    ImportError if this Python came without its documentation.
    """
    if name_or_path == "python-docs":
        return "\n\n".join(load_topics().values())
    if name_or_path == "shakespeare":
        return _shakespeare(Path(data_dir or DATA) / "shakespeare.txt")
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(f"there is no corpus or file {str(path)!r}: give {' or '.join(map(repr, CORPORA))}, "
                         "or the path of a UTF-8 text")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error.start) from None


def load_topics():
    """Topics of the language reference that Python carries: name -> text, sorted by name. ImportError without it."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ImportError("this Python came without pydoc_data, the text of \"python-docs\": use the one of "
                          "python.org or conda, or load_text with the path of a file") from error
    return {name: topics[name] for name in sorted(topics)}


def split(ids, val_fraction=0.1):
    """(training, validation): contiguous, validation is the last `val_fraction` of ids (N,).

    A list becomes an int64 tensor; tensors, arrays and memory-mapped files are cut without copying. Raises ValueError
    where a part would be empty.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction={val_fraction!r} must be between 0 and 1")
    if not isinstance(ids, (torch.Tensor, np.ndarray)):
        ids = torch.tensor(ids, dtype=torch.int64)
    if ids.ndim != 1:
        raise ValueError(f"ids must be one row, (N,), not of shape {tuple(ids.shape)}")
    n_train = len(ids) - int(len(ids) * val_fraction)
    if not 0 < n_train < len(ids):
        raise ValueError(f"a corpus of {len(ids)} tokens is too short to split: a part would be empty")
    return ids[:n_train], ids[n_train:]


def load_tokens(folder):
    """(train_ids, val_ids, tokenizer) of token files made by `prepare`; the ids (N,) are memory-mapped, not loaded.

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
            raise ValueError(f"dtype={meta['dtype']!r}, n_tokens={n!r}, n_train={n_train!r} do not fit together")
        if meta["vocab_size"] != tokenizer.vocab_size:
            raise ValueError(f"vocab_size={meta['vocab_size']!r}, but the tokenizer has {tokenizer.vocab_size} tokens")
        if tokens.stat().st_size != n * dtype.itemsize:
            raise ValueError(f"{n} tokens take {n * dtype.itemsize} bytes, but {tokens} has {tokens.stat().st_size}")
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise ValueError(f"{path} is damaged: it has no entry {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    ids = np.memmap(tokens, dtype, mode="r")
    return ids[:n_train], ids[n_train:], tokenizer


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
        meta = {"format": FORMAT, "dtype": np.dtype(dtype).name, "vocab_size": tokenizer.vocab_size,
                "n_tokens": n, "n_train": n_train,
                "sources": [{"file": str(path), "bytes": path.stat().st_size} for path in paths]}
        tokenizer.save(partial)
        write(partial / "meta.json", json.dumps(meta, indent=1).encode())
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return meta


def read(paths, label=None):
    """The text of UTF-8 files in pieces of about a MiB; with a `label`, under a bar that counts bytes."""
    with tqdm(total=sum(path.stat().st_size for path in paths), desc=label, unit="B", unit_scale=True,
              disable=label is None) as bar:
        for path in paths:
            decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
            with open(path, "rb") as file:
                while True:
                    data = file.read(CHUNK)
                    held = len(decoder.getstate()[0])  # bytes of a character that began in the last piece
                    try:
                        text = decoder.decode(data, final=not data)
                    except UnicodeDecodeError as error:
                        raise _not_utf8(path, at - held + error.start) from None
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


def _shakespeare(path):
    """The text kept in `path`, which is downloaded first if there is no such file."""
    kept = path.exists()
    data = path.read_bytes() if kept else _download(SHAKESPEARE_URL, path)
    found = hashlib.sha256(data).hexdigest()
    if found != SHAKESPEARE_SHA256:
        raise ValueError(f"{path if kept else SHAKESPEARE_URL} is not TinyShakespeare: its SHA-256 is {found} and must "
                         f"be {SHAKESPEARE_SHA256}{'; remove the file, and it is downloaded again' if kept else ''}")
    if not kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f"{path.name}.{os.getpid()}")  # several processes may download at once
        write(own, data)
        own.replace(path)
    return data.decode()


def _download(url, path):
    """The bytes behind `url`, under a progress bar. Raises ConnectionError, which says what to do about `path`."""
    data = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            size = int(response.headers.get("Content-Length", 0))
            with tqdm(total=size or None, desc=path.name, unit="B", unit_scale=True) as bar:
                while piece := response.read(2**16):
                    data += piece
                    bar.update(len(piece))
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"could not download {url} ({error}): put that file at {path}, or use \"python-docs\", "
                              "which needs no network") from error
    return bytes(data)


def _not_utf8(path, at):
    return ValueError(f"{path} is not UTF-8: the byte at offset {at} cannot be decoded; convert the file first")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m matgpt.data", description="Turn UTF-8 text files, of any size, into memory-mapped token files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("files", nargs="+", help="text files, taken as one text in this order")
    parser.add_argument("--tokenizer", choices=("bpe", "char"), default="bpe", help="byte pairs or characters")
    parser.add_argument("--vocab", type=int, default=4096, help="tokens to learn, at least 256; bpe only")
    parser.add_argument("--out", required=True, help="folder to make; it must not exist yet")
    options = parser.parse_args(arguments)
    if options.vocab < 256:
        parser.error(f"argument --vocab: {options.vocab} must be at least 256, one token for each byte")
    try:
        meta = prepare(options.files, options.out, options.tokenizer, options.vocab)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{options.out}: {meta['n_tokens']:,} tokens of a vocabulary of {meta['vocab_size']:,}, the first "
          f"{meta['n_train']:,} for training")


if __name__ == "__main__":
    main()
