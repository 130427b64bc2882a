"""Run the kernels' tests with every access and every operation checked.

    python tests/kernels/sanitize.py

Builds a copy of the package whose kernels carry AddressSanitizer and UndefinedBehaviorSanitizer, and runs the tests
beside this file on it, but for the slow ones. Prints one line, "ok", "skipped" with the reason or "failed" with the
folder of the report, and exits with 1 in the last case alone. Needs gcc and its sanitizers' libraries.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parents[1] / "src" / "objectness"
FLAGS = ["-std=c11", "-O1", "-g", "-ffp-contract=off", "-fno-omit-frame-pointer", "-fPIC", "-shared"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def main() -> int:
    if platform.system() != "Linux":
        print(f"skipped: {platform.system()} does not let a library's sanitizer be loaded before python")
        return 0
    if shutil.which("gcc") is None:
        print("skipped: there is no gcc")
        return 0
    runtimes = [find_runtime(name) for name in ("libasan.so", "libubsan.so")]
    if None in runtimes:
        print("skipped: gcc has no sanitizers' libraries here")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="objectness-sanitize-"))
    copy_package(folder)
    output, passed = run_tests(folder, ":".join(filter(None, runtimes)))
    if not passed:
        (folder / "report.txt").write_text(output)
        print(f"failed: {folder}/report.txt says what and where")
        return 1
    shutil.rmtree(folder)
    print(f"ok: {output.strip().splitlines()[-1].strip('= ')}")
    return 0


def find_runtime(name: str) -> str | None:
    """Where gcc has one of its libraries; it answers with the bare name where it has none."""
    answer = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return answer if Path(answer).is_absolute() else None


def copy_package(folder: Path) -> None:
    """The package with checked kernels; without weights, which are large."""
    copy = folder / "objectness"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("_native*", "cspnet", "lite0", "__pycache__"))
    sources = sorted((copy / "kernels" / "cpu").glob("*.c"))
    library = copy / "kernels" / "cpu" / "_native.abi3.so"
    subprocess.run(["gcc", *FLAGS, *SANITIZERS, *sources, "-o", library, "-lm"], check=True)


def run_tests(folder: Path, preload: str) -> tuple[str, bool]:
    """What pytest and the sanitizers printed, and whether all passed; what Python leaks at its end does not count."""
    tests = ["-m", "pytest", "-qx", "-m", "not slow", "-p", "no:cacheprovider", "-s", TESTS]
    process = subprocess.run(
        [sys.executable, *tests],
        env={
            **os.environ,
            "LD_PRELOAD": preload,
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONPATH": f"{folder}{os.pathsep}{TESTS.parent}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        },
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process.stdout, process.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
