"""Compiles the helper library; all else about this package is in pyproject.toml.

Without a C compiler the installation goes on: the library is optional.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

BUILD = runpy.run_path(str(Path(__file__).parent / "engine" / "native" / "build.py"))


class BuildLibrary(build_ext):
    """Leaves the compiling to engine/native/build.py, so that there is one way to do it."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")[:-1], BUILD["LIBRARY"].name))

    def build_extension(self, ext: Extension) -> None:
        try:
            BUILD["build"](Path(self.get_ext_fullpath(ext.name)))
        except BUILD["BuildError"] as error:
            raise CompileError(str(error)) from error


setup(
    cmdclass={"build_ext": BuildLibrary},
    ext_modules=[Extension("engine.native.libfiddler", sources=[], optional=True)],
)
