"""Files of text, plain or packed: read in pieces under a count of bytes, and cut into documents."""

import codecs
import gzip
import hashlib
import importlib
import itertools
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

from tqdm.utils import CallbackIOWrapper

CHUNK = 2**20  # bytes of a text that are read at once
END = "\n\n"  # stands behind each document


class Source(NamedTuple):
    """A file, and what it holds: a "text", a "document" among others, or documents, "rows" or "stories"."""

    path: Path
    kind: str

    @classmethod
    def of(cls, path, kind):
        return cls(path, "rows" if re.search(r"\.parquet$|\.jsonl(\.gz|\.zst)?$", path.name) else kind)


class NotUTF8(ValueError):
    pass


def texts(source, column="text", heard=lambda n: None):
    """(part, text) of a source: documents behind "train" or "val", or the pieces of a text behind None.

    A hash of a document's content says which part it belongs to, whatever else there is. One that is not
    UTF-8 is left out with a warning. `heard` is told how many bytes each read took from the disk.
    """
    path, kind = source
    try:
        found = rows(path, column, heard) if kind == "rows" else pieces(path, heard)
        if kind == "stories":
            found = map(str.strip, cut(found, "<|endoftext|>"))
        for text in ["".join(found)] if kind == "document" else found:
            if kind == "text":
                yield None, text
            elif text:
                digest = hashlib.sha256(text.encode()).hexdigest()
                yield "train" if int(digest, 16) % 100 else "val", text + END
    except NotUTF8 as error:
        if kind != "document":
            raise
        warnings.warn(f"left out: {error}", stacklevel=2)


def rows(path, column, heard):
    """The texts in a column of a .parquet or .jsonl file."""
    found = table(path, column, heard) if path.suffix == ".parquet" else cut(pieces(path, heard), "\n")
    for n, row in enumerate(found, 1):
        try:
            text = (json.loads(row) if isinstance(row, str) else row)[column]
            text = "" if text is None else text
            text.encode()
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"{path}, row {n}: no text in column {column!r} of {row!r:.60}") from None
        yield text


def cut(pieces, separator):
    """What stands between separators, unless it is blank."""
    held = ""
    for piece in itertools.chain(pieces, [separator]):
        *whole, held = (held + piece).split(separator)
        yield from filter(str.strip, whole)


def table(path, column, heard):
    """{column: text} for each row of a .parquet file."""
    parquet = needed("pyarrow.parquet", path)
    try:
        with open(path, "rb") as raw:
            file = parquet.ParquetFile(CallbackIOWrapper(heard, raw, "read"))
            if column not in file.schema_arrow.names:
                raise ValueError(f"no column {column!r} among {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(1000, columns=[column]):
                yield from batch.to_pylist()
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def pieces(path, heard=lambda n: None):
    """The text of a UTF-8 file, unpacked where its name says so, in pieces of about a MiB."""
    decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
    for data in itertools.chain(unpacked(path, heard), [None]):
        held = len(decoder.getstate()[0])  # bytes of a character that began in the last piece
        try:
            text = decoder.decode(data or b"", final=data is None)
        except UnicodeDecodeError as error:
            raise NotUTF8(
                f"{path} is not UTF-8: the byte at offset {at - held + error.start} cannot be decoded; "
                "convert the file first"
            ) from None
        at += len(data or b"")
        if text:
            yield text


def unpacked(path, heard):
    """The bytes of a file in blocks; behind .gz, .zst or .zip (of one file) those that are packed in it."""
    arrow = needed("pyarrow", path) if path.suffix == ".zst" else None
    try:
        with open(path, "rb") as raw:
            file = CallbackIOWrapper(heard, raw, "read")
            if arrow:
                file = arrow.CompressedInputStream(file, "zstd")
            elif path.suffix == ".gz":
                file = gzip.GzipFile(fileobj=file)
            elif path.suffix == ".zip":
                archive = zipfile.ZipFile(file)
                if len(archive.namelist()) != 1:
                    raise ValueError(f"it holds {len(archive.namelist())} files and must hold one")
                file = archive.open(*archive.namelist())
            while data := file.read(CHUNK):
                yield data
    except Exception as error:  # each of the packers has its own
        raise ValueError(f"{path} cannot be read: {error}") from error


def needed(module, path):
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise ImportError(f"{path} takes the package {package}: pip install {package}") from None
