"""A trace as one ``.safetensors`` file: named columns, and one JSON string of meta.

Nothing in the file is executed, sizes are checked by the format before anything is read, and
every column is checked for shape, dtype and range before a trace is made of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

from engine.destination import writing
from engine.errors import InputError, TraceError
from engine.events import MOVES, STEPS, TOKENS, WORK
from engine.happened import Recorded
from engine.plan import Plan
from engine.routing import Routing
from engine.spec import ModelSpec
from engine.trace import Start, Trace
from engine.trace_upgrade import TOKENS_WIDTH_1, costs_from_1, tokens_from_1

SCHEMA = 3
"""Version of the layout; a reader refuses a newer one, and upgrades an older one as it reads."""

SPARE_BYTES = 64 * 2**20
"""Reading takes no more memory than twice the file and this."""

_KEY = "fiddler_viz"
_PREDICTED = "routing.predicted"
"""A column that is there only where something was predicted."""
_TABLES = {"step_rows": STEPS, "token_rows": TOKENS, "work_rows": WORK, "move_rows": MOVES}
_BYTES_OF = {"{": 240, "[": 96, ":": 96, ",": 48}
"""Bytes that a sign of JSON may come to in memory: an object, a list, a key, a value."""
_SHARED = ("profile", "costs")
"""Parts of a plan that many plans share: stored once, referred to by number."""


def write(trace: Trace, path: str | Path) -> Path:
    """Write a trace; the file is replaced only once it is complete.

    Makes the folders above it. Raises InputError where it cannot be written.
    """
    shared: list[str] = []
    bases: list[str] = []
    plans: list[dict[str, Any]] = []
    for step, plan in trace.plan_list:
        values = plan.to_dict()
        for name in _SHARED:
            text = json.dumps(values[name], sort_keys=True)
            if text not in shared:
                shared.append(text)
            values[name] = shared.index(text)
        if plan.basis is not None:
            text = json.dumps(values["basis"], sort_keys=True)
            if text not in bases:
                bases.append(text)
            values["basis"] = bases.index(text)
        plans.append({"step": step, "plan": values})
    meta = {
        "schema": SCHEMA,
        "model": trace.model.to_dict(),
        "plans": plans,
        "shared": [json.loads(text) for text in shared],
        "bases": [json.loads(text) for text in bases],
        "start": {
            "cached": list(trace.start.cached),
            "policy": {name: list(values) for name, values in trace.start.policy.items()},
        },
        "meta": dict(trace.meta),
    }
    encoded = [text.encode("utf-8", "surrogatepass") for text in trace.texts]
    columns: dict[str, NDArray[Any]] = {
        "texts.bytes": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "texts.lengths": np.array([len(text) for text in encoded], dtype=np.int64),
    }
    for name in _TABLES:
        columns[name] = np.ascontiguousarray(getattr(trace, name))
    for name in ("step", "layer", "token", "experts", "weights"):
        columns[f"routing.{name}"] = np.ascontiguousarray(getattr(trace.routing, name))
    if trace.routing.predicted is not None:
        columns[_PREDICTED] = np.ascontiguousarray(trace.routing.predicted)
    with writing(path) as path:
        partial = path.with_name(path.name + ".partial")
        try:
            partial.touch()
            usual = partial.stat().st_mode
            save_file(columns, partial, metadata={_KEY: json.dumps(meta)})
            partial.chmod(usual)  # safetensors lets nobody else read what it writes
            partial.replace(path)
        except SafetensorError as error:  # how it tells of a full disk
            raise OSError(str(error)) from error
        finally:
            partial.unlink(missing_ok=True)
    return path


def read(path: Path) -> Trace:
    """Read a trace; TraceError says what is wrong with the file."""
    if not os.path.isfile(path):  # pathlib's own raises for a name that the system refuses
        folder = ", a folder" if os.path.isdir(path) else ""
        raise TraceError(
            f"no trace file at {path}{folder}: give the path of a file that Trace.save() wrote"
        )
    try:
        _check_header(path)
        with safe_open(path, framework="np") as opened:  # pyright: ignore[reportUnknownVariableType]
            file = cast(Any, opened)  # safetensors' reader has no types
            header = cast("dict[str, str]", file.metadata() or {})
            if _KEY not in header:
                raise TraceError(
                    f"a safetensors file but not a trace (no {_KEY!r} in its header): "
                    "give a file that Trace.save() wrote"
                )
            meta = _json(header[_KEY], path.stat().st_size)
            names = cast("list[str]", list(file.keys()))

            def column(name: str, dtype: type[np.generic], width: int | None) -> NDArray[Any]:
                return _column(file, names, name, dtype, width)

            return _assemble(meta, names, column)
    except (TraceError, InputError) as error:
        raise TraceError(f"{path}: {error}") from error
    except SafetensorError as error:
        raise TraceError(
            f"{path} cannot be read as safetensors ({error}): it is damaged, or no trace "
            "file; give the path of a file that Trace.save() wrote"
        ) from error
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise TraceError(f"{path} is not a valid trace: {error!r}") from error


def _check_header(path: Path) -> None:
    """Raise TraceError where the header is most of a file that is not small: it is read whole."""
    with path.open("rb") as file:
        claimed = int.from_bytes(file.read(8), "little")
    size = path.stat().st_size
    if claimed <= size and claimed > max(size // 2, SPARE_BYTES // 8):
        raise TraceError(f"its header takes {claimed:,} of {size:,} bytes: no trace needs so much")


def _json(text: str, size: int) -> dict[str, Any]:
    # A bracket may become 240 bytes of Python: what it comes to is known before it is read.
    needed = sum(cost * text.count(sign) for sign, cost in _BYTES_OF.items())
    if needed > 2 * size + SPARE_BYTES:
        raise TraceError(f"its meta would take {needed:,} bytes of memory, the file has {size:,}")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"its meta is not JSON ({error})") from error
    if not isinstance(meta, dict):
        raise TraceError("its meta is not a JSON object")
    meta = cast("dict[str, Any]", meta)
    if "\\ud" in text.lower():  # perhaps half a surrogate pair, which no menu can show
        names = {name: part for name, part in meta.items() if name != "meta"}
        try:
            json.dumps(names, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise TraceError(f"a name of its model or plans is no Unicode ({error})") from error
    schema = meta.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise TraceError(f"schema {schema!r} is not a version number")
    if schema > SCHEMA:
        raise TraceError(
            f"has schema {schema}, this version reads up to {SCHEMA}: update fiddler-viz"
        )
    return meta


def _column(
    file: Any, names: list[str], name: str, dtype: type[np.generic], width: int | None
) -> NDArray[Any]:
    if name not in names:
        raise TraceError(f"column {name!r} is missing")
    values = cast("NDArray[Any]", file.get_tensor(name))
    wanted = "(rows,)" if width is None else f"(rows, {width})"
    shape_ok = values.ndim == 1 if width is None else values.shape[1:] == (width,)
    if not shape_ok or values.dtype != dtype:
        raise TraceError(
            f"column {name!r} is {values.dtype}{values.shape}, expected {np.dtype(dtype)}{wanted}"
        )
    return values


def _assemble(
    meta: Mapping[str, Any],
    names: list[str],
    column: Callable[[str, type[np.generic], int | None], NDArray[Any]],
) -> Trace:
    model = ModelSpec.from_dict(meta["model"])
    shared = [costs_from_1(part) if meta["schema"] == 1 else part for part in meta["shared"]]
    plans: list[tuple[int, Plan]] = []
    for entry in meta["plans"]:
        values = dict(entry["plan"])
        values |= {name: _referred(shared, values[name]) for name in _SHARED}
        if meta["schema"] < 3:  # costs only, not what they were derived from
            values["basis"] = None
        elif values["basis"] is not None:
            values["basis"] = _referred(meta["bases"], values["basis"])
        plans.append((int(entry["step"]), Plan.from_dict(values)))
    widths = {name: len(dtype.names or ()) for name, dtype in _TABLES.items()}
    if meta["schema"] == 1:
        widths["token_rows"] = TOKENS_WIDTH_1
    tables = {name: column(name, np.int64, width) for name, width in widths.items()}
    if meta["schema"] == 1:
        tables["token_rows"] = tokens_from_1(tables["token_rows"])
    routing = Routing(
        step=column("routing.step", np.int32, None),
        layer=column("routing.layer", np.int32, None),
        token=column("routing.token", np.int32, None),
        experts=column("routing.experts", np.int16, model.top_k),
        weights=column("routing.weights", np.float32, model.top_k),
        predicted=column(_PREDICTED, np.int16, model.top_k) if _PREDICTED in names else None,
    )
    lengths = column("texts.lengths", np.int64, None)
    if len(lengths) not in (0, len(tables["token_rows"])):  # before any of them is made
        raise TraceError(f"{len(lengths)} texts for {len(tables['token_rows'])} tokens")
    content = bytes(column("texts.bytes", np.uint8, None))
    fitting = (lengths >= 0) & (lengths <= len(content))  # so that their sum cannot overflow
    if not fitting.all() or lengths.sum() != len(content):
        raise TraceError("the lengths of the token texts do not add up to their bytes")
    ends = [0, *np.cumsum(lengths).tolist()]
    texts = tuple(content[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(ends))
    start = meta["start"]
    state = {str(name): _numbers(values) for name, values in start["policy"].items()}
    happened = Recorded(tables.pop("work_rows"), tables.pop("move_rows"))
    return Trace(
        model=model,
        happened=happened,
        routing=routing,
        plan_list=tuple(plans),
        start=Start(tuple(int(v) for v in start["cached"]), state),
        texts=texts,
        meta=dict(meta["meta"]),
        **tables,
    ).check()


def _numbers(values: Any) -> list[int] | list[float]:
    """Whole numbers, or numbers: what a policy remembers."""
    if all(type(value) is int for value in values):
        return list(values)
    numbers = [float(value) for value in values]
    if not np.isfinite(numbers).all():
        raise TraceError("the policy's state at the start holds what is no number")
    return numbers


def _referred(shared: list[Any], number: object) -> Any:
    if type(number) is not int or not 0 <= number < len(shared):
        raise TraceError(f"a plan refers to shared part {number!r} of {len(shared)}")
    return shared[number]
