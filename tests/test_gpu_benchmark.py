"""`benchmarks/gpu.py` without a GPU: says what is missing; its whole path runs dry."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.on_gpu.bench import Bench
from benchmarks.on_gpu.parts import PARTS
from benchmarks.on_gpu.results import Headline, Results
from benchmarks.on_gpu.shape import MIXTRAL, TINY, build
from benchmarks.on_gpu.table import BEGIN, END, NOT_YET, table, tables, write
from engine.devices import why_no_gpu
from engine.model_spec import ModelSpec

ROOT = Path(__file__).resolve().parent.parent
KEYS = ("tokens_per_s", "vs_accelerate", "vs_released", "fraction_of_bound",
        "fidelity_mape_percent")  # fmt: skip
no_gpu = pytest.mark.skipif(why_no_gpu() is None, reason="there is a GPU")


def last_line(printed: str) -> dict[str, Any]:
    return json.loads(printed.strip().splitlines()[-1])


def measured(**parts: Any) -> Results:
    """Made-up results, as a real visit would leave them."""
    policy = {"tokens_per_s": 4.0, "low": 3.9, "high": 4.1, "rounds": 4, "fraction_of_bound": 0.8}
    made = {
        "decode": {"policies": {
            "fiddler": policy, "makespan": {**policy, "tokens_per_s": 5.0},
            "fiddler_released": {**policy, "tokens_per_s": 2.5},
        }},
        "accelerate": {"tokens_per_s": 0.5},
        "fidelity": {"mape_percent": 3.25, "worst_percent": 7.0, "cases": 36, "ranked": 30,
                     "ranked_right": 30},
    }  # fmt: skip
    about = {"dry_run": False, "gpu": "A GPU", "driver": "1.2", "machine": "a machine",
             "model": "mixtral-8x7b", "scale": "all 32 layers", "budget": "24 GB"}  # fmt: skip
    return Results(Path("a-gpu.json"), about, made | parts)


@no_gpu
def test_without_a_gpu_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert "needs a GPU" in line and "torch" in line
    assert gpu.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name}: " in listed for name in PARTS)


def test_parts_go_on_from_the_results_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = ["--dry-run", "--results", str(tmp_path)]
    for done, name in enumerate(PARTS):
        assert gpu.main([*dry, "--next"]) == 0
        printed = capsys.readouterr().out
        assert f"\n{name}: " in f"\n{printed}"
        assert last_line(printed)["parts"] == list(PARTS)[: done + 1]
    (path,) = tmp_path.iterdir()
    values = json.loads(path.read_text(encoding="utf-8"))
    assert path.name.startswith("dry-run-") and values["about"]["dry_run"] is True
    assert values["parts"]["fidelity"]["calibrated"] is True
    assert values["parts"]["fidelity"]["cases"] == 36
    found = values["parts"]["invariants"]
    assert found["greedy_same"] and found["nmse"] <= found["nmse_at_most"]
    assert found["replans"] > 0 and found["exceeded"] == 0
    for policy in values["parts"]["decode"]["policies"].values():
        assert policy["rounds"] >= 1 and policy["tokens_per_s"] > 0
    assert gpu.main([*dry, "--next"]) == 0  # nothing is left: the table and the line again
    check_dry(capsys.readouterr().out)


def test_several_parts_share_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry = ["--dry-run", "--results", str(tmp_path), "--minutes", "20"]
    assert gpu.main(dry) == 0
    printed = capsys.readouterr().out
    assert last_line(printed)["parts"] == [name for name in PARTS if name != "accelerate"]
    assert printed.count("are in host memory") == 1
    check_dry(printed)
    assert gpu.main([*dry[:-1], "0"]) == 0  # nothing but accelerate is left, which needs its own
    assert last_line(capsys.readouterr().out)["parts"][-1] != "accelerate"


def check_dry(printed: str) -> None:
    """Nothing that could pass for a measurement."""
    assert "Nothing here is a measurement" in printed
    line = last_line(printed)
    assert [key for key in KEYS if key in line] == list(KEYS)
    assert line["dry_run"] is True
    assert set(line["tokens_per_s"].values()) == {None}
    assert [line[key] for key in KEYS[1:]] == [None] * 4
    rows = [row for row in printed.splitlines() if row.startswith("| ") and "---" not in row][1:]
    assert len(rows) > 20
    assert all("dry run" in row or NOT_YET in row for row in rows)


@pytest.mark.slow
def test_one_command_runs_what_is_left(tmp_path: Path) -> None:
    results = Bench.opened(
        tmp_path, dry=True, fresh=False, device="cuda", memory_bytes=None
    ).results
    for name in list(PARTS)[1:]:
        if name != "accelerate":
            results.keep(name, {}, 0.0)
    results.parts["decode"] = {"policies": {}}
    results.keep_about()
    command = [sys.executable, "benchmarks/gpu.py", "--dry-run", "--results", str(tmp_path)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert last_line(told)["parts"][-2:] == ["setup", "accelerate"]


def test_another_machine_or_version_begins_anew(tmp_path: Path) -> None:
    about = {"gpu": "A GPU", "dry_run": False, "torch": "1"}
    first = Results.opened(tmp_path, "A GPU", about, fresh=False)
    first.keep("setup", {"x": 1}, 2.0)
    again = Results.opened(tmp_path, "A GPU", about, fresh=False)
    assert again.parts["setup"]["x"] == 1 and again.path == first.path
    assert not Results.opened(tmp_path, "A GPU", {**about, "torch": "2"}, fresh=False).parts
    other = Results.opened(tmp_path, "A GPU", about, fresh=True)
    assert not other.parts and other.path != first.path


def test_headline_of_measurements() -> None:
    found = Headline.of(measured())
    assert found.tokens_per_s == {
        "fiddler": 4.0, "makespan": 5.0, "fiddler_released": 2.5, "accelerate": 0.5,
    }  # fmt: skip
    assert (found.vs_accelerate, found.vs_released) == (10.0, 2.0)
    assert (found.fraction_of_bound, found.fidelity_mape_percent) == (0.8, 3.25)
    absent = Headline.of(measured(accelerate={"why_not": "not installed"}))
    assert absent.vs_accelerate is None and absent.tokens_per_s["accelerate"] is None
    assert "10.00x" in "\n".join(table(measured()))


def test_the_page_has_the_tables_of_the_results(tmp_path: Path) -> None:
    page = ROOT / "docs" / "gpu.md"
    text = page.read_text(encoding="utf-8")
    shown = text.split(BEGIN)[1].split(END)[0].strip()
    assert shown == tables(ROOT / "benchmarks" / "results")
    copy = tmp_path / "gpu.md"
    copy.write_text(text, encoding="utf-8")
    results = tmp_path / "results"
    made = measured()
    made.path = results / "a-gpu-2026-01-01.json"
    made.keep_about()
    Results(results / "dry-run-x.json", {"dry_run": True, "gpu": "dry-run"}).keep_about()
    write(copy, results)
    written = copy.read_text(encoding="utf-8")
    assert "A GPU, driver 1.2" in written and "dry" not in written.split(BEGIN)[1].split(END)[0]
    assert gpu.main(["--write", str(copy), "--results", str(tmp_path / "none")]) == 0
    assert copy.read_text(encoding="utf-8").count(NOT_YET) >= text.count(NOT_YET) > 5 or shown


def test_the_shape_is_mixtrals_and_fits() -> None:
    spec = ModelSpec.preset("mixtral-8x7b")
    total = MIXTRAL.layers * MIXTRAL.layer_bytes + MIXTRAL.other_bytes
    assert total == pytest.approx(spec.total_bytes, rel=1e-4)
    assert MIXTRAL.fitting(2**37) == 32
    assert 20 <= MIXTRAL.fitting(80 * 10**9) < 32
    assert MIXTRAL.fitting(10**9) == 0
    model = build(TINY, 2, None)
    size = sum(part.numel() * part.element_size() for part in model.parameters())
    norms = (2 * 2 + 1) * TINY.hidden * 2
    routers = 2 * TINY.experts * TINY.hidden * 2
    assert size == 2 * TINY.layer_bytes + TINY.other_bytes + norms + routers
    first, second = (layer.mlp.experts.down_proj for layer in model.model.layers)
    assert not first.equal(second) and not first[0].equal(first[1])
