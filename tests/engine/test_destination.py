"""Files to be written: folders are made, and what cannot be is an InputError, everywhere."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fiddler_viz as fv
from engine.destination import prepare, writing
from engine.errors import InputError
from engine.synthetic import synthetic_trace
from engine.trace import Trace

VERBS: dict[str, Callable[[Trace, Any], Path]] = {
    "save": lambda trace, path: trace.save(path),
    "to_perfetto": fv.to_perfetto,
    "to_html": fv.to_html,
    "hardware": lambda _, path: (fv.HardwareSpec.preset("l4").save(path), Path(path))[1],
}


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace("mixtral-8x7b", prompt_tokens=2, decode_tokens=1, gpu_memory="24GB")


@pytest.mark.parametrize("write", VERBS.values(), ids=VERBS)
def test_every_verb_makes_folders_and_refuses_alike(
    write: Callable[[Trace, Any], Path], trace: Trace, tmp_path: Path
) -> None:
    path = tmp_path / "no" / "such" / "file"
    assert write(trace, str(path)) == path and path.stat().st_size > 0
    with pytest.raises(InputError, match=r"cannot write .*such: it is a folder\. Give the path"):
        write(trace, path.parent)
    with pytest.raises(InputError, match=r"cannot write .*: what is above it is a file"):
        write(trace, path / "below")
    with pytest.raises(InputError, match=r"cannot write .*: what is above it is a file"):
        write(trace, path / "far" / "below")
    with pytest.raises(InputError, match="expected the path of a file to write, got int"):
        write(trace, 3)
    for name in ("a" * 5000, "a/" * 3000 + "b", "a\0b"):
        with pytest.raises(InputError, match=r"cannot write .*: .*Give a path that can be written"):
            write(trace, str(path.parent / name))
    assert [file.name for file in path.parent.iterdir()] == ["file"], "nothing half written"


def test_what_goes_wrong_while_writing(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"cannot write .*full: No space left.*Give a path"),
        writing(tmp_path / "full"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(KeyError), writing(tmp_path / "bug"):
        raise KeyError("not about files")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no such file system")
def test_what_cannot_be_written_is_said_before_the_work() -> None:
    with pytest.raises(InputError, match=r"cannot write /proc/x\.json: .*Give a path that can"):
        prepare("/proc/x.json")  # permissions would allow it


def test_prepare_leaves_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*null"):
        prepare(tmp_path / "a\0b")
    (tmp_path / "file").write_text("as it was")
    (tmp_path / "link").symlink_to(tmp_path / "later")
    for name in ("file", "link", "new"):
        prepare(tmp_path / name)
    assert (tmp_path / "file").read_text() == "as it was"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "link"]


def test_prepare_writes_nothing(tmp_path: Path) -> None:
    assert prepare(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not (tmp_path / "a" / "b").exists()
    with pytest.raises(InputError, match="it is a folder"):
        prepare("")
