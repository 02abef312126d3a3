"""Texts, their split into training and validation, and token files that are read without being loaded."""

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..files.atomic import write

CORPORA = ("python-docs", "shakespeare")
DATA = Path(__file__).parents[2] / "data"
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


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
        raise ValueError(
            f"there is no corpus or file {str(path)!r}: give {' or '.join(map(repr, CORPORA))}, "
            "or the path of a UTF-8 text"
        )
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise not_utf8(path, error.start) from None


def load_topics():
    """Topics of the language reference that Python carries: name -> text, sorted by name. ImportError without it."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ImportError(
            'this Python came without pydoc_data, the text of "python-docs": use the one of '
            "python.org or conda, or load_text with the path of a file"
        ) from error
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


def _shakespeare(path):
    """The text kept in `path`, which is downloaded first if there is no such file."""
    kept = path.exists()
    data = path.read_bytes() if kept else _download(SHAKESPEARE_URL, path)
    found = hashlib.sha256(data).hexdigest()
    if found != SHAKESPEARE_SHA256:
        raise ValueError(
            f"{path if kept else SHAKESPEARE_URL} is not TinyShakespeare: its SHA-256 is {found} and must "
            f"be {SHAKESPEARE_SHA256}{'; remove the file, and it is downloaded again' if kept else ''}"
        )
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
        raise ConnectionError(
            f'could not download {url} ({error}): put that file at {path}, or use "python-docs", '
            "which needs no network"
        ) from error
    return bytes(data)


def not_utf8(path, at):
    return ValueError(
        f"{path} is not UTF-8: the byte at offset {at} cannot be decoded; convert the file first"
    )
