"""Find a Chromium for the browser tests, or install one.

`chromium_path()` only looks. `ensure_chromium()` also installs, in this order: the system's own
browser, playwright's build (downloaded), Debian's or Ubuntu's package where we are root. Every
attempt has a time limit, so that a machine without network fails in seconds with an error which
says what to do.

    python tools/browser.py          # prints the path; installs if there is none
    python tools/browser.py --find   # prints the path; installs nothing
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

OVERRIDE = "CHROMIUM"
"""Environment variable: the browser to use, before any other."""

SYSTEM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC_PATHS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
VERSION_TIMEOUT_S = 30
DOWNLOAD_TIMEOUT_S = 420
APT_UPDATE_TIMEOUT_S = 120
APT_INSTALL_TIMEOUT_S = 600

HELP = f"""no Chromium found, and none could be installed. Do one of these and run again:
  - Debian, Ubuntu:  sudo apt-get install chromium
  - Fedora:          sudo dnf install chromium
  - macOS:           brew install --cask chromium
  - anywhere:        .venv/bin/playwright install --with-deps chromium
  - or set {OVERRIDE}=/path/to/chrome
Tests without a browser: make test BROWSER=no"""


class BrowserError(RuntimeError):
    """No usable Chromium; the message says what was tried and what to do."""


def chromium_path() -> str | None:
    """The first Chromium that answers `--version`, or None. Installs nothing.

    Raises BrowserError where the environment names a browser that does not run.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        if not runs(override):
            raise BrowserError(
                f"{OVERRIDE}={override} does not run with --version; correct or unset it"
            )
        return override
    return next((path for path in candidates() if runs(path)), None)


def candidates() -> Iterator[str]:
    """Paths worth a try, the system's first; a path may exist and still not run."""
    for name in SYSTEM_NAMES:
        found = shutil.which(name)
        if found:
            yield found
    yield from (path for path in MAC_PATHS if Path(path).exists())
    own = playwright_path()
    if own:
        yield own


def playwright_path() -> str | None:
    """Where playwright keeps its own Chromium, if it is there.

    Asked in a process of its own: playwright's API must not run twice in one thread.
    """
    ask = "with sync_playwright() as p: print(p.chromium.executable_path)"
    command = [sys.executable, "-c", f"from playwright.sync_api import sync_playwright\n{ask}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    path = done.stdout.strip()
    return path if done.returncode == 0 and Path(path).is_file() else None


def runs(path: str) -> bool:
    """Whether the browser starts at all: a stub or a missing library fails here."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"Chrom" in done.stdout


def ensure_chromium() -> str:
    """`chromium_path()`, after installing a browser if there is none.

    Raises BrowserError with every attempt's outcome if none worked.
    """
    found = chromium_path()
    tried: list[str] = []
    for install in (install_by_playwright, install_by_apt):
        if found:
            return found
        tried.append(install())
        print(tried[-1], file=sys.stderr, flush=True)
        found = chromium_path()
    if found:
        return found
    raise BrowserError("\n".join([*tried, HELP]))


def install_by_playwright() -> str:
    """Download playwright's own Chromium; what came of it, in one line."""
    try:
        import playwright  # noqa: F401  (only asks whether it is installed)
    except ImportError:
        return "playwright: not installed in this environment"
    env = {**os.environ, "PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT": "10000"}
    command = [sys.executable, "-m", "playwright", "install", "chromium"]
    return f"playwright install chromium: {attempt(command, DOWNLOAD_TIMEOUT_S, env)}"


def install_by_apt() -> str:
    """Install the distribution's package, as root only; what came of it, in one line."""
    if shutil.which("apt-get") is None:
        return "apt: not on this system"
    if os.geteuid() != 0:
        return "apt: needs root"
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-q", "-o", "Acquire::Retries=1", "-o", "DPkg::Lock::Timeout=120"]
    options += ["-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30"]
    update = attempt(["apt-get", *options, "update"], APT_UPDATE_TIMEOUT_S, env)
    install = ["apt-get", *options, "install", "-y", "--no-install-recommends"]
    packages = ["chromium", "fonts-liberation"]
    done = attempt([*install, *packages], APT_INSTALL_TIMEOUT_S, env)
    return f"apt-get update: {update}; apt-get install chromium: {done}"


def attempt(command: Sequence[str], timeout_s: float, env: dict[str, str]) -> str:
    """Run a command; "done", or why not. Its own output is shown only on failure."""
    print("+", " ".join(command), file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=env,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {timeout_s:.0f} s"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return "done"
    lines = done.stdout.strip().splitlines() or ["(no output)"]
    print("\n".join(lines[-10:]), file=sys.stderr, flush=True)
    return f"failed with exit code {done.returncode}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--find", action="store_true", help="only look, install nothing")
    args = parser.parse_args(argv)
    try:
        path = chromium_path() if args.find else ensure_chromium()
    except BrowserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if path is None:
        print(f"error: {HELP}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
