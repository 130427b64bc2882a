"""From the start of the command to its first result, beside what `import torch` alone takes.

    python bench/start.py [--runs 5]

Each run is a new process; the two take turns, and medians are compared. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from turns import take_turns

PHOTO = Path(__file__).resolve().parents[1] / "examples" / "photos" / "rocket.jpg"
COMMAND, TORCH, HELP = "objectness propose PHOTO, first line", "python -c 'import torch'", "objectness --help"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    seconds = measure(parser.parse_args().runs)
    print("| process | s | beyond import torch, s |\n|---|--:|--:|")
    for name, each in seconds.items():
        print(f"| `{name}` | {each:.2f} | {each - seconds[TORCH]:+.2f} |")


def measure(num_runs: int = 5) -> dict[str, float]:
    """Seconds of each kind of process."""
    return take_turns({COMMAND: wait_for_a_line, TORCH: import_torch, HELP: show_help}, num_runs)


def wait_for_a_line() -> None:
    """Start the command, and stop waiting with the first line that it writes."""
    words = [sys.executable, "-m", "objectness", "propose", str(PHOTO)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
    assert b'"boxes"' in line


def import_torch() -> None:
    subprocess.run([sys.executable, "-c", "import torch"], check=True)


def show_help() -> None:
    subprocess.run([sys.executable, "-m", "objectness", "--help"], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
