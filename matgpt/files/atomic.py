"""Read files, and replace them so that a reader finds the old content or the new one, never a part."""

import json
import os
import signal
import threading
from contextlib import contextmanager, suppress
from pathlib import Path


def as_path(path):
    """Return `path` as a Path, with `~` expanded. Raises ValueError, naming it, unless it is a path."""
    with suppress(TypeError, RuntimeError):
        if path != "":  # Path("") would be the current folder
            return Path(path).expanduser()
    raise ValueError(f"{path!r:.60} is not a path: give a string or a Path")


def write(path, data):
    """Write bytes so that `path` always holds what it held before, or all of `data`."""
    write_all({path: data})


def write_all(files):
    """Write {path: bytes}, making folders. No file is replaced until all of them are on the disk."""
    own = f"{os.getpid()}{threading.get_ident()}"  # two threads may write one file
    new = {path: path.with_name(f"{path.name}.matgpt-{own}.tmp") for path in files}
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(new[path], "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        with uninterrupted():
            for path, temporary in new.items():
                os.replace(temporary, path)
    finally:
        for temporary in new.values():
            temporary.unlink(missing_ok=True)


@contextmanager
def uninterrupted():
    """Delay Ctrl-C until the block is done, so that what changes together is never left half changed."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield  # nothing here would raise KeyboardInterrupt
        return
    pressed = []
    signal.signal(signal.SIGINT, lambda *press: pressed.append(press))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed:
        handler(*pressed[0])


@contextmanager
def parsed(path):
    """Yield the content of a JSON file; an error in the block becomes a ValueError that names the file."""
    try:
        yield json.loads(path.read_bytes())
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from None
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:  # content of another kind
        raise ValueError(f"{path}: {error!r}") from None
