"""Texts by name, from files and from the Hugging Face hub; and the split into training and validation."""

import glob
import os
import re
import sysconfig
import warnings
from pathlib import Path

import numpy as np
import pooch
import torch

from ..files.atomic import as_path
from ..sizes import number
from .batches import as_ids
from .tokenizer import PIECE

DATA = Path(__file__).parents[2] / "data"
DOWNLOADS = {  # name: (address, SHA-256)
    "shakespeare": (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "enwik8": (
        "https://mattmahoney.net/dc/enwik8.zip",
        "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
    ),
}
HIDDEN = r"/\."  # left out of every folder
BUILT = rf"{HIDDEN}|^/(site|dist)-packages/|^/_sysconfigdata|^/config-"  # and what a build of Python records
STDLIB = {"python-stdlib": BUILT + "|/(test|tests|idle_test)/", "python-stdlib+tests": BUILT}
TEXTS = ("python-docs", *STDLIB, *DOWNLOADS, "tinystories")  # known by these names
TABLE = re.compile(r"\.(parquet|jsonl(\.gz|\.zst)?)$", re.IGNORECASE)
TOKEN_FILES = ("train.bin", "val.bin", "meta.json", "tokenizer.json")
CHUNK = 2**20  # characters of a file that are read at once
END = "\n\n"  # follows each document


def load_text(name_or_path):
    """Return the text of anything that `read_source` reads, with a blank line between documents."""
    is_text, texts = read_source(name_or_path)
    if not (text := ("" if is_text else END).join(texts)):
        raise ValueError(f"{name_or_path} holds no text")
    return text


def read_source(name_or_path, pattern="*", column="text"):
    """Return (True, the pieces of one text) or (False, documents), to iterate over, one in memory at a time.

    One text: "python-docs", part of Python; "shakespeare" or "enwik8", downloaded once; a UTF-8 file.
    Documents: "python-stdlib" ("python-stdlib+tests" with its tests); the files of a folder that match
    `pattern`; `column` of a table: .jsonl, .parquet, "tinystories" or any "hf:owner/name" of the hub. Raises
    ValueError for a file that is missing, damaged or not UTF-8, ConnectionError for a failed download.
    """
    path, name = as_path(name_or_path), str(name_or_path)
    if name == "python-docs":
        try:
            from pydoc_data.topics import topics
        except ImportError:
            raise ImportError('this Python lacks pydoc_data, the text of "python-docs"') from None
        return True, [END.join(topics[topic] for topic in sorted(topics))]
    if name == "tinystories":
        name = "hf:roneneldan/TinyStories"
    if name.startswith("hf:"):
        return False, read_table(name, column)
    if name in STDLIB:
        return False, read_folder(Path(sysconfig.get_paths()["stdlib"]), "*.py", column, STDLIB[name])
    if name in DOWNLOADS:
        path = fetch(name)
    if os.path.isdir(path):
        return False, read_folder(path, pattern, column)
    if not os.path.isfile(path):
        names = ", ".join(map(repr, TEXTS))
        raise ValueError(f"there is no corpus or file {name!r:.200}: give {names}, or the path of a text")
    return (False, read_table(path, column)) if TABLE.search(path.name) else (True, read_pieces(path))


def fetch(name):
    """Return the path of a download; get it first unless it is there."""
    url, digest = DOWNLOADS[name]
    path = DATA / f"{name}{Path(url).suffix}"
    if path.exists() and pooch.file_hash(path) != digest:
        raise ValueError(f"{path} is not {name} (SHA-256 {digest}): remove it to download it again")
    unzip = pooch.Unzip([name]) if path.suffix == ".zip" else None
    try:
        file = pooch.retrieve(url, digest, path.name, path.parent, processor=unzip, progressbar=True)
    except (OSError, ValueError) as error:  # pooch raises ValueError for a wrong hash
        hint = f'put the file {url} at {path}, or use "python-docs", which needs no network'
        raise ConnectionError(f"could not download {name} ({error}): {hint}") from error
    return Path(file[0] if unzip else file)


def read_folder(folder, pattern, column, left_out=HIDDEN):
    """Yield the text of each file, or of each row of a table, without token files and what is not UTF-8."""
    files = [file for file in sorted(folder.rglob(pattern)) if file.is_file() and file.stat().st_size]
    files = [file for file in files if not re.search(left_out, f"/{file.relative_to(folder).as_posix()}")]
    if not files:
        raise ValueError(f"no file in {folder} matches the pattern {pattern!r}")
    for file in files:
        if file.name in TOKEN_FILES and (file.parent / "val.bin").exists():
            continue
        try:
            texts = read_table(file, column) if TABLE.search(file.name) else ["".join(read_pieces(file))]
            yield from filter(None, texts)
        except UnicodeError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)


def read_pieces(path):
    """Yield the text of a UTF-8 file, without its byte-order mark, in pieces that no token reaches across."""
    rest = ""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            while chunk := file.read(max(CHUNK, len(rest))):  # a long piece is not searched in small steps
                *pieces, rest = PIECE.findall(rest + chunk)
                yield from pieces
    except UnicodeDecodeError as error:
        raise UnicodeError(f"{path} is not UTF-8 ({error.reason}): convert the file first") from None
    if rest:
        yield rest


def read_table(name, column):
    """Yield the texts in a column of a .jsonl or .parquet file or of a data set of the hub ("hf:...")."""
    try:
        import datasets
    except ImportError:
        raise ImportError(f"{name} needs the package datasets: pip install datasets") from None
    kind = "parquet" if str(name).lower().endswith(".parquet") else "json"
    is_hub = str(name).startswith("hf:")
    source = {"path": name[3:]} if is_hub else {"path": kind, "data_files": glob.escape(str(name))}
    n = 0
    try:
        for row in datasets.load_dataset(**source, split="train", streaming=True):
            n += 1
            if column not in row or not isinstance(row[column], str | None):
                raise ValueError(f"there is no text in column {column!r}: {row!r:.60}")
            if row[column]:
                yield row[column]
    except Exception as error:  # each format raises its own
        kind = ConnectionError if isinstance(error, ConnectionError) else ValueError
        raise kind(f"{name} cannot be read at row {n}: {str(error) or repr(error)}") from error


def split(ids, val_fraction=0.1):
    """Cut ids (N,) into (training, validation), both contiguous; validation is the last `val_fraction`.

    A list becomes an int64 tensor; tensors, arrays and memory maps are cut without copying. Raises ValueError
    if a part would be empty, or for ids that are not one row of whole numbers.
    """
    val_fraction = number("val_fraction", val_fraction, "(0, 1)")
    row = as_ids(ids, 0)
    if not isinstance(ids, (torch.Tensor, np.ndarray)):
        ids = torch.from_numpy(row.astype(np.int64))
    n_train = len(ids) - int(len(ids) * val_fraction)
    if n_train == len(ids):
        raise ValueError(f"a corpus of {len(ids)} tokens is too short to split: a part would be empty")
    return ids[:n_train], ids[n_train:]
