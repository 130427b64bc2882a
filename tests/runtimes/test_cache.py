import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from tiny import make_tiny

from objectness.runtimes import cache as caching
from objectness.runtimes.cache import MANIFEST, Cache, find_cache_folder, is_whole, make_key


def write(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "network.bin").write_text(text) and None  # type: ignore[func-returns-value]


def refuse(folder: Path) -> None:
    raise AssertionError("it is there already, so nothing should be built")


def list_names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_built_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "deep" / "cache")
    folder = cache.fetch("a-1", write("weights"))
    assert folder == tmp_path / "deep" / "cache" / "a-1"
    assert (folder / "network.bin").read_text() == "weights"
    assert cache.fetch("a-1", refuse) == folder
    assert Cache(cache.root).fetch("a-1", refuse) == folder  # another process, so to speak
    assert cache.fetch("a-2", write("other")) != folder
    assert list_names(cache.root) == ["a-1", "a-2"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "network.bin").write_text("half")
        raise RuntimeError("the converter crashed")

    cache = Cache(tmp_path)
    with pytest.raises(RuntimeError, match="crashed"):
        cache.fetch("a-1", fail)
    assert list_names(tmp_path) == []
    assert (cache.fetch("a-1", write("whole")) / "network.bin").read_text() == "whole"


def test_a_killed_process_leaves_nothing_that_counts(tmp_path: Path) -> None:
    script = f"""
import os, pathlib
from objectness.runtimes.cache import Cache
def build(folder):
    (folder / "network.bin").write_text("half")
    os._exit(9)
Cache(pathlib.Path({str(tmp_path)!r})).fetch("a-1", build)
"""
    assert subprocess.run([sys.executable, "-c", script], env={**os.environ}, check=False).returncode == 9
    [left] = list_names(tmp_path)
    assert left.endswith(".partial")
    assert (Cache(tmp_path).fetch("a-1", write("whole")) / "network.bin").read_text() == "whole"
    assert list_names(tmp_path) == ["a-1", left]  # another process may still be at it
    two_days_ago = time.time() - 2 * 86400
    os.utime(tmp_path / left, (two_days_ago, two_days_ago))
    Cache(tmp_path).fetch("a-2", write("whole"))
    assert list_names(tmp_path) == ["a-1", "a-2"]


@pytest.mark.parametrize("harm", ["cut", "removed", "no manifest", "no list", "not JSON"])
def test_what_is_damaged_is_built_again(tmp_path: Path, harm: str) -> None:
    cache = Cache(tmp_path)
    folder = cache.fetch("a-1", write("weights"))
    assert is_whole(folder)
    if harm == "cut":
        (folder / "network.bin").write_text("weig")
    elif harm == "removed":
        (folder / "network.bin").unlink()
    elif harm == "no manifest":
        (folder / MANIFEST).unlink()
    else:
        (folder / MANIFEST).write_text("[1]" if harm == "no list" else "{")
    assert not is_whole(folder)
    assert cache.fetch("a-1", write("again")) == folder
    assert (folder / "network.bin").read_text() == "again"
    assert list_names(tmp_path) == ["a-1"]


def test_two_that_build_the_same_agree(tmp_path: Path) -> None:
    both_have_begun = Barrier(2, timeout=10)
    found = []

    def build(folder: Path) -> None:
        both_have_begun.wait()
        (folder / "network.bin").write_text("weights")

    threads = [Thread(target=lambda: found.append(Cache(tmp_path).fetch("a-1", build))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "a-1"] * 2
    assert list_names(tmp_path) == ["a-1"]
    assert is_whole(tmp_path / "a-1")


def test_a_cache_that_cannot_be_written_gives_way_to_a_temporary_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    notes: list[str] = []
    cache = Cache(tmp_path / "file" / "engines", notes.append)
    folder = cache.fetch("unwritable-1", write("weights"))
    assert (folder / "network.bin").read_text() == "weights"
    assert tmp_path not in folder.parents
    assert cache.fetch("unwritable-1", refuse) == folder  # as long as the process lives
    assert len(notes) == 1
    assert "cannot be written" in notes[0]
    assert "OBJECTNESS_CACHE" in notes[0]


def test_the_temporary_folder_goes_with_the_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    script = f"""
import pathlib
from objectness.runtimes.cache import Cache
build = lambda folder: (folder / "a").write_text("x")
print(Cache(pathlib.Path({str(tmp_path / "file" / "x")!r})).fetch("a-1", build))
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    folder = Path(done.stdout.strip())
    assert folder.name == "a-1"
    assert not folder.parent.exists()


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {}, "home/.cache/objectness/engines"),
        ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/objectness/engines"),
        ("linux", {"XDG_CACHE_HOME": ""}, "home/.cache/objectness/engines"),
        ("darwin", {"XDG_CACHE_HOME": "xdg"}, "home/Library/Caches/objectness/engines"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/objectness/engines"),
        ("win32", {}, "home/AppData/Local/objectness/engines"),
        ("linux", {"OBJECTNESS_CACHE": "mine", "XDG_CACHE_HOME": "xdg"}, "mine/engines"),
        ("win32", {"OBJECTNESS_CACHE": "~/mine"}, "home/mine/engines"),
    ],
)
def test_where_it_is(monkeypatch: pytest.MonkeyPatch, system: str, variables: dict[str, str], expected: str) -> None:
    for name in ("OBJECTNESS_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "home", "USERPROFILE": "home", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    assert find_cache_folder() == Path(expected)


def test_the_key_depends_on_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_tiny()
    baked = {"torch": "2.13", "ncnn": "1.0"}
    key = make_key("ncnn", network, baked)
    assert key.startswith("ncnn-")
    assert make_key("ncnn", make_tiny(), dict(reversed(baked.items()))) == key  # the same, made again

    others = [make_key("ncnn", network, {**baked, "ncnn": "1.1"}), make_key("ncnn", network, {"torch": "2.13"})]
    other_config = make_tiny()
    other_config.config = replace(other_config.config, class_order="object_last")
    others.append(make_key("ncnn", other_config, baked))
    other_weights = make_tiny()
    with torch.no_grad():
        other_weights.head.cls.bias[0] = torch.nextafter(other_weights.head.cls.bias[0], torch.tensor(1.0))
    others.append(make_key("ncnn", other_weights, baked))
    other_module = make_tiny()
    other_module.backbone.body.stage2[0].padding = (2, 2)  # type: ignore[index,union-attr,operator]
    others.append(make_key("ncnn", other_module, baked))
    monkeypatch.setattr(caching, "FORMAT", caching.FORMAT + 1)
    others.append(make_key("ncnn", network, baked))
    assert len({key, *others}) == 1 + len(others)


def test_the_key_stays_the_same_in_other_types_and_layouts() -> None:
    network = make_tiny()
    key = make_key("a", network, {})
    assert make_key("a", network.to(memory_format=torch.channels_last), {}) == key  # type: ignore[call-overload]
    assert make_key("a", network.bfloat16(), {}) != key


def test_the_manifest_lists_every_file(tmp_path: Path) -> None:
    folder = Cache(tmp_path).fetch("a-1", write("12345"))
    assert json.loads((folder / MANIFEST).read_text()) == {"network.bin": 5}
