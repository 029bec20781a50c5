"""tools/browser.py: it finds what runs, and says what to do where nothing does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import browser


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_a_stub_that_fails_is_no_browser(tmp_path: Path) -> None:
    assert browser.runs(script(tmp_path / "good", "echo Chromium 1.2.3"))
    assert not browser.runs(script(tmp_path / "stub", "echo install the snap; exit 1"))
    assert not browser.runs(str(tmp_path / "missing"))


def test_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = script(tmp_path / "mine", "echo Google Chrome 1")
    monkeypatch.setenv(browser.OVERRIDE, mine)
    assert browser.chromium_path() == mine
    monkeypatch.setenv(browser.OVERRIDE, str(tmp_path / "missing"))
    with pytest.raises(browser.BrowserError, match="correct or unset it"):
        browser.chromium_path()


def test_the_first_candidate_that_runs_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = script(tmp_path / "stub", "exit 1")
    good = script(tmp_path / "good", "echo Chromium 1")
    monkeypatch.delenv(browser.OVERRIDE, raising=False)
    monkeypatch.setattr(browser, "candidates", lambda: iter([stub, good]))
    assert browser.chromium_path() == good


def test_without_any_the_error_names_each_attempt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(browser.OVERRIDE, raising=False)
    monkeypatch.setattr(browser, "candidates", lambda: iter(()))
    monkeypatch.setattr(browser, "install_by_playwright", lambda: "playwright: no network")
    monkeypatch.setattr(browser, "install_by_apt", lambda: "apt: needs root")
    assert browser.main([]) == 1
    shown = capsys.readouterr().err
    for part in ("playwright: no network", "apt: needs root", "apt-get install chromium"):
        assert part in shown


def test_an_attempt_ends_in_time() -> None:
    assert browser.attempt(["sleep", "30"], 0.2, {"PATH": "/bin:/usr/bin"}).startswith("no end")
    assert "exit code 3" in browser.attempt(["sh", "-c", "exit 3"], 5, {"PATH": "/bin:/usr/bin"})
