"""The house holds: a file imports only from rows above its own, or from its own package.

Read from the syntax tree, so also imports inside functions count. To add a file, put its name
into a row of the tables below and into the same row of the table in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A name is a file without `.py`, or a package with all that is in it (`demo.training`: a package
# inside one). Names in one string are one thing in several files, which may import each other.
# The longest name that fits a file counts. Top row first.
ENGINE_ABOVE = (
    ("errors", "native"),
    ("units", "strict", "destination", "garbage", "unsupported", "kernels"),
    (
        "spec hardware_spec hardware_file model_spec model_shapes measured machine latency what_if",
        "profile sample",
        "by_hand",
    ),
    ("events", "cost", "fitting", "steady", "schemes"),
    ("decision", "lineage", "crossover", "basis", "lane_times", "tracks", "lanes"),
    ("residency", "timeline", "routing", "stacks frequency"),
    ("policies", "layout course"),
    ("plan", "happened rehearsed", "planners"),
    ("trace trace_check trace_file trace_upgrade tables summary prefix", "placement places"),
    (
        "orchestrator",
        "records notes",
        "history usage",
        "inspection regrets",
        "run",
        "comparison",
        "demand",
        "critical_path",
        "spans",
    ),
    ("recorder", "scenario", "streaming"),
    ("replay", "interchange", "bounds"),
    ("synthetic", "sweep sweep_task", "heldout", "curves", "budgets", "device_costs"),
)
ENGINE_BELOW = (  # below the torch line
    ("probe", "checkpoint configuration", "threads", "levels", "pages"),
    ("store",),
    ("routers", "expert", "quantization", "gate", "grouped"),
    ("foresight", "expert_kernel", "growing", "takeover", "fixed_cache"),
    ("devices", "cpu_lane", "beside", "norm_kernel", "router_kernel", "rotary"),
    ("executor stream_executor device_rows", "attention_kernel", "recording"),
    ("session in_force step", "dense"),
    ("hook", "decode_graphs"),
    ("loader", "prompt", "options", "token_texts", "collector", "popularity", "warm_up"),
    ("request", "opening"),
    ("generation", "planned"),
    ("hybrid", "timing", "generated"),
    ("bandwidth", "costing"),
    ("calibrator", "device_calibrate"),
    ("calibrate",),
)
FIDDLER_VIZ = (
    ("theme", "demo"),
    ("frames",),
    ("figures",),
    ("views",),
    ("page", "terminal"),
    ("explorer",),
    ("api",),
    ("__main__", "demo.training", "demo.record"),
)
ROWS = {"engine": (*ENGINE_ABOVE, *ENGINE_BELOW, ("__init__",))}
ROWS["fiddler_viz"] = (*FIDDLER_VIZ, ("__init__",))

TORCH_LINE = len(ENGINE_ABOVE)
TORCH = {"torch", "transformers", "tokenizers", "accelerate"}
DRAWING = {"fiddler_viz", "ipywidgets", "plotly", "anywidget", "IPython"}
ENGINE_ABOVE_MAY = {"numpy", "safetensors", "pandas"}
SCRIPTS = ("fiddler_viz.demo.training", "fiddler_viz.demo.record")
"""How the bundled model and traces were made: may import torch, and nothing else imports them."""


@dataclass(frozen=True)
class Import:
    """One module named by one import statement."""

    target: str
    """Full dotted name; `from a import b` gives `a.b` where that is a file of ours, else `a`."""
    line: int
    lazy: bool
    """Inside a function: runs only when called."""
    typing: bool
    """Under `if TYPE_CHECKING:`: never runs."""


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    """`engine/policies/__init__.py` -> `engine.policies`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imports(path: Path) -> list[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    return list(walk(tree, package, lazy=False, typing=False))


def walk(node: ast.AST, package: list[str], *, lazy: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for target in targets(child, package):
            yield Import(target, getattr(child, "lineno", 0), lazy, typing)
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from walk(child, package, lazy=lazy or inside, typing=typing or checking)


def targets(node: ast.AST, package: list[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            name = f"{base}.{alias.name}"
            yield name if is_module(name) else base
    elif isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called.endswith("import_module") or called == "__import__":
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    dots = len(argument.value) - len(argument.value.lstrip("."))
                    above = package[: len(package) - dots + 1] if dots else []
                    yield ".".join([*above, argument.value.lstrip(".")])


def names(package: str) -> list[list[str]]:
    """The names in each row."""
    return [" ".join(units).split() for units in ROWS[package]]


def key(module: str) -> str | None:
    """The name in the tables which a module of ours falls under, or None."""
    package, *rest = module.split(".")
    known = {name for row in names(package) for name in row}
    for length in range(len(rest), 0, -1):
        if ".".join(rest[:length]) in known:
            return ".".join(rest[:length])
    return None if rest else "__init__"


def row(package: str, name: str) -> int:
    return next(i for i, row in enumerate(names(package)) if name in row)


def one_thing(package: str, name: str, other: str) -> bool:
    """Whether two names are one package, or stand in one string of the tables."""
    if name.split(".")[0] == other.split(".")[0]:
        return True
    return any({name, other} <= set(unit.split()) for row in ROWS[package] for unit in row)


def where(path: Path, item: Import) -> str:
    return f"{path.relative_to(ROOT)}:{item.line} imports {item.target}"


def walk_all(package: str) -> Iterator[tuple[Path, str, int, Import]]:
    """(file, its name in the tables, its row, one import) of every file that is in the tables."""
    for path in files(package):
        name = key(module_of(path))
        if name is not None:
            for item in imports(path):
                yield path, name, row(package, name), item


def is_above(package: str, at: int) -> bool:
    return package == "engine" and at < TORCH_LINE


def fail(problems: list[str], rule: str) -> None:
    if problems:
        pytest.fail("\n".join([rule, *(f"  {p}" for p in problems)]), pytrace=False)


@pytest.mark.parametrize("package", ROWS)
def test_every_file_is_in_a_row(package: str) -> None:
    problems = [str(p.relative_to(ROOT)) for p in files(package) if key(module_of(p)) is None]
    fail(problems, "in no row: add it to the tables in tests/test_layers.py and CONTRIBUTING.md")


@pytest.mark.parametrize("package", ROWS)
def test_every_row_has_its_files(package: str) -> None:
    listed = [name for row in names(package) for name in row if name != "__init__"]
    problems = [name for name in listed if not is_module(f"{package}.{name}")]
    fail(problems, "in a row of tests/test_layers.py, but there is no such file")


@pytest.mark.parametrize("package", ROWS)
def test_imports_only_from_rows_above(package: str) -> None:
    problems = []
    for path, name, at, item in walk_all(package):
        if item.target.split(".")[0] != package:
            continue
        other = key(item.target)
        if other is None:
            problems.append(f"{where(path, item)}, which is in no row")
        elif one_thing(package, name, other):
            continue
        elif row(package, other) >= at:
            problems.append(f"{where(path, item)}: row {at} needs row {row(package, other)}")
    fail(problems, "a file imports only from rows above its own, or from its own package")


def test_above_the_torch_line_there_is_no_torch() -> None:
    problems = [
        where(path, item)
        for path, _, at, item in walk_all("engine")
        if is_above("engine", at) and item.target.split(".")[0] in TORCH
    ]
    fail(problems, "above the torch line nothing imports torch or transformers, not even lazily")


def test_above_the_torch_line_little_is_imported() -> None:
    problems = []
    for path, _, at, item in walk_all("engine"):
        top = item.target.split(".")[0]
        if not is_above("engine", at) or top == "engine" or top in sys.stdlib_module_names:
            continue
        if top not in ENGINE_ABOVE_MAY | TORCH | DRAWING:
            problems.append(where(path, item))
        if top == "pandas" and not (item.lazy or item.typing):
            problems.append(f"{where(path, item)} outside a function")
        if item.target.startswith("safetensors.") and item.target != "safetensors.numpy":
            problems.append(where(path, item))
    fail(problems, "above the torch line: numpy, safetensors' numpy side, pandas inside functions")


def test_engine_does_not_draw() -> None:
    problems = [
        where(path, item)
        for path, _, _, item in walk_all("engine")
        if item.target.split(".")[0] in DRAWING
    ]
    fail(problems, "engine never imports fiddler_viz, ipywidgets or plotly")


def test_packages_open_without_torch() -> None:
    """Below the torch line only lazily, in both packages' front doors and all of fiddler_viz."""
    problems = []
    for package in ROWS:
        for path, name, _, item in walk_all(package):
            front = package == "fiddler_viz" or name == "__init__"
            if item.lazy or item.typing or module_of(path).startswith(SCRIPTS) or not front:
                continue
            top, *rest = item.target.split(".")
            found = key(item.target) if top == "engine" and rest else None
            if top in TORCH or (found is not None and row("engine", found) >= TORCH_LINE):
                problems.append(where(path, item))
    fail(problems, "`import fiddler_viz` must not import torch: move the import into the function")


def test_nothing_imports_the_scripts() -> None:
    problems = [
        where(path, item)
        for package in ROWS
        for path, _, _, item in walk_all(package)
        if item.target.startswith(SCRIPTS) and not module_of(path).startswith(SCRIPTS)
    ]
    fail(problems, "these are scripts of their own")


def test_contributing_shows_the_same_tables() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for package in ROWS:
        section = text.split(f"| row | `{package}/` |")[1].split("\n\n")[0]
        lines = [line for line in section.splitlines() if re.match(r"\| \d+ \|", line)]
        cells = [re.findall(r"`([^`]+?)(?:\.py|/)`", line.split("|")[2]) for line in lines]
        written = [{cell.replace("/", ".") for cell in row} for row in cells]
        assert written == [set(row) for row in names(package)[:-1]], package


def test_pyright_is_strict_above_the_torch_line() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    excluded = settings["tool"]["pyright"]["exclude"]
    below = [name for row in names("engine")[TORCH_LINE:-1] for name in row]
    assert {re.sub(r"^engine/|\.py$", "", path) for path in excluded} == set(below)
