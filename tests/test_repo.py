"""The repository itself: no traces of one machine, and a lock that fits the metadata."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.lock import CUDA

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MACHINE_PATH = re.compile(r"(?<![\w.$])/(?:root|work|home/\w+|Users/\w+|opt/\w+)/")
BINARY = {".safetensors", ".png", ".jpg", ".ico", ".woff2"}


def tracked() -> list[Path]:
    """The files git knows, or those in the folder where this is no git checkout."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    names = done.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            found[canonicalize_name(requirement.name)] = pin.version
    return found


def test_no_file_names_a_place_on_one_machine() -> None:
    problems = []
    for path in tracked():
        if path.suffix in BINARY or path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8")
        for match in MACHINE_PATH.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            problems.append(f"{path.relative_to(ROOT)}:{line}: {match.group()}")
    assert not problems, "\n".join(problems)


def test_lock_has_every_dependency_at_a_version_we_allow() -> None:
    locked = pins()
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(item for extra in extras for item in extra)]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{name} is not in requirements.lock: run `make lock`"
        assert requirement.specifier.contains(locked[name]), f"{text}, but {locked[name]} is locked"


def test_lock_has_no_cuda_and_no_local_build() -> None:
    for name, version in pins().items():
        assert not CUDA.match(name), name
        assert Version(version).local is None, f"{name}=={version}"


def test_changelog_has_this_version_or_unreleased_work() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"[{PROJECT['version']}]" in text or "## [Unreleased]" in text
