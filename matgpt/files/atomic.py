"""Read files, and replace them so that a reader finds the old content or the new one, never a part."""

import json
import os
from contextlib import contextmanager
from pathlib import Path


def as_path(path):
    """Return `path` as a Path, with `~` expanded. Raises ValueError, naming it, unless it is a path."""
    try:
        if path != "":  # Path("") would be the current folder
            return Path(path).expanduser()
    except (TypeError, RuntimeError):
        pass
    raise ValueError(f"{path!r:.60} is not a path: give a string or a Path")


def write(path, data):
    """Write bytes so that `path` always holds what it held before, or all of `data`."""
    write_all({path: data})


def write_all(files):
    """Write {path: bytes}. No file is replaced until all of them are on the disk."""
    new = {path: path.with_name(f"{path.name}.matgpt-{os.getpid()}.tmp") for path in files}
    try:
        for path, data in files.items():
            with open(new[path], "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in new.items():
            os.replace(temporary, path)
    finally:
        for temporary in new.values():
            temporary.unlink(missing_ok=True)


@contextmanager
def parsed(path):
    """Yield the content of a JSON file; an error in the block becomes a ValueError that names the file."""
    try:
        yield json.loads(path.read_bytes())
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from None
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:  # content of another kind
        raise ValueError(f"{path}: {error!r}") from None
