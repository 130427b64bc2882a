"""The C kernels; everything else about the package stands in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("src/objectness/kernels/cpu")
# Sums and products are never fused and never reordered: a kernel decides as the plain torch function beside it does.
# Neither errno nor a floating-point trap is ever looked at, which lets loops with a condition become vector code.
UNIX_FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
MSVC_FLAGS = ["/std:c11", "/O2", "/fp:precise"]


class BuildKernels(build_ext):
    """Each compiler with its own flags."""

    def build_extension(self, ext: Extension) -> None:
        """Compile and link one library."""
        ext.extra_compile_args = MSVC_FLAGS if self.compiler.compiler_type == "msvc" else UNIX_FLAGS
        ext.libraries = [] if self.compiler.compiler_type == "msvc" else ["m"]
        super().build_extension(ext)


native = Extension(
    "objectness.kernels.cpu._native",
    sources=sorted(file.as_posix() for file in KERNELS.glob("*.c")),
    depends=sorted(file.as_posix() for file in KERNELS.glob("*.h")),
    py_limited_api=True,  # it uses nothing of Python at all, so that one build serves every version
    optional=True,  # without a C compiler the package installs all the same, and takes the plain torch paths
)

setup(
    ext_modules=[native],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
