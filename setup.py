"""Compiles the helper library and the kernels; all else about this package is in pyproject.toml.

Without a C compiler the installation goes on: both are optional.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

BUILD = runpy.run_path(str(Path(__file__).parent / "engine" / "native" / "build.py"))
LIBRARIES = {
    ".".join(target.relative_to(BUILD["LIBRARY"].parents[2]).with_suffix("").parts): sources
    for target, sources in BUILD["LIBRARIES"]
}
"""Sources by the name of an extension, such as ``engine.native.libfiddler``."""


class BuildLibrary(build_ext):
    """Leaves the compiling to engine/native/build.py, so that there is one way to do it."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        try:
            BUILD["build"](Path(self.get_ext_fullpath(ext.name)), LIBRARIES[ext.name])
        except BUILD["BuildError"] as error:
            raise CompileError(str(error)) from error


setup(
    cmdclass={"build_ext": BuildLibrary},
    ext_modules=[Extension(name, sources=[], optional=True) for name in LIBRARIES],
)
