"""What is built is found, what is not is said, and what a kernel cannot read is refused."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from objectness.errors import ConfigError
from objectness.kernels.cpu import library
from objectness.kernels.cpu.library import (
    ENVIRONMENT,
    VARIANTS,
    check_result,
    check_tensor,
    choose_variant,
    describe,
    find_library,
    get_pointer,
)

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "src" / "objectness" / "kernels" / "cpu"


@pytest.fixture(autouse=True)
def ordinary_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    load = library._load  # a test may put something else in its place
    load.cache_clear()
    yield
    load.cache_clear()


def pretend_processor(monkeypatch: pytest.MonkeyPatch, best: str) -> None:
    stub = SimpleNamespace(objectness_best_variant=lambda: VARIANTS.index(best))
    monkeypatch.setattr(library, "_load", lambda folder: library.Build(stub, ""))  # type: ignore[arg-type]


# Finding it


def test_numbers_are_those_of_the_header() -> None:
    header = (KERNELS / "native.h").read_text()
    assert f"OBJECTNESS_ABI = {library.ABI}" in header
    assert f"ERROR_MEMORY = {library.ERROR_MEMORY}" in header
    assert ", ".join(f"VARIANT_{name.upper()}" for name in VARIANTS) in header


def test_the_abi_is_counted_up_with_every_change_of_the_interface() -> None:
    """A library of before the change was loaded and crashed. Where this fails: ABI + 1, and the new hash."""
    sources = "".join(re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S) for path in sorted(KERNELS.glob("*.c")))
    functions = re.findall(r"EXPORT [^{]*", sources)
    structs = re.findall(r"typedef struct \{[^}]*\} (?:Map|Level|Options);", sources)
    assert (len(functions), len(structs)) == (7, 5)
    words = " ".join(" ".join(functions + structs).split())
    assert (library.ABI, hashlib.sha256(words.encode()).hexdigest()[:16]) == (4, "ce1099e2e1e5ce0d")


@pytest.mark.skipif(find_library() is None, reason=describe())
def test_what_was_built() -> None:
    assert find_library() is find_library()
    assert describe() == f"kernels in C run, compiled for {VARIANTS[choose_variant()]}"


@pytest.mark.parametrize("best", VARIANTS)
def test_the_best_variant_is_taken(best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_processor(monkeypatch, best)
    assert VARIANTS[choose_variant()] == best
    monkeypatch.setenv(ENVIRONMENT, "")
    assert VARIANTS[choose_variant()] == best
    monkeypatch.setenv(ENVIRONMENT, "plain")
    assert VARIANTS[choose_variant()] == "plain"


def test_a_variant_beyond_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_processor(monkeypatch, "avx2")
    monkeypatch.setenv(ENVIRONMENT, "avx512")
    with pytest.raises(ConfigError, match="OBJECTNESS_KERNELS=avx512: this processor can run avx2 at best"):
        choose_variant()


@pytest.mark.parametrize("ask", [find_library, choose_variant, describe])
def test_an_unknown_variant(ask: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "fast")
    with pytest.raises(ConfigError, match="OBJECTNESS_KERNELS=fast is none of off, require, plain, avx2, avx512"):
        ask()  # type: ignore[operator]


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "off")
    assert find_library() is None
    assert describe().startswith("kernels are switched off by OBJECTNESS_KERNELS=off; everything takes the plain")


# Not finding it


def test_none_was_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    assert find_library() is None
    assert describe() == (
        "no kernel was built: there was no C compiler when the package was installed;"
        " everything takes the plain torch path"
    )


def test_none_was_built_though_it_is_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a run of the tests without kernels would skip what it is for, and pass."""
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    monkeypatch.setenv(ENVIRONMENT, "require")
    with pytest.raises(ConfigError, match=r"^OBJECTNESS_KERNELS=require: no kernel was built: there was no C compiler"):
        find_library()
    monkeypatch.undo()
    monkeypatch.setenv(ENVIRONMENT, "require")
    pretend_processor(monkeypatch, "avx2")
    assert find_library() is not None
    assert VARIANTS[choose_variant()] == "avx2"


def test_a_file_that_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"_native{EXTENSION_SUFFIXES[0]}").write_bytes(b"nothing")
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    assert find_library() is None
    assert f"_native{EXTENSION_SUFFIXES[0]} cannot be loaded" in describe()


@pytest.mark.skipif(find_library() is None, reason=describe())
def test_a_library_of_other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "ABI", library.ABI + 1)
    assert find_library() is None
    assert "was built from other sources; install the package again; everything takes the plain" in describe()


# What is handed over


def test_check_tensor() -> None:
    tensor = torch.zeros(2, 3)
    for shape in ((2, 3), (None, 3), (None, None)):
        assert check_tensor("boxes", tensor, shape) is tensor
    assert get_pointer("boxes", tensor, (2, 3)) == tensor.data_ptr()
    for bad, error, sentence in (
        (tensor.double(), TypeError, "boxes is a torch.float64 tensor .torch.strided.; a kernel needs a dense torch.f"),
        (tensor.to_sparse(), TypeError, "boxes is a torch.float32 tensor .torch.sparse_coo.; a kernel needs a dense"),
        (tensor.to("meta"), ValueError, "boxes is on meta; a kernel needs it on the CPU"),
        (tensor[0], ValueError, r"boxes has the shape \(3,\); a kernel needs \(any, 3\)"),
        (tensor[:, :2], ValueError, r"boxes has the shape \(2, 2\); a kernel needs \(any, 3\)"),
        (torch.zeros(3, 2).T, ValueError, r"boxes is not contiguous; a kernel needs it in order: call contiguous\(\)"),
    ):
        with pytest.raises(error, match=sentence):
            get_pointer("boxes", bad, (None, 3))


def test_check_result() -> None:
    assert check_result(0) == 0
    assert check_result(7) == 7
    with pytest.raises(MemoryError, match="a kernel could not allocate its working memory"):
        check_result(library.ERROR_MEMORY)


# Building it


def build(folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    """Build in a copy of what a source distribution has; what came of it."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    kernels = folder / "src" / "objectness" / "kernels" / "cpu"
    shutil.copytree(KERNELS, kernels, ignore=shutil.ignore_patterns("_native*"))
    (folder / "src" / "objectness" / "__init__.py").touch()
    process = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return process, list(kernels.glob("_native*"))


@pytest.mark.slow
@pytest.mark.skipif(find_library() is None, reason=describe())
def test_it_builds_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, built = build(tmp_path, CFLAGS="-Wall -Wextra -Wconversion -Wshadow -Werror")
    assert process.returncode == 0, process.stderr
    assert len(built) == 1, process.stderr
    monkeypatch.setattr(library, "FOLDER", built[0].parent)
    assert find_library() is not None


@pytest.mark.slow
def test_without_a_compiler_installation_goes_on(tmp_path: Path) -> None:
    process, built = build(tmp_path, CC="no-such-compiler")
    assert process.returncode == 0, process.stderr
    assert not built


@pytest.mark.slow
def test_sanitizers_find_nothing() -> None:
    process = subprocess.run(
        [sys.executable, Path(__file__).parent / "sanitize.py"], capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stdout + process.stderr
    if process.stdout.startswith("skipped"):
        pytest.skip(process.stdout.strip())
