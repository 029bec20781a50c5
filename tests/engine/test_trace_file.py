"""Trace files: what was written comes back, and nothing else gets through.

Whatever a file holds, reading it gives a trace that can be used or a TraceError that names it.
"""

from __future__ import annotations

import copy
import json
import random
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from engine import trace_file
from engine.cost import CURVES
from engine.errors import FiddlerError, InputError, TraceError
from engine.interchange.perfetto import to_perfetto
from engine.replay import replay
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from engine.trace_file import SCHEMA
from fiddler_viz import demo
from tests.engine.builders import Driver, recorded, toy_plan, use

KEY = "fiddler_viz"
Change = Callable[[dict[str, Any]], object]
Columns = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Three plans, slots filled before it began, a step cut short, texts."""
    driver, rng = Driver(toy_plan(6, 3, "lru")), random.Random(0)
    driver.step(rng, 4)
    driver = Driver(toy_plan(6, 3, "lru"), driver.orchestrator.start())
    driver.step(rng, 5)
    driver.step(rng, plans=[toy_plan(5, 2, "fiddler", planner="random")])
    driver.step(rng, layers=1)
    driver.step(rng, plans=[toy_plan(3, policy="cpu")])
    made = driver.trace()
    assert len(made.start.cached) == 3
    return made


@pytest.fixture(scope="module")
def saved(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trace.save(tmp_path_factory.mktemp("trace") / "run.safetensors")


def parts(path: Path) -> tuple[dict[str, Any], Columns]:
    """Meta and columns of a file, free to be changed."""
    with safe_open(path, framework="np") as file:
        meta = json.loads(file.metadata()[KEY])
    return meta, load_file(path)


def write(path: Path, meta: object, columns: Columns) -> Path:
    save_file(columns, path, metadata={KEY: json.dumps(meta)})
    return path


def assert_equal(one: Trace, other: Trace) -> None:
    for name in ("step_rows", "token_rows", "work_rows", "move_rows"):
        mine, theirs = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
        assert mine.dtype == theirs.dtype
    for name in ("step", "layer", "token", "experts", "weights"):
        mine, theirs = getattr(one.routing, name), getattr(other.routing, name)
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
        assert mine.dtype == theirs.dtype
    for name in ("model", "plan_list", "start", "texts", "meta"):
        assert getattr(one, name) == getattr(other, name), name


def assert_refused(path: Path, *messages: str) -> None:
    with pytest.raises(TraceError) as refused:
        Trace.load(path)
    assert str(path) in str(refused.value)
    for message in messages:
        assert message in str(refused.value)


# ---------------------------------------------------------------------- round trips


def test_what_was_written_comes_back(trace: Trace, saved: Path) -> None:
    loaded = Trace.load(saved)
    assert_equal(loaded, trace)
    assert loaded.summary == trace.summary
    assert_equal(replay(loaded).trace, trace)


@pytest.mark.parametrize("seed", range(5))
def test_random_recordings(seed: int, tmp_path: Path) -> None:
    trace = recorded(seed, toy_plan(6, 2, "lru"), 8, replans=0.4, aborts=0.2)
    assert_equal(Trace.load(trace.save(tmp_path / "t")), trace)


def test_a_synthetic_trace_a_replay_and_an_empty_one(tmp_path: Path) -> None:
    made = synthetic_trace("olmoe-1b-7b", prompt_tokens=3, decode_tokens=3)
    for trace in (made, replay(made, policy="lru").trace, Driver(toy_plan(2)).trace()):
        assert_equal(Trace.load(trace.save(tmp_path / "t.safetensors")), trace)


def test_saving_makes_folders_and_replaces_at_once(trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "run.safetensors"
    assert trace.save(path) == path == trace.save(str(path))
    assert [entry.name for entry in path.parent.iterdir()] == ["run.safetensors"]


def test_profiles_and_costs_are_stored_once(saved: Path) -> None:
    meta, _ = parts(saved)
    assert len(meta["plans"]) == 3
    assert len(meta["shared"]) == 2  # one profile, one cost model
    assert meta["schema"] == SCHEMA


def as_schema_1(meta: dict[str, Any], columns: Columns) -> None:
    """Make a file's content that of the first schema: no beams, costs without what came later."""
    meta["schema"] = 1
    columns["token_rows"] = columns["token_rows"][:, [0, 1, 3, 4]].copy()
    (costs,) = [part for part in meta["shared"] if "copy_ns" in part]
    for name in CURVES:
        del costs[name]["points"]
    for name in ("pageable_copy_ns", "copy_contended_ns", "overlap"):
        del costs[name]
    for name in ("h2d_contended_gbps", "cpu_contended_gbps"):
        del costs[name]


def test_a_file_of_the_first_schema_still_opens(trace: Trace, saved: Path, tmp_path: Path) -> None:
    """Its cost models lack what came later, which is assumed; times and replay are the same."""
    meta, columns = parts(saved)
    as_schema_1(meta, columns)
    loaded = Trace.load(write(tmp_path / "old", meta, columns))
    assert loaded.plan.costs.pageable_copy_ns == 2 * trace.plan.costs.copy_ns
    np.testing.assert_array_equal(replay(loaded).trace.work_rows, trace.work_rows)
    columns["token_rows"] = trace.token_rows
    write(tmp_path / "new", meta | {"schema": 2}, columns)
    assert_refused(tmp_path / "new", "missing")


def test_a_what_if_is_kept_and_goes_on(tmp_path: Path) -> None:
    trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=3)
    asked = replay(trace, link_gbps=50).trace
    loaded = Trace.load(asked.save(tmp_path / "t.safetensors"))
    assert loaded.plan == asked.plan and loaded.plan.basis == asked.plan.basis
    assert replay(loaded, cpu_cores=8).summary == replay(asked, cpu_cores=8).summary


def test_a_file_of_the_second_schema_still_opens(tmp_path: Path) -> None:
    """It names its machine, and has neither its rates nor the model's figures beside the costs."""
    trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=3)
    meta, columns = parts(trace.save(tmp_path / "new.safetensors"))
    meta["schema"] = 2
    del meta["bases"], meta["plans"][0]["plan"]["basis"]
    loaded = Trace.load(write(tmp_path / "old", meta, columns))
    assert loaded.plan == trace.plan and loaded.plan.basis is None
    assert replay(loaded, link_gbps=50).summary == replay(trace, link_gbps=50).summary


@pytest.mark.parametrize("number", [-1, 1, 10**30, "0", 0.0, True, [0]])
def test_a_basis_by_a_number_that_nobody_has(number: object, saved: Path, tmp_path: Path) -> None:
    meta, columns = parts(saved)
    assert len(meta["bases"]) == 1  # three plans share it
    meta["plans"][1]["plan"]["basis"] = number
    write(tmp_path / "t", meta, columns)
    assert_refused(tmp_path / "t", "shared part")


@pytest.mark.parametrize(
    "change",
    [
        lambda basis: basis["model"].update(experts=8),
        lambda basis: basis["hardware"].update(h2d_gbps=-1),
        lambda basis: basis["hardware"].update(changed={"link_gbps": 3}),
        lambda basis: basis["hardware"].update(original={}),
        lambda basis: basis.update(hardware=None),
        lambda basis: basis.clear(),
    ],
)
def test_a_basis_that_is_none(change: Change, saved: Path, tmp_path: Path) -> None:
    meta, columns = parts(saved)
    change(meta["bases"][0])
    write(tmp_path / "t", meta, columns)
    assert_refused(tmp_path / "t")


def with_texts(trace: Trace, texts: list[str]) -> Trace:
    many = len(trace.token_rows)
    return replace(trace, texts=tuple((texts * many)[:many]))


HOSTILE = [
    "",
    "\x00",
    "</script><script>alert(1)</script>",
    "\ud800",  # half a surrogate pair, as byte-level tokenizers make them
    "\udfff and more",
    "\ud83d",
    "\ude00",
    "\ud83d\ude00 two halves that are not one character",
    "😀",
    "\u202e right to left",
    "e\u0301\u0301\u0301",
    "\r\n\u2028\ufeff",
    "\ufffd",
    "x" * 5000,
]


def test_hostile_texts(trace: Trace, tmp_path: Path) -> None:
    for text in HOSTILE:
        hostile = with_texts(trace, [text, "plain"])
        assert Trace.load(hostile.save(tmp_path / "t")).texts == hostile.texts
    hostile = with_texts(trace, HOSTILE)
    assert Trace.load(hostile.save(tmp_path / "t")).texts == hostile.texts
    frame = hostile.to_pandas("tokens")
    assert frame["text"].tolist() == list(hostile.texts)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(st.characters(codec=None, exclude_categories=())), min_size=1))
def test_any_texts(
    texts: list[str], trace: Trace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-texts"
    made = with_texts(trace, texts)
    assert Trace.load(made.save(path)).texts == made.texts


def test_without_texts(trace: Trace, tmp_path: Path) -> None:
    bare = replace(trace, texts=())
    assert Trace.load(bare.save(tmp_path / "t")).texts == ()


def test_meta_is_json(trace: Trace, tmp_path: Path) -> None:
    meta = {"prompt": 'a "quoted"\n\ud800 text', "versions": {"torch": None}, "n": [1, 2.5, True]}
    made = replace(trace, meta=meta)
    assert Trace.load(made.save(tmp_path / "t")).meta == meta


def test_names_are_unicode(trace: Trace, tmp_path: Path) -> None:
    named = replace(trace, model=replace(trace.model, name="half a \ud800 pair"))
    assert_refused(named.save(tmp_path / "t"), "no Unicode")


# ---------------------------------------------------------------------- files that are none


def test_no_such_file(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.safetensors", "no trace file at")
    assert_refused(tmp_path, ", a folder: give the path")
    assert_refused(tmp_path / ("a" * 5000), "no trace file at")
    assert_refused(tmp_path / "a\0b", "no trace file at")
    with pytest.raises(InputError, match="expected the path of a trace file, got NoneType"):
        Trace.load(None)  # type: ignore[arg-type]


def test_whoever_may_read_files_may_read_this_one(trace: Trace, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch()
    assert trace.save(tmp_path / "run.safetensors").stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("content", [b"", b"\x00", b"{}", b"not a trace" * 50, b"\xff" * 4096])
def test_random_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    assert_refused(path, "damaged")


def test_every_truncation(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in {*range(0, 40), *range(40, len(content), max(len(content) // 60, 1))}:
        path.write_bytes(content[:length])
        assert_refused(path, "damaged")
    path.write_bytes(content + b"\x00")
    assert_refused(path, "damaged")


@pytest.mark.parametrize("claim", [0, 1, 2**27, 2**40, 2**62, 2**63, 2**64 - 1])
def test_headers_that_claim_too_much(claim: int, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", claim) + saved.read_bytes()[8:])
    assert_refused(path, "damaged")


def test_columns_that_claim_more_than_the_file_holds(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {KEY: "{}"},
            "step_rows": {"dtype": "I64", "shape": [2**40, 11], "data_offsets": [0, 2**40 * 88]},
        }
    ).encode()
    path = tmp_path / "claims.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\x00" * 88)
    assert_refused(path, "damaged")


def test_a_file_that_may_not_be_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, who runs these tests in a container, may read everything: so the opening is faked."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(trace_file, "safe_open", refuse)
    assert_refused(saved, "cannot be read", "Permission denied")


def test_other_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": np.zeros(3)}, path)
    assert_refused(path, "not a trace", "give a file that Trace.save() wrote")
    save_file({"weight": np.zeros(3)}, path, metadata={"format": "pt"})
    assert_refused(path, "not a trace")


# ---------------------------------------------------------------------- meta


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": ' + "9" * 5000 + "}", "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{}", "schema None"),
        ('{"schema": "1"}', "schema '1'"),
        ('{"schema": 0}', "schema 0"),
        ('{"schema": -3}', "schema -3"),
        (f'{{"schema": {SCHEMA + 1}}}', f"has schema {SCHEMA + 1}, this version reads up to"),
        ('{"schema": 1}', "model"),
        (f'{{"schema": {SCHEMA}}}', "model"),
    ],
)
def test_meta_that_is_none(text: str, message: str, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_file(parts(saved)[1], path, metadata={KEY: text})
    assert_refused(path, message)


def test_a_newer_schema_says_to_update(saved: Path, tmp_path: Path) -> None:
    meta, columns = parts(saved)
    write(tmp_path / "t", meta | {"schema": SCHEMA + 1}, columns)
    assert_refused(tmp_path / "t", "update fiddler-viz")


def test_schema_1_is_upgraded(trace: Trace, saved: Path, tmp_path: Path) -> None:
    """It had no beams and no parents: a token follows the one before in its sequence."""
    meta, columns = parts(saved)
    as_schema_1(meta, columns)
    loaded = Trace.load(write(tmp_path / "t", meta, columns))
    np.testing.assert_array_equal(loaded.token_rows, trace.token_rows)
    columns["token_rows"][0, 2] = -1
    columns["token_rows"][4:7, 1] = 1
    loaded = Trace.load(write(tmp_path / "t", meta, columns))
    assert loaded.tokens["parent"].tolist() == [-1, -1, 1, 2, -1, 4, 5, 3][: len(loaded.texts)]
    assert not loaded.tokens["beam"].any()
    write(tmp_path / "t", parts(saved)[0], columns)
    assert_refused(tmp_path / "t", "column 'token_rows' is")


@pytest.mark.parametrize("name", ["model", "plans", "shared", "start", "meta"])
def test_missing_meta(name: str, saved: Path, tmp_path: Path) -> None:
    meta, columns = parts(saved)
    del meta[name]
    write(tmp_path / "t", meta, columns)
    assert_refused(tmp_path / "t", name)


@pytest.mark.parametrize("part", ["profile", "costs"])
@pytest.mark.parametrize("number", [-1, 2, 10**30, "0", None, 0.0, True, [0]])
def test_shared_parts_by_numbers_that_nobody_has(
    part: str, number: object, saved: Path, tmp_path: Path
) -> None:
    meta, columns = parts(saved)
    meta["plans"][1]["plan"][part] = number
    write(tmp_path / "t", meta, columns)
    assert_refused(tmp_path / "t", "shared part")


def test_shared_parts_that_were_swapped(saved: Path, tmp_path: Path) -> None:
    meta, columns = parts(saved)
    meta["shared"].reverse()
    write(tmp_path / "t", meta, columns)
    assert_refused(tmp_path / "t", "not a profile")


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta["model"].update(layers=0),
        lambda meta: meta["model"].update(layers=4),
        lambda meta: meta["model"].update(layers=10**12),
        lambda meta: meta["model"].update(top_k=3),
        lambda meta: meta["model"].update(experts=2),
        lambda meta: meta.update(model=[]),
        lambda meta: meta.update(plans=[]),
        lambda meta: meta.update(plans={}),
        lambda meta: meta.update(plans=None),
        lambda meta: meta.update(plans=["x"]),
        lambda meta: meta["plans"][0].update(step=1),
        lambda meta: meta["plans"][0].update(step=-1),
        lambda meta: meta["plans"][1].update(step=float("inf")),
        lambda meta: meta["plans"][1].update(step=float("nan")),
        lambda meta: meta["plans"][1].update(step="two"),
        lambda meta: meta["plans"][2].update(step=10**30),
        lambda meta: meta["plans"].reverse(),
        lambda meta: meta["plans"][0]["plan"].update(gpu_memory=10**30),
        lambda meta: meta["plans"][0]["plan"].update(pinned=[99]),
        lambda meta: meta["plans"][0]["plan"].update(grid=[2**31, 2**31]),
        lambda meta: meta["shared"][0].update(counts=[[]]),
        lambda meta: meta["shared"][0].update(counts=[[10**30] * 4] * 3),
        lambda meta: meta["shared"][1].update(copy_ns=10**30),
        lambda meta: meta["shared"][1].update(kv_ns=float("nan")),
        lambda meta: meta["shared"][1]["gpu"].update(lines=[[float("inf"), 0]]),
        lambda meta: meta["start"].update(cached=[0, 0]),
        lambda meta: meta["start"].update(cached=[-1]),
        lambda meta: meta["start"].update(cached=[10**30]),
        lambda meta: meta["start"].update(cached=[float("inf")]),
        lambda meta: meta["start"].update(cached=3),
        lambda meta: meta["start"].update(policy=[]),
        lambda meta: meta["start"].update(policy={"recent": 3}),
        lambda meta: meta["start"].update(policy={"recent": ["x"]}),
        lambda meta: meta.update(start=None),
        lambda meta: meta.update(meta=7),
        lambda meta: meta.update(shared={}),
    ],
)
def test_meta_that_does_not_fit(change: Change, saved: Path, tmp_path: Path) -> None:
    meta, columns = parts(saved)
    change(meta)
    write(tmp_path / "t", meta, columns)
    assert_refused(tmp_path / "t")


# ---------------------------------------------------------------------- columns

NAMES = [
    "step_rows", "token_rows", "work_rows", "move_rows", "texts.bytes", "texts.lengths",
    "routing.step", "routing.layer", "routing.token", "routing.experts", "routing.weights",
]  # fmt: skip


def test_these_are_the_columns(saved: Path) -> None:
    assert sorted(parts(saved)[1]) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_missing_columns(name: str, saved: Path, tmp_path: Path) -> None:
    meta, columns = parts(saved)
    del columns[name]
    write(tmp_path / "t", meta, columns)
    assert_refused(tmp_path / "t", f"column '{name}' is missing")


@pytest.mark.parametrize("name", NAMES)
def test_columns_of_another_shape_or_dtype(name: str, saved: Path, tmp_path: Path) -> None:
    meta, columns = parts(saved)
    good = columns[name]
    shapes: list[NDArray[Any]] = [
        good[None],
        good.ravel()[:0, None, None],
        good.ravel()[:1].squeeze(),
    ]
    if good.ndim == 2:
        shapes += [good[:, :-1], good[:, :0], np.repeat(good, 2, axis=1), good.ravel()]
    kinds = [np.int8, np.uint64, np.float64, np.float16, np.bool_]
    shapes += [good.astype(kind) for kind in kinds]
    for bad in shapes:
        columns[name] = bad.copy()
        write(tmp_path / "t", meta, columns)
        assert_refused(tmp_path / "t", f"column '{name}' is", "expected")


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2", "I4", "C64", "nonsense"])
def test_dtypes_that_numpy_does_not_have(dtype: str, saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    path = tmp_path / "t.safetensors"
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["routing.experts"]["dtype"] = dtype
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    assert_refused(path)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("texts")])
def test_columns_that_lost_rows(name: str, saved: Path, tmp_path: Path) -> None:
    meta, columns = parts(saved)
    columns[name] = columns[name][:3]
    write(tmp_path / "t", meta, columns)
    if name in ("work_rows", "move_rows"):  # fewer of these are a shorter story, not a wrong one
        use(Trace.load(tmp_path / "t"))
    else:
        assert_refused(tmp_path / "t")


@pytest.mark.parametrize(
    "lengths",
    [
        lambda lengths: -lengths,
        lambda lengths: lengths + 1,
        lambda lengths: lengths[:-1],
        lambda lengths: np.concatenate([lengths, [0]]),
        lambda lengths: np.concatenate([lengths[:-2], [-1, lengths[-2:].sum() + 1]]),
        lambda lengths: np.concatenate([[2**62] * 4, lengths]),  # the sum overflows to the same
        lambda lengths: np.full(len(lengths), 2**63 - 1),
    ],
)
def test_lengths_of_texts(
    lengths: Callable[[NDArray[np.int64]], NDArray[np.int64]], saved: Path, tmp_path: Path
) -> None:
    meta, columns = parts(saved)
    columns["texts.lengths"] = lengths(columns["texts.lengths"]).astype(np.int64)
    write(tmp_path / "t", meta, columns)
    assert_refused(tmp_path / "t", "text")


def test_texts_that_are_not_utf8(saved: Path, tmp_path: Path) -> None:
    meta, columns = parts(saved)
    columns["texts.bytes"][:] = 0xFF
    write(tmp_path / "t", meta, columns)
    assert_refused(tmp_path / "t", "utf-8")


def test_unknown_columns_are_ignored(trace: Trace, saved: Path, tmp_path: Path) -> None:
    """A later version may add columns without a new schema."""
    meta, columns = parts(saved)
    write(tmp_path / "t", meta, columns | {"scores": np.zeros(3)})
    assert_equal(Trace.load(tmp_path / "t"), trace)


# ---------------------------------------------------------------------- anything at all


def load_or_refuse(path: Path) -> Trace | None:
    """The trace, fit for use, or None where it was refused as it should be."""
    try:
        loaded = Trace.load(path)
    except TraceError as error:
        assert str(path) in str(error)
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers may have become absurdly large, not unusable
        use(loaded)
        to_perfetto(loaded, path.with_suffix(".json"))
        try:
            replay(loaded)
        except FiddlerError:
            pass
    return loaded


@pytest.mark.parametrize("seed", range(4))
def test_corrupted_bytes(seed: int, saved: Path, tmp_path: Path) -> None:
    """4 x 75 files with bytes flipped, lost, doubled or moved, in the header and elsewhere."""
    rng = random.Random(seed)
    good = saved.read_bytes()
    header = 8 + struct.unpack("<Q", good[:8])[0]
    read = 0
    for number in range(75):
        content = bytearray(good)
        region = header if rng.random() < 0.5 else len(good)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            at = rng.randrange(region)
            kind = rng.randrange(4)
            if kind == 0:
                content[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                content[at] = rng.choice(b'0123456789"{}[],:-.eE \x00\xff')
            elif kind == 2:
                del content[at : at + rng.randrange(1, 9)]
                if rng.random() < 0.5:
                    content += bytes(len(good) - len(content))
            else:
                other = rng.randrange(region)
                content[at : at + 8], content[other : other + 8] = (
                    content[other : other + 8],
                    content[at : at + 8],
                )
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(bytes(content))
        read += load_or_refuse(path) is not None
    assert read < 75


ODD: list[Any] = [
    None, True, -1, 0, 1, 7, 2**31, 2**63, 10**30, 0.5, -0.0, float("nan"), float("inf"), "", "x",
    "\ud800", [], [0], [[]], {}, {"a": 1}, sys.maxsize,
]  # fmt: skip


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


@pytest.mark.parametrize("seed", range(4))
def test_spoiled_meta(seed: int, saved: Path, tmp_path: Path) -> None:
    """4 x 60 files that are sound but for one value of their meta."""
    rng = random.Random(f"meta {seed}")
    meta, columns = parts(saved)
    path = tmp_path / "t.safetensors"
    answers = [
        load_or_refuse(write(path, spoil(rng, copy.deepcopy(meta)), columns)) for _ in range(60)
    ]
    assert any(answer is None for answer in answers)


@pytest.mark.parametrize("seed", range(4))
def test_spoiled_columns(seed: int, saved: Path, tmp_path: Path) -> None:
    """4 x 60 files that are sound but for one number of one column."""
    rng = random.Random(f"columns {seed}")
    meta, columns = parts(saved)
    path = tmp_path / "t.safetensors"
    answers: list[Trace | None] = []
    for _ in range(60):
        name = rng.choice([name for name in NAMES if columns[name].size])
        bad = columns[name].copy()
        flat = bad.reshape(-1).view(np.uint8)
        flat[rng.randrange(len(flat))] ^= 1 << rng.randrange(8)
        answers.append(load_or_refuse(write(path, meta, columns | {name: bad})))
    assert any(answer is None for answer in answers)
    assert any(answer is not None for answer in answers)  # a weight, a token's id, a text


def test_the_bundled_trace_reads_as_one_text() -> None:
    """It was written with schema 1."""
    bundled = demo.trace().check()
    assert bundled.path().tolist() == list(range(len(bundled.token_rows)))
    steps = bundled.steps
    assert bundled.summary.generated_tokens == len(bundled.decode_steps)
    assert bundled.summary.prompt_tokens == steps["tokens"][0]
