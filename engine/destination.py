"""Where a file is to be written: its folder is made, and what cannot be written is said clearly."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import InputError


def prepare(path: str | Path) -> Path:
    """The path of a file that can be written: makes the folders above it, and tries to write.

    The file is left as it was, and absent where it was. Raises InputError where ``path`` is no
    path, is a folder, is below what is no folder, or is where nothing can be written.
    """
    if not isinstance(path, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"expected the path of a file to write, got {type(path).__name__}.")
    path = Path(path)
    if os.path.isdir(path):  # pathlib's own raises for a name that the system refuses
        raise InputError(f"cannot write {path}: it is a folder. Give the path of a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"cannot write {path}: what is above it is a file, no folder.") from error
    except OSError as error:
        raise _refused(path, error) from error
    try:
        _try(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise _refused(path, error) from error
    return path


def _try(path: Path) -> None:
    """Open for writing, without writing: permissions alone do not tell (of ``/proc``, say)."""
    there = os.path.lexists(path)
    if there and not path.is_file():
        return  # a device or a pipe, which opening may disturb
    path.open("ab").close()
    if not there:
        path.unlink()


@contextmanager
def writing(path: str | Path) -> Generator[Path]:
    """The path of :func:`prepare`, to be written in this block; OSError comes out as InputError."""
    prepared = prepare(path)
    try:
        yield prepared
    except OSError as error:
        raise _refused(prepared, error) from error


def _refused(path: Path, error: OSError | ValueError) -> InputError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return InputError(f"cannot write {path}: {reason}. Give a path that can be written.")
