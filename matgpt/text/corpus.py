"""The texts that have a name, and the split of a text into training and validation."""

import os
import re
import sysconfig
from numbers import Real
from pathlib import Path

import numpy as np
import torch

from ..files.atomic import as_path
from .download import DOWNLOADS, fetch
from .sources import END, Source, pieces, texts

BUILT = "(site|dist)-packages/|_sysconfigdata|config-"
STDLIB = {  # name: what is left out, such as what a build wrote about itself
    "python-stdlib": rf"{BUILT}|(.*/)?(test|tests|idle_test)/",
    "python-stdlib+tests": BUILT,
}
CORPORA = ("python-docs", *STDLIB, *DOWNLOADS)
REMEDY = "use the one of python.org or conda, or load_text with the path of a file"


def load_text(name_or_path, data_dir=None):
    """The text of a corpus, or of the UTF-8 file of that path, which may be packed (.gz, .zst, .zip).

    "python-docs" and "python-stdlib" ("python-stdlib+tests": with its tests) come with Python; "shakespeare",
    "enwik8" and "tinystories" are downloaded once into `data_dir`, by default the folder data/ of this
    repository. Raises ValueError for a file that is missing, damaged or not UTF-8, ConnectionError if the
    download fails, and ImportError if this Python came without its documentation or sources.
    """
    path = as_path(name_or_path)
    if name_or_path == "python-docs":
        try:
            from pydoc_data.topics import topics
        except ImportError as error:
            lacks = 'without pydoc_data, the text of "python-docs"'
            raise ImportError(f"this Python came {lacks}: {REMEDY}") from error
        return END.join(topics[name] for name in sorted(topics))
    if name_or_path in STDLIB:
        return "".join(text for file in find(name_or_path) for _, text in texts(file)).removesuffix(END)
    if name_or_path in DOWNLOADS:
        path = fetch(name_or_path, data_dir)
    if not os.path.isfile(path):  # not a name too long for any file, either
        raise unknown(path)
    return "".join(pieces(path))


def find(name_or_path, pattern="*"):
    """The sources behind a name or path: of a folder its files that fit `pattern`, sorted, none hidden."""
    path = fetch(name_or_path) if name_or_path in DOWNLOADS else as_path(name_or_path)
    left_out = r"(.*/)?\."
    if name_or_path in STDLIB:
        path, pattern, left_out = Path(sysconfig.get_paths()["stdlib"]), "*.py", STDLIB[name_or_path]
    elif path.is_file():
        return [Source.of(path, "stories" if name_or_path == "tinystories" else "text")]
    elif not path.is_dir():
        raise unknown(path, CORPORA[1:])
    found = [
        Source.of(file, "document")
        for file in sorted(path.rglob(pattern))
        if not re.match(left_out, file.relative_to(path).as_posix()) and file.is_file()
    ]
    if name_or_path in STDLIB and not found:
        lacks = f'without the sources of its library ("python-stdlib"; none are in {path})'
        raise ImportError(f"this Python came {lacks}: {REMEDY}")
    if not found:
        raise ValueError(f"no file in {path} fits the pattern {pattern!r}")
    return found


def unknown(path, known=CORPORA):
    names = ", ".join(map(repr, known))
    what = f"there is no corpus or file {str(path)!r:.200}"
    return ValueError(f"{what}: give {names}, or the path of a UTF-8 text")


def split(ids, val_fraction=0.1):
    """(training, validation): contiguous, validation is the last `val_fraction` of ids (N,).

    A list becomes an int64 tensor; tensors, arrays and memory-mapped files are cut without copying. Raises
    ValueError where a part would be empty, and for what are no whole numbers.
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
