"""Files whose address ends with the start of their SHA-256: fetched once, checked, kept in torch's cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from ..errors import DownloadError


def fetch(url: str) -> Path:
    """The file of an address such as ".../resnet50-0676ba61.pth", in torch's cache; downloaded if it is not there.

    Raises:
        DownloadError: it cannot be fetched, or is not what was published.
    """
    name = url.rsplit("/", 1)[1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        if not hash_file(path).startswith(get_digest(url)):
            raise DownloadError(f"{path}: is not the file that {url} publishes; delete it and try again")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=get_digest(url))
    except OSError as error:  # URLError and timeouts are OSErrors
        raise DownloadError(f"{url}: cannot be fetched ({error}); fetch it elsewhere and pass the file") from error
    except RuntimeError as error:
        raise DownloadError(f"{url}: what came is not what it should be ({error}); try again") from error
    return path


def get_digest(url: str) -> str:
    """The first eight digits of the SHA-256 of what an address publishes."""
    return url.rsplit("-", 1)[1].split(".", 1)[0]


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
