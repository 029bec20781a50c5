"""Trace files that somebody spoilt, in every way that came to mind, and all that is done with one.

A file either fails to load with a TraceError, or loads and then works everywhere: whatever asks for
more than its numbers can give raises a FiddlerError.
"""

from __future__ import annotations

import copy
import json
import random
import struct
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fiddler_viz as fv
from engine.errors import FiddlerError, TraceError
from engine.interchange.perfetto import to_perfetto
from engine.replay import replay
from engine.trace import Trace
from fiddler_viz.page import render
from tests.engine.builders import use

KEY = "fiddler_viz"
Columns = dict[str, NDArray[Any]]

ODD: list[Any] = [
    None, True, False, -1, 0, 1, 2, 7, 255, 2**15, 2**31, 2**53, 2**63, 10**30, -(10**30), 0.5,
    -0.0, 1e300, 5e-324, float("nan"), float("inf"), "", "x", "\ud800", "\0", "lru", "makespan",
    "belady", [], [0], [[]], [1, 2, 3], {}, {"a": 1},
]  # fmt: skip
NUMBERS = [-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 2**15, 2**31 - 1, 2**31, 2**62, 2**63 - 1]
LITERALS = [
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 400,
    "-0",
    "[" * 3000,
    '{"a":' * 2000,
    '"\\ud800"',
    "tru",
]


@dataclass(frozen=True)
class Parts:
    """A sound file, taken apart."""

    content: bytes
    meta: dict[str, Any]
    columns: Columns

    @property
    def header_end(self) -> int:
        """Where the data begins."""
        return 8 + struct.unpack("<Q", self.content[:8])[0]


def parts(path: Path) -> Parts:
    """Take a sound file apart."""
    with safe_open(path, framework="np") as file:
        meta = json.loads(file.metadata()[KEY])
    return Parts(path.read_bytes(), meta, load_file(path))


def spoil(rng: random.Random, value: Any) -> Any:
    """Replace one value somewhere inside, or leave a key out."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {name: other for name, other in value.items() if name != key}
        return value | {key: spoil(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], spoil(rng, value[at]), *value[at + 1 :]]
    return rng.choice(ODD)


# What is done to a file: each takes chance and the parts, and gives the new content.


def of_bytes(rng: random.Random, good: Parts) -> bytes:
    """Bits flipped, bytes replaced, lost, moved; in the header and elsewhere."""
    content = bytearray(good.content)
    region = good.header_end if rng.random() < 0.5 else len(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at, kind = rng.randrange(region), rng.randrange(4)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at] = rng.choice(b'0123456789"{}[],:-.eE \x00\xff')
        elif kind == 2:
            del content[at : at + rng.randrange(1, 9)]
            if rng.random() < 0.5:
                content += bytes(len(good.content) - len(content))
        else:
            other = rng.randrange(region)
            content[at : at + 8], content[other : other + 8] = (
                content[other : other + 8],
                content[at : at + 8],
            )
    return bytes(content)


def of_length(rng: random.Random, good: Parts) -> bytes:
    """Cut short, or something behind the end."""
    if rng.random() < 0.8:
        return good.content[: rng.randrange(len(good.content))]
    return good.content + rng.randbytes(rng.randrange(1, 200))


def of_header(rng: random.Random, good: Parts) -> bytes:
    """Shapes, types and places of columns that are not so."""
    header = json.loads(good.content[8 : good.header_end])
    name = rng.choice([name for name in header if name != "__metadata__"])
    field = rng.choice(["dtype", "shape", "data_offsets", "name", "entry"])
    entry = header[name]
    if field == "name":
        header[rng.choice([*header, "x"])] = header.pop(name)
    elif field == "entry":
        header[name] = rng.choice([*ODD, header[rng.choice(list(header))]])
    elif field == "dtype":
        entry["dtype"] = rng.choice(
            ["I8", "U8", "I16", "I32", "I64", "U64", "F32", "F64", "BOOL", "BF16", "x", 3]
        )
    else:
        values = list(entry[field])
        for _ in range(rng.randrange(1, 3)):
            if rng.random() < 0.3 or not values:
                values.insert(rng.randrange(len(values) + 1), rng.choice([0, 1, 2]))
            else:
                values[rng.randrange(len(values))] = rng.choice([*NUMBERS, 2**64, 0.5, "1", None])
        entry[field] = values
    return _with_header(json.dumps(header), good)


def of_meta(rng: random.Random, good: Parts) -> bytes:
    """Values of the meta that nobody would write."""
    meta: Any = copy.deepcopy(good.meta)
    for _ in range(rng.choice((1, 1, 2, 4))):
        meta = spoil(rng, meta)
    return _with_meta(json.dumps(meta), good)


def of_meta_text(rng: random.Random, good: Parts) -> bytes:
    """The meta's JSON: literals that are no JSON, keys twice, brackets without end."""
    text = json.dumps(good.meta)
    colons = [at for at, sign in enumerate(text) if sign == ":"]
    at = rng.choice(colons) + 1
    if rng.random() < 0.3:  # the key once more, with another value
        begin = max(text.rfind("{", 0, at), text.rfind(", ", 0, at) + 1) + 1
        key = text[begin:at]
        made = f"{text[:begin]}{key} {json.dumps(rng.choice(ODD))}, {text[begin:]}"
    else:
        stop = min(end for end in (text.find(sign, at) for sign in ",}]") if end >= 0)
        made = text[:at] + rng.choice(LITERALS) + text[stop:]
    return _with_meta(made, good)


def of_columns(rng: random.Random, good: Parts) -> bytes:
    """Rows and numbers of the columns: out of range, out of order, too many, too few."""
    columns = {name: values.copy() for name, values in good.columns.items()}
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice([name for name in columns if columns[name].size])
        columns[name] = np.ascontiguousarray(rng.choice(_ROWS)(rng, columns[name]))
    return written(good.meta, columns)


def _numbers(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    flat = values.reshape(-1)
    if values.dtype.kind == "f":
        flat[rng.randrange(flat.size)] = rng.choice([np.nan, np.inf, -np.inf, -1, 0, 1e38, 1e-45])
        return values
    if values.dtype.kind == "b":
        return ~values
    info = np.iinfo(values.dtype)
    chosen = rng.choice([*NUMBERS, int(flat[rng.randrange(flat.size)]) + rng.choice((-1, 1))])
    chosen = min(max(chosen, info.min), info.max)
    if values.ndim == 2 and rng.random() < 0.3:
        values[:, rng.randrange(values.shape[1])] = chosen
    else:
        flat[rng.randrange(flat.size)] = chosen
    return values


def _bits(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    values = np.ascontiguousarray(values)
    flat = values.reshape(-1).view(np.uint8)
    flat[rng.randrange(flat.size)] ^= 1 << rng.randrange(8)
    return values


def _cut(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    a, b = sorted(rng.randrange(len(values) + 1) for _ in range(2))
    return values[a:b] if rng.random() < 0.5 else np.delete(values, slice(a, b), axis=0)


def _doubled(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    a, b = sorted(rng.randrange(len(values) + 1) for _ in range(2))
    return np.concatenate([values[:b], values[a:b], values[b:]])


def _shuffled(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    order = np.random.default_rng(rng.randrange(2**31)).permutation(len(values))
    if values.ndim == 2 and rng.random() < 0.5:
        at = rng.randrange(values.shape[1])
        values[:, at] = values[order, at]
        return values
    return values[order]


def _swapped(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim < 2:
        return values[::-1]
    a, b = (rng.randrange(values.shape[1]) for _ in range(2))
    values[:, [a, b]] = values[:, [b, a]]
    return values


def _another(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    kinds = [np.int8, np.int32, np.uint64, np.float64, np.float16, np.bool_]
    if rng.random() < 0.5:
        with np.errstate(all="ignore"):
            return values.astype(rng.choice(kinds))
    return rng.choice([values[None], values.ravel(), values.reshape(-1, 1), values[..., None]])


_ROWS: list[Callable[[random.Random, NDArray[Any]], NDArray[Any]]] = [
    _numbers, _numbers, _numbers, _bits, _cut, _doubled, _shuffled, _swapped, _another,
]  # fmt: skip
WAYS: list[Callable[[random.Random, Parts], bytes]] = [
    of_bytes, of_length, of_header, of_meta, of_meta, of_meta_text,
    of_columns, of_columns, of_columns,
]  # fmt: skip


def _with_header(header: str, good: Parts) -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + good.content[good.header_end :]


def _with_meta(meta: str, good: Parts) -> bytes:
    header = json.loads(good.content[8 : good.header_end])
    header["__metadata__"][KEY] = meta
    return _with_header(json.dumps(header), good)


def written(meta: Any, columns: Columns) -> bytes:
    """A file of these parts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        columns = {name: np.ascontiguousarray(values) for name, values in columns.items()}
        save_file(columns, path, metadata={KEY: json.dumps(meta)})
        return path.read_bytes()


# What is done with it.


def attempt(path: Path, rng: random.Random, *, drawn: bool, explored: bool = False) -> bool:
    """Load and use a file; whether it loaded. Any other exception than those promised goes up."""
    try:
        trace = Trace.load(path)
    except TraceError as error:
        assert str(path) in str(error)
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers may have become absurdly large, not unusable
        for use_of in [*_NUMBERS_OF, *(_DRAWN if drawn else ()), *(_EXPLORED if explored else ())]:
            try:
                use_of(trace, path, rng)
            except FiddlerError:
                pass
    return True


def _replayed(trace: Trace, _: Path, rng: random.Random) -> None:
    changes: dict[str, Any] = {
        "gpu_memory": rng.choice(["0%", "37%", "100%"]),
        "policy": rng.choice(
            ["fiddler", "makespan", "lru", "qstar", "hybrimoe", "dynamic", "belady"]
        ),
        "hardware": rng.choice([None, "l4"]),
    }
    assert replay(trace, **changes).summary.steps == len(trace.step_rows)


def _saved(trace: Trace, path: Path, _: random.Random) -> None:
    assert len(Trace.load(trace.save(path.with_suffix(".again"))).step_rows) == len(trace.step_rows)


def _explorer(trace: Trace, _: Path, rng: random.Random) -> None:
    explorer = fv.Explorer(trace)
    try:
        explorer.apply(gpu_memory=rng.choice(["0%", "50%"]))
        explorer.selection.pick(token=0)
        explorer.flush()
    finally:
        explorer.close()


_NUMBERS_OF: list[Callable[[Trace, Path, random.Random], object]] = [
    lambda trace, _, __: use(trace),
    lambda trace, path, _: to_perfetto(trace, path.with_suffix(".json")),
    lambda trace, _, __: replay(trace).summary,
    _replayed,
]
_DRAWN: list[Callable[[Trace, Path, random.Random], object]] = [
    _saved,
    lambda trace, _, __: render(trace),
    lambda trace, _, __: fv.heatmap(trace, show="token"),
    lambda trace, _, __: fv.timeline(trace, step=0),
    lambda trace, _, rng: fv.tokens(
        trace, color=rng.choice(["latency", "hits", "action", "expert"]), layer=0
    )._repr_html_(),
    lambda trace, _, __: fv.tokens(trace, color="latency")._repr_html_(),
    lambda trace, _, __: fv.memory(trace, step=0),
    lambda trace, _, __: fv.inspect(trace),
    lambda trace, _, __: fv.regrets(trace).to_pandas(),
    lambda trace, _, __: fv.bound(trace),
    lambda trace, _, __: fv.curves(trace).to_pandas(),
    lambda trace, _, __: fv.budgets(trace).to_pandas(),
    lambda trace, _, __: fv.heldout(trace),
    lambda trace, _, __: fv.compare(trace, policies=["lru", "fiddler"]),
]
_EXPLORED: list[Callable[[Trace, Path, random.Random], object]] = [
    _explorer,
    lambda trace, _, __: fv.crossover(trace),
    lambda trace, _, __: fv.hit_rates(trace),
    lambda trace, _, __: fv.budget_speeds(trace),
    lambda trace, _, __: fv.routing_flow(trace),
    lambda trace, _, __: fv.specialisation(trace),
]


def campaign(good: list[Parts], first: int, many: int, folder: Path) -> tuple[int, list[str]]:
    """Spoil ``many`` files, each by its own number; how many loaded, and what went wrong.

    One in 8 of what loads is drawn, one in 64 explored too: these take a hundred times as long.
    """
    loaded, wrong = 0, list[str]()
    path = folder / "t.safetensors"
    for seed in range(first, first + many):
        rng = random.Random(seed)
        way = WAYS[seed % len(WAYS)]
        path.write_bytes(way(rng, rng.choice(good)))
        try:
            drawn = seed % 8 == 0
            loaded += attempt(path, rng, drawn=drawn, explored=seed % 64 == 0)
        except Exception as error:  # noqa: BLE001  (which one is what we are after)
            wrong.append(f"seed {seed} ({way.__name__}): {error!r} at {_where(error)}")
    return loaded, wrong


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    named = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    return " > ".join(named[-4:])


def main() -> None:
    """``python -m tests.hostile_files FIRST MANY``: a campaign by hand."""
    from tests.test_hostile_files import sound

    first, many = map(int, sys.argv[1:3])
    with tempfile.TemporaryDirectory() as folder:
        good = sound(Path(folder))
        for begin in range(first, first + many, 1000):
            count = min(1000, first + many - begin)
            loaded, wrong = campaign(good, begin, count, Path(folder))
            print(
                f"{begin}: {count} files, {loaded} loaded, {len(wrong)} went wrong",
                *wrong,
                sep="\n",
                flush=True,
            )


if __name__ == "__main__":
    main()
