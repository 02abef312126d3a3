"""Files that are read or replaced as a whole."""

import json
import os
from contextlib import contextmanager
from pathlib import Path


def as_path(path):
    """`path` as a Path, `~` for the home folder; ValueError, naming it, for what is none."""
    try:
        return Path(path).expanduser()
    except (TypeError, RuntimeError):
        raise ValueError(f"{path!r:.60} is no path: give a string or a Path") from None


def write(path, data):
    """Write bytes so that `path` holds, whatever happens, either what it held before or all of `data`."""
    write_all({path: data})


def write_all(files):
    """The same for {path: bytes}: no file is replaced before the disk has all of them."""
    new = {path: path.with_name(f"{path.name}.matgpt-{os.getpid()}.tmp") for path in files}
    try:
        for path, data in files.items():
            with open(new[path], "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in new.items():
            os.replace(temporary, path)
    except BaseException:
        for temporary in new.values():
            temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new names themselves last once their folder is on the disk
        for parent in {path.parent for path in files}:
            folder = os.open(parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def read(path):
    """The bytes of a file; ValueError, naming it, if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


@contextmanager
def parsed(path, what):
    """What a JSON file holds; all that is found wrong with it in the block is a ValueError that names it."""
    data = read(path)
    try:
        yield json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON (truncated?): {error}") from None
    except ValueError as error:
        raise error if str(path.parent) in str(error) else ValueError(f"{path}: {error}") from None
    except OSError as error:  # of a file that belongs to it
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from None
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{path} is not {what}: {error!r}") from None
