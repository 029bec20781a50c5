from __future__ import annotations

import ctypes
import subprocess
import sys
import warnings
from collections.abc import Iterator
from ctypes import c_int64
from pathlib import Path

import numpy as np
import pytest

from engine import native
from engine.native import FLOAT64, INT64
from engine.native.__main__ import main
from engine.native.build import LIBRARY, SOURCES, BuildError, build, compiler, fingerprint

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("native") / LIBRARY.name)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.delenv(native.SWITCH, raising=False)
    native.load.cache_clear()
    yield monkeypatch
    native.load.cache_clear()


@needs_compiler
def test_sources_compile_without_a_warning_and_load(
    built: Path, at: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at.setattr(native, "LIBRARY", built)
    at.setattr("engine.native.build.FLAGS", (*native.build.FLAGS, "-Werror"))
    assert build(tmp_path / "strict.so").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["strict.so"], "nothing else is left there"
    made_of = native.function("fiddler_fingerprint", c_int64)
    assert made_of is not None and made_of() == fingerprint() > 0


@needs_compiler
def test_types_are_checked_before_the_call(built: Path, at: pytest.MonkeyPatch) -> None:
    at.setattr(native, "LIBRARY", built)
    call = native.function("fiddler_fingerprint", c_int64, INT64)
    assert call is not None
    call(np.zeros(4, dtype=np.int64))
    for wrong in (np.zeros(4), np.zeros(8, dtype=np.int64)[::2], [1, 2]):
        with pytest.raises(ctypes.ArgumentError):
            call(wrong)
    other = native.function("fiddler_fingerprint", c_int64, FLOAT64)
    assert other is not None and other is not call
    other(np.zeros(4))
    assert native.function("fiddler_fingerprint", c_int64, INT64) is call
    with pytest.raises(AttributeError):
        native.function("fiddler_nothing", None)


def test_absent_means_none_in_silence(at: pytest.MonkeyPatch, tmp_path: Path) -> None:
    at.setattr(native, "LIBRARY", tmp_path / "none.so")
    assert native.library() is None
    assert native.function("fiddler_fingerprint", c_int64) is None


@needs_compiler
def test_switched_off_means_none_at_once(built: Path, at: pytest.MonkeyPatch) -> None:
    at.setattr(native, "LIBRARY", built)
    assert native.library() is not None
    at.setenv(native.SWITCH, "0")
    assert native.library() is None
    assert native.function("fiddler_fingerprint", c_int64) is None
    at.setenv(native.SWITCH, "1")
    assert native.library() is not None


@needs_compiler
def test_a_library_of_other_sources_is_not_used(at: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sources = tmp_path / "src"
    sources.mkdir()
    for path in SOURCES.iterdir():
        (sources / path.name).write_bytes(path.read_bytes())
    (sources / "fiddler.h").write_text((SOURCES / "fiddler.h").read_text() + "/* changed */\n")
    at.setattr(native, "LIBRARY", build(tmp_path / "other.so", sources))
    with pytest.warns(RuntimeWarning, match=r"other sources.*python -m engine\.native"):
        assert native.library() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.library() is None, "said once"


def test_what_is_no_library_is_not_used(at: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_text("not a library")
    at.setattr(native, "LIBRARY", broken)
    with pytest.warns(RuntimeWarning, match="cannot be loaded"):
        assert native.library() is None


def test_without_compiler_or_sources_building_says_so(
    at: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at.setenv("CC", "no-such-compiler -O1")
    with pytest.raises(BuildError, match="no C compiler found"):
        build(tmp_path / "none.so")
    assert main() == 1 and "no C compiler" in capsys.readouterr().err
    with pytest.raises(BuildError, match="no C sources"):
        build(tmp_path / "none.so", tmp_path)
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_a_source_that_does_not_compile_says_where(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("int f( {")
    with pytest.raises(BuildError, match=r"bad\.c:1"):
        build(tmp_path / "bad.so", tmp_path)


def test_build_needs_the_standard_library_only() -> None:
    """setup.py runs it where nothing is installed yet."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); sys.exit('numpy' in sys.modules)"
    path = str(SOURCES.parent / "build.py")
    subprocess.run([sys.executable, "-I", "-c", code, path], check=True, timeout=60)
