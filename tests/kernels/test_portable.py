"""The kernels by every compiler that is there, for every set of instructions: the same results.

The tests beside this one hold what the installed library says against plain torch; this one holds the others against
gcc's plain build: clang's, and, where a cross compiler and qemu are, that for arm64 (Debian: gcc-aarch64-linux-gnu,
libc6-dev-arm64-cross, qemu-user, clang).
"""

import itertools
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch

from objectness.kernels.cpu.library import VARIANTS, find_library

TESTS = Path(__file__).resolve().parent
KERNELS = TESTS.parents[1] / "src" / "objectness" / "kernels" / "cpu"
FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-Werror"]
CROSS, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
ROUNDING = 2e-4  # px; exp() is the C library's


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("portable")


@cache
def run(compiler: str, variant: int, folder: Path) -> list[tuple[str, list[float]]]:
    """What the program printed, line by line: a name, and numbers."""
    for needed in (compiler, *([EMULATOR] if compiler == CROSS else [])):
        if shutil.which(needed) is None:
            pytest.skip(f"there is no {needed}")
    program = folder / f"kernels-{compiler}"
    if not program.exists():
        sources = [TESTS / "portable.c", *sorted(KERNELS.glob("*.c"))]
        flags = [*FLAGS, *(["-static"] if compiler == CROSS else [])]
        subprocess.run([compiler, *flags, f"-I{KERNELS}", *map(str, sources), "-lm", "-o", str(program)], check=True)
    words = [*([EMULATOR] if compiler == CROSS else []), str(program), str(variant)]
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    lines = [line.split() for line in printed.splitlines()]
    return [(name, [float(number) for number in numbers]) for name, *numbers in lines]


@pytest.mark.parametrize(
    ("compiler", "variant"), [*itertools.product(("gcc", "clang"), range(len(VARIANTS))), (CROSS, 0)]
)
def test_every_build_gives_the_same(compiler: str, variant: int, folder: Path) -> None:
    library = find_library()
    if compiler != CROSS and variant > (0 if library is None else library.objectness_best_variant()):
        pytest.skip(f"this processor has no {VARIANTS[variant]}")
    expected, found = run("gcc", 0, folder), run(compiler, variant, folder)
    names = ["abi", "iou", *["nms"] * 4, "labels", "matched", *["selected", "boxes"] * 2]
    assert [name for name, _ in expected] == [name for name, _ in found] == names
    assert all(len(numbers) > 50 for name, numbers in expected if name != "abi")
    for (name, numbers), (_, others) in zip(found, expected, strict=True):
        tolerance = ROUNDING if name in ("iou", "boxes") else 0
        torch.testing.assert_close(torch.tensor(numbers), torch.tensor(others), rtol=0, atol=tolerance)
