"""The command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fiddler_viz as fv
from engine.spec import HardwareSpec
from fiddler_viz import demo
from fiddler_viz.__main__ import main


def test_demo_shows_text_and_where_time_went(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--tokens", "6", "--greedy"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("To be, or not to be")
    assert "costed as mixtral-8x7b" in out
    assert "modelled, no such hardware ran" in out
    assert "experts, cpu" in out
    assert "tokens/s" in out


def test_demo_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--tokens", "4", "--device", "host"]) == 0
    assert "clock: measured" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["record", "trace"])
def test_record_then_describe(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, perfetto = tmp_path / "new" / "a.safetensors", tmp_path / "a.json"
    command = [verb, str(path), "--tokens", "4", "--gpu-memory", "12GB", "--policy", "lru"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert (f"there is no {path} yet" in out) == (verb == "trace")
    assert f"recording a new run of demo to {path}\nsaved {path}" in out
    assert main(["trace", str(path), "--perfetto", str(perfetto)]) == 0
    out = capsys.readouterr().out
    assert "12.0 GB" in out
    assert "policy lru" in out
    assert json.loads(perfetto.read_text())["traceEvents"]


def test_a_misspelt_trace_records_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.safetensor"
    assert main(["trace", str(path)]) == 2
    output = capsys.readouterr()
    assert f"no trace file at {path}: check the path, or record" in output.err
    assert output.out == "" and list(tmp_path.iterdir()) == []
    assert main(["trace", "a" * 5000]) == 2
    assert "no trace file at aaa" in capsys.readouterr().err


def test_what_cannot_be_written_is_refused_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", str(tmp_path)]) == 2
    assert main(["record", str(tmp_path / "a.safetensors"), "--perfetto", str(tmp_path)]) == 2
    output = capsys.readouterr()
    assert output.err.count("it is a folder") == 2
    assert output.out == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tokens", ["0", "-3", "100000"])
def test_what_is_refused_prints_no_prompt(tokens: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--tokens", tokens]) == 2
    assert capsys.readouterr().out == ""


def test_calibrate_writes_a_profile_that_hardware_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "this.json"
    assert main(["calibrate", str(out), "--model", "demo", "--seconds", "0.1"]) == 0
    shown = capsys.readouterr().out
    assert "CPU expert, 1 tokens" in shown and f"saved {out}" in shown
    assert HardwareSpec.load(out).calibrated
    assert main(["demo", "--hardware", str(out), "--tokens", "2"]) == 0  # as it stands, on the CPU
    assert "clock: measured" in capsys.readouterr().out
    assert main(["demo", "--hardware", str(out), "--tokens", "2", "--gpu-memory", "24GB"]) == 0
    assert "costed as mixtral-8x7b" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no such file system")
def test_calibrate_says_first_that_it_cannot_write(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fiddler_viz.api.calibrate", lambda *_, **__: pytest.fail("measured"))
    assert main(["calibrate", "/proc/x.json"]) == 2
    assert "cannot write /proc/x.json" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fiddler-viz {fv.__version__}\n"


def test_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run.html"
    assert main(["page", str(out)]) == 0
    assert "opens in any browser" in capsys.readouterr().out
    assert "Mixtral" in out.read_text(encoding="utf-8") or "mixtral" in out.read_text("utf-8")
    assert main(["page", str(out), "--trace", str(demo.trace_path())]) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["demo", "--gpu-memory", "1GB"], "smallest budget that works"),
        (["demo", "--gpu-memory", "24 GiB of"], "24 GiB of"),
        (["demo", "--hardware", "abacus"], "rtx-4090"),
        (["demo", "--model", "nowhere"], "no checkpoint folder"),
        (["demo", "--tokens", "0"], "--tokens: expected a whole number of at least 1, got 0"),
        (["demo", "--seed", str(10**30)], "--seed: expected a whole number from 0 to 2^63 - 1"),
        (["demo", "--seed", "-1"], "--seed: expected"),
        (["demo", "--prompt", " "], "--prompt: it is empty"),
        (["demo", "--as-model", "abacus"], "unknown model 'abacus'"),
        (["calibrate", "x.json", "--seconds", "-1"], "--seconds: expected a number above 0"),
        (["page", "x.html", "--trace", "nowhere.safetensors"], "no file"),
    ],
)
def test_errors_are_one_line(
    command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("fiddler-viz:")]
    assert len(lines) == 1
    assert message in lines[0]


def test_unknown_policy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--policy", "best"])
    assert "fiddler" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--gpu-memory", "24 gigs"],
        ["--as-model", "x"],
        ["--hardware", "x"],
        ["--prompt", ""],
        ["--tokens", "0"],
    ],
)
def test_what_is_wrong_is_said_before_anything_is_loaded(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fiddler_viz.api.load", lambda *_, **__: pytest.fail("loaded"))
    assert main(["demo", *wrong]) == 2
    assert "loading" not in capsys.readouterr().err
