"""Files that a network is converted into, made once and kept in the user's cache.

Each conversion is a folder of its own, under a name that is a hash of everything it depends on; nothing in it ever
changes. It is built under another name beside its place and renamed when it is complete, so that a killed process
leaves nothing that could be taken for whole, and of two processes that build the same the second takes the first's.

OBJECTNESS_CACHE names another folder than the platform's. Deleting it, or any folder in it, costs only time.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from ..network import RegionProposalNetwork

ENVIRONMENT = "OBJECTNESS_CACHE"
MANIFEST = "files.json"  # every other file of a conversion and its size: what is cut short is not whole
PARTIAL = ".partial"  # ends the name of what is being built
PARTIAL_DAYS = 1.0  # what is older was left by a process that was killed
FORMAT = 2  # counted up when the same network and versions shall be converted again


def ignore(note: str) -> None:
    """What is called with a note where nobody listens."""


@dataclass(frozen=True)
class Cache:
    """Where conversions are kept.

    Attributes:
        root: the folder; `find_cache_folder()` is the user's.
        say: called with a sentence where something takes long or goes another way than asked.
    """

    root: Path
    say: Callable[[str], None] = ignore

    def fetch(self, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of a conversion, built where it is not there yet.

        Args:
            key: from `make_key`.
            build: writes the conversion's files into the empty folder that it is given.

        Returns:
            A folder whose files must not be changed. Where the cache cannot be written it is a temporary one, which
            goes when the process ends.
        """
        folder = self.root / key
        if is_whole(folder):
            return folder
        try:
            partial = _start(folder)
        except OSError as error:
            folder = _make_temporary_root() / key
            if is_whole(folder):
                return folder
            reason = error.strerror or error
            self.say(f"{self.root}: cannot be written ({reason}); set {ENVIRONMENT} to a folder that keeps conversions")
            partial = _start(folder)
        try:
            build(partial)
            sizes = {path.name: path.stat().st_size for path in partial.iterdir()}
            (partial / MANIFEST).write_text(json.dumps(sizes))
            _publish(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder


def find_cache_folder() -> Path:
    """Where conversions are kept: `engines` in OBJECTNESS_CACHE, or in `objectness` in the platform's cache folder."""
    if chosen := os.environ.get(ENVIRONMENT):
        return Path(chosen).expanduser() / "engines"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "objectness" / "engines"


def make_key(engine: str, network: RegionProposalNetwork, baked: Mapping[str, object]) -> str:
    """The name of a conversion.

    Args:
        engine: what it is for; the name begins with it.
        network: what is converted: configuration, modules and weights.
        baked: whatever else the files depend on, versions above all; values with a `repr` that tells them apart.
    """
    digest = hashlib.sha256(f"{FORMAT} {sorted(baked.items())!r}".encode())
    digest.update(json.dumps(network.config.to_dict()).encode())
    digest.update(repr(network).encode())  # a backbone of one's own is in no configuration
    hash_weights(network, digest.update)
    return f"{engine}-{digest.hexdigest()[:32]}"


def hash_weights(module: nn.Module, update: Callable[[bytes | memoryview], None]) -> None:
    """Hand the names, types and bytes of all weights to a digest."""
    import torch  # here, since whoever asks where the cache is need not wait for it

    for name, tensor in module.state_dict().items():
        update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def is_whole(folder: Path) -> bool:
    """Whether every file of a conversion is there, as long as it was written."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _start(folder: Path) -> Path:
    """An empty folder beside a conversion's place, which is cleared of what is not whole.

    Raises:
        OSError: nothing can be written there.
    """
    root = folder.parent
    root.mkdir(parents=True, exist_ok=True)
    partial = root / f"{folder.name}.{uuid.uuid4().hex}{PARTIAL}"
    partial.mkdir()
    if folder.exists():
        folder.rename(partial / "damaged")
        shutil.rmtree(partial / "damaged")
    for left in root.glob(f"*{PARTIAL}"):
        if left != partial and _age_days(left) > PARTIAL_DAYS:
            shutil.rmtree(left, ignore_errors=True)
    return partial


def _publish(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not is_whole(folder):  # or else another process was faster, and its files are as good
            raise


def _age_days(path: Path) -> float:
    try:
        return (time.time() - path.stat().st_mtime) / 86400
    except OSError:  # gone meanwhile
        return 0.0


@cache
def _make_temporary_root() -> Path:
    folder = tempfile.mkdtemp(prefix="objectness-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
