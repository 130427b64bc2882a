"""The command line: parse, call, print.

Results go to stdout or to a file, everything else to stderr. Exit codes: 0 done, 1 something failed, 2 wrong use, and
as shells have it 130 stopped by Ctrl-C, 141 nobody reads the output any more. torch is imported inside the commands,
so that help comes at once.
"""

from __future__ import annotations

import io
import os
import sys

from cyclopts import CycloptsError

from ..errors import ConfigError, ObjectnessError
from . import convert, doctor, evaluate, export, propose, train  # each adds its command
from .app import app
from .terminal import fail

__all__ = ["app", "convert", "doctor", "evaluate", "export", "main", "propose", "train"]

NO_MEMORY = "there is not enough memory; in training, take fewer --images-per-step or a smaller --input.short-side"


def main() -> None:
    """Run the command that `sys.argv` names; turn errors into one line and an exit code."""
    sys.stdout = sys.stdout or io.StringIO()  # None where the shell closed it
    try:
        code = app(sys.argv[1:], exit_on_error=False, print_error=False, result_action="return_value") or 0
        sys.stdout.flush()  # now, while a closed pipe is still understood
    except CycloptsError as error:
        command = " ".join(["objectness", *(error.command_chain or ())])
        code = fail(f"{error} See: {command} --help", 2)
    except ObjectnessError as error:
        code = fail(error, 2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt as stop:
        code = fail("; ".join(["stopped", *stop.args]), 130)
    except BrokenPipeError:
        code = 141
    except OSError as error:
        code = fail(": ".join(str(part) for part in (error.filename, error.strerror or error) if part), 1)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        code = fail(NO_MEMORY, 1)
    _let_go_of_stdout()
    sys.exit(code)


def _is_out_of_memory(error: Exception) -> bool:
    names = {each.__name__ for each in type(error).__mro__}  # torch's own has no name here, where torch may not be
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def _let_go_of_stdout() -> None:
    """Where stdout takes no more, keep Python from trying again, and complaining, when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
