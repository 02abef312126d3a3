"""Texts that are downloaded once: checked, resumed where they broke off, by one process for all that ask."""

import contextlib
import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows: there, let one process download before others ask
    fcntl = None

DATA = Path(__file__).parents[2] / "data"
DOWNLOADS = {
    "shakespeare": "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "enwik8": "https://mattmahoney.net/dc/enwik8.zip",
    "tinystories": "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/"
    "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/TinyStoriesV2-GPT4-train.txt",
}
SHA256 = {
    "shakespeare": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    "enwik8": "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
    "tinystories": "6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
}


def fetch(name, data_dir=None):
    """The path of the file in `data_dir` that keeps a corpus, downloaded if it is not there, checked always.

    What a broken download left, in a file .partial, is gone on with. ValueError for another content.
    """
    url = DOWNLOADS[name]
    path = Path(data_dir or DATA) / (name + Path(url).suffix)
    partial = path.with_name(f"{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with one_process(path.parent):
        kept = path.exists()  # maybe since another process was faster
        if not kept:
            download(url, partial)
        with open(path if kept else partial, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == SHA256[name]:
            return path if kept else partial.replace(path)
        if not kept:
            partial.unlink()
    raise ValueError(
        f"{path if kept else url} is not {name}: its SHA-256 is {found} and must be {SHA256[name]}"
        f"{'; remove the file, and it is downloaded again' if kept else ''}"
    )


@contextlib.contextmanager
def one_process(folder):
    """Processes that come here with the same folder take turns."""
    with contextlib.ExitStack() as stack:
        if fcntl:
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            with contextlib.suppress(OSError):  # some network disks know no locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def download(url, path):
    """Fill `path` with what is behind `url`, from where it ends on. ConnectionError if it breaks off."""
    with open(path, "ab") as file:
        have = max(file.tell() - 1, 0)  # of a whole file, too, there is a byte to ask for
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                have = have if response.status == 206 else 0  # else the server sends it from the beginning
                size = have + int(response.headers.get("Content-Length", 0))
                file.truncate(file.seek(have))
                with tqdm(total=size, initial=have, desc=path.stem, unit="B", unit_scale=True) as bar:
                    while piece := response.read(2**16):
                        bar.update(file.write(piece))
                if bar.n < size:
                    raise OSError(f"it broke off after {bar.n} of {size} bytes")
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "code", None) == 416:  # there is more of it than the server has
                file.truncate(0)
            raise ConnectionError(
                f"could not download {url} ({error}): try again, which goes on from there, put that file "
                f'at {path.with_suffix("")}, or use "python-docs" or "python-stdlib", which need no network'
            ) from error
