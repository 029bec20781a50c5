"""Results as a table in markdown: printed by the benchmark, and put into the docs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.on_gpu.results import Results

BEGIN, END = "<!-- benchmarks/gpu.py: begin -->", "<!-- benchmarks/gpu.py: end -->"
NOT_YET = "not measured yet"


def table(results: Results | None) -> list[str]:
    """Lines; without results, what will be measured and that it was not."""
    if results is None:
        results = Results(Path(), {"dry_run": False})
    about, headline = results.about, results.headline
    lines = []
    if about.get("gpu"):
        lines.append(f"{about['gpu']}, driver {about['driver']}, {about['machine']}.")
        lines.append(f"{about['model']}: {about['scale']}. Budget: {about['budget']}.")
        lines.append("")
    lines += ["| what | measured |", "| --- | --- |"]
    decode = results.parts.get("decode", {}).get("policies", {})
    for policy in decode or (NOT_YET,):
        name = f"`{policy}`" if policy in decode else "each policy"
        lines.append(_row(f"decode, {name}", _speed(results, decode.get(policy))))
    accelerate = results.parts.get("accelerate", {})
    told = accelerate.get("why_not") or _number(results, accelerate.get("tokens_per_s"), "tokens/s")
    lines.append(_row("decode, transformers with Accelerate's offloading", told))
    lines.append(_row("best policy over Accelerate", _times(results, headline.vs_accelerate)))
    lines.append(_row("best policy over `fiddler_released`", _times(results, headline.vs_released)))
    share = headline.fraction_of_bound
    lines.append(_row("best policy, share of the bound", f"{share:.0%}" if share else NOT_YET))
    step = results.parts.get("dense", {}).get("ms_per_token", {})
    for name in step or ("kernel by kernel, and as graphs",):
        what = f"dense part of a decode step, {name}"
        lines.append(_row(what, _number(results, step.get(name), "ms")))
    for part, unit in (("prefill", "tokens of the prompt/s"), ("beams", "tokens/s")):
        found = results.parts.get(part, {}).get("runs", {})
        for what in found or (part,):
            lines.append(_row(what, _number(results, found.get(what), unit)))
    fidelity = results.parts.get("fidelity", {})
    error = NOT_YET
    if fidelity and not results.dry:
        error = (
            f"mean {fidelity['mape_percent']:.1f}%, worst {fidelity['worst_percent']:.1f}%, "
            f"{fidelity['cases']} cases; ranking right in {fidelity['ranked_right']} of "
            f"{fidelity['ranked']} pairs"
        )
    lines.append(_row("replay's prediction against measured speed", _dry(results) or error))
    peak = results.parts.get("invariants", {}).get("peak")
    lines.append(_row("planned peak against the measured one", _dry(results) or peak or NOT_YET))
    return lines


def _row(what: str, value: str) -> str:
    return f"| {what} | {value} |"


def _dry(results: Results) -> str:
    return "dry run: nothing is measured" if results.dry else ""


def _number(results: Results, value: float | None, unit: str) -> str:
    return NOT_YET if value is None else _dry(results) or f"{value:.3g} {unit}"


def _times(results: Results, value: float | None) -> str:
    return _dry(results) or (NOT_YET if value is None else f"{value:.2f}x")


def _speed(results: Results, found: dict[str, float] | None) -> str:
    if found is None:
        return NOT_YET
    spread = f" ({found['low']:.3g} to {found['high']:.3g} in {found['rounds']} rounds)"
    bound = f", {found['fraction_of_bound']:.0%} of the bound" if found["fraction_of_bound"] else ""
    return _dry(results) or f"{found['tokens_per_s']:.3g} tokens/s{spread}{bound}"


def write(page: Path, folder: Path) -> None:
    """Put the newest results of each GPU between the marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        raise ValueError(f"{page} has no {BEGIN} ... {END}")
    page.write_text(f"{before}{BEGIN}\n{tables(folder)}\n{END}{after}", encoding="utf-8")


def tables(folder: Path) -> str:
    """Of each GPU the newest results; that there are none yet, where there are none."""
    newest: dict[str, Results] = {}
    for path in sorted(folder.glob("*.json")):
        results = Results.read(path)
        if not results.dry:
            newest[results.about["gpu"]] = results
    parts = [table(results) for results in newest.values()] or [table(None)]
    return "\n\n".join("\n".join(lines) for lines in parts)
