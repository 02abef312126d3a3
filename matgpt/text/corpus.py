"""Texts by name, from files and from the Hugging Face hub; and the split into training and validation."""

import gzip
import os
import re
import sysconfig
import warnings
import zlib
from numbers import Real
from pathlib import Path

import numpy as np
import pooch
import torch

from ..files.atomic import as_path
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
HUB = {"tinystories": "hf:roneneldan/TinyStories"}
BUILT = "(site|dist)-packages/|_sysconfigdata|config-"  # installed packages, and what a build records
STDLIB = {  # name: the files of Python's library that are left out
    "python-stdlib": rf"{BUILT}|(.*/)?(test|tests|idle_test)/",
    "python-stdlib+tests": BUILT,
}
CORPORA = ("python-docs", *STDLIB, *DOWNLOADS, *HUB)
TABLE = re.compile(r"\.(parquet|jsonl(\.gz|\.zst)?)$", re.IGNORECASE)
TOKEN_FILES = ("train.bin", "val.bin", "meta.json", "tokenizer.json")
CHUNK = 2**20  # characters of a file that are read at once
END = "\n\n"  # follows each document


def load_text(name_or_path, data_dir=None):
    """Return the text of anything that `read_source` reads, with a blank line between documents.

    data_dir: folder of the downloads, by default data/ of this repository. Errors as in `read_source`.
    """
    is_text, texts = read_source(name_or_path, data_dir=data_dir)
    return ("" if is_text else END).join(texts)


def read_source(name_or_path, pattern="*", column="text", data_dir=None):
    """Return (True, the pieces of one text) or (False, documents), as an iterator that holds one at a time.

    One text: "python-docs", which comes with Python; "shakespeare" and "enwik8", downloaded once; the path of
    a UTF-8 file (.gz or not). Documents: "python-stdlib" ("python-stdlib+tests" with its tests), a folder
    (each file that matches `pattern`), and `column` of a table: .jsonl, .parquet, "tinystories" or any data
    set of the hub, as "hf:owner/name". Raises ValueError for a file that is missing, damaged or not UTF-8,
    ConnectionError if a download fails, and ImportError for a missing package or part of Python.
    """
    path, name = as_path(name_or_path), str(name_or_path)
    name = HUB.get(name, name)
    if name == "python-docs":
        return True, [python_docs()]
    if name in STDLIB:
        library = Path(sysconfig.get_paths()["stdlib"])
        files = list_files(library, "*.py", STDLIB[name])
        if not files:
            raise ImportError(f'this Python lacks the sources of its library ("{name}"): none in {library}')
        return False, read_documents(files, column)
    if name.startswith("hf:"):
        return False, read_table(name, column)
    if name in DOWNLOADS:
        path = fetch(name, data_dir)
    if os.path.isdir(path):
        files = list_files(path, pattern)
        if not files:
            raise ValueError(f"no file in {path} matches the pattern {pattern!r}")
        return False, read_documents(files, column)
    if not os.path.isfile(path):
        names = ", ".join(map(repr, CORPORA))
        raise ValueError(f"there is no corpus or file {name!r:.200}: give {names}, or the path of a text")
    return (False, read_table(path, column)) if TABLE.search(path.name) else (True, read_pieces(path))


def python_docs():
    """Return the language reference that comes with Python, its topics sorted by name."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ImportError(
            'this Python lacks pydoc_data, the text of "python-docs": use one of python.org or conda, or the '
            "path of a text"
        ) from error
    return END.join(topics[name] for name in sorted(topics))


def fetch(name, data_dir=None):
    """Return the path of a download; get it first unless it is there. Raises ValueError for wrong content."""
    url, digest = DOWNLOADS[name]
    path = Path(data_dir or DATA).expanduser() / f"{name}{Path(url).suffix}"
    if path.exists() and (actual := pooch.file_hash(path)) != digest:
        raise ValueError(
            f"{path} is not {name}: its SHA-256 is {actual}, not {digest}; remove it to download it again"
        )
    unzip = pooch.Unzip([name]) if path.suffix == ".zip" else None
    try:
        file = pooch.retrieve(url, digest, path.name, path.parent, processor=unzip, progressbar=True)
    except (OSError, ValueError) as error:  # pooch raises ValueError for a wrong hash
        raise ConnectionError(
            f"could not download {name} ({error}): try again, put the file {url} at {path}, or use "
            '"python-docs", which needs no network'
        ) from error
    return Path(file[0] if unzip else file)


def list_files(folder, pattern, left_out="$."):
    """Return the matching files of a folder, sorted, without hidden ones and the token files of `prepare`."""
    left_out = re.compile(rf"(.*/)?\.|{left_out}")
    return [
        file
        for file in sorted(folder.rglob(pattern))
        if file.is_file() and not left_out.match(file.relative_to(folder).as_posix())
        if file.name not in TOKEN_FILES or not all((file.parent / name).exists() for name in TOKEN_FILES[:2])
    ]


def read_documents(files, column):
    """Yield the text of each file, or of each of its rows; skip files that are not UTF-8 with a warning."""
    for file in files:
        if TABLE.search(file.name):
            yield from read_table(file, column)
            continue
        try:
            if text := "".join(read_pieces(file)):
                yield text
        except UnicodeError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)


def read_pieces(path):
    """Yield the text of a UTF-8 file, without its byte-order mark, in pieces that no token reaches across."""
    open_file, rest = gzip.open if path.suffix.lower() == ".gz" else open, ""
    try:
        with open_file(path, "rt", encoding="utf-8-sig", newline="") as file:
            while chunk := file.read(CHUNK):
                *pieces, rest = PIECE.findall(rest + chunk)
                yield from pieces
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{error.object[error.start]:02x} cannot be decoded"
        raise UnicodeError(f"{path} is not UTF-8: {wrong}; convert the file first") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if rest:
        yield rest


def read_table(name, column):
    """Yield the texts in a column of a .jsonl or .parquet file or of a data set of the hub ("hf:...")."""
    try:
        import datasets
    except ImportError:
        raise ImportError(f"{name} needs the package datasets: pip install datasets") from None
    hub, kind = str(name).startswith("hf:"), "parquet" if str(name).lower().endswith("parquet") else "json"
    source = {"path": name[3:]} if hub else {"path": kind, "data_files": str(name)}
    n = 0
    try:
        for row in datasets.load_dataset(**source, split="train", streaming=True):
            n += 1
            if column not in row or not isinstance(row[column], str | None):
                raise ValueError(f"row {n} has no text in column {column!r}: {row!r:.60}")
            if row[column]:
                yield row[column]
    except ConnectionError as error:
        raise ConnectionError(f"{name} cannot be read: {error}") from error
    except Exception as error:  # each format raises its own
        raise ValueError(f"{name} cannot be read after row {n}: {error}") from error


def split(ids, val_fraction=0.1):
    """Cut ids (N,) into (training, validation), both contiguous; validation is the last `val_fraction`.

    A list becomes an int64 tensor; tensors, arrays and memory-mapped files are cut without copying. Raises
    ValueError if a part would be empty, or for ids that are not whole numbers.
    """
    if not isinstance(val_fraction, Real) or not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction={val_fraction!r} must be between 0 and 1")
    if isinstance(ids, str):
        raise ValueError(f"ids={ids!r:.40} must be token ids: encode the text first")
    if not isinstance(ids, (torch.Tensor, np.ndarray)):
        try:
            ids = torch.tensor(ids)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"ids={ids!r:.40} must be one row of token ids, (N,)") from None
    if ids.ndim != 1:
        raise ValueError(f"ids must be one row, (N,), not of shape {tuple(ids.shape)}")
    n_train = len(ids) - int(len(ids) * val_fraction)
    if not 0 < n_train < len(ids):
        raise ValueError(f"a corpus of {len(ids)} tokens is too short to split: a part would be empty")
    if "int" not in str(ids.dtype):
        raise ValueError(f"token ids must be whole numbers, not of type {ids.dtype}")
    return ids[:n_train], ids[n_train:]
