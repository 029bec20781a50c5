"""Spoilt trace files: typed errors or a trace that works, never more memory than twice the file.

A longer campaign by hand: ``python -m tests.hostile_files FIRST MANY``.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.trace_file import SPARE_BYTES
from tests import hostile_files
from tests.engine.builders import Driver, toy_plan
from tests.fiddler_viz.make_trace import toy_trace
from tests.hostile_files import Parts, campaign, parts


def sound(folder: Path) -> list[Parts]:
    """Two sound files: several plans and a step cut short; one text with predictions."""
    driver, rng = Driver(toy_plan(6, 3, "lru")), random.Random(0)
    driver.step(rng, 4)
    driver = Driver(toy_plan(6, 3, "lru"), driver.orchestrator.start())
    driver.step(rng, 5)
    driver.step(rng, plans=[toy_plan(5, 2, "fiddler", planner="random")])
    driver.step(rng, layers=1)
    driver.step(rng, plans=[toy_plan(3, policy="cpu")])
    made = [driver.trace(), toy_trace(policy="lru", cache_slots=3, decode_tokens=3)]
    return [
        parts(trace.save(folder / f"sound{number}.safetensors"))
        for number, trace in enumerate(made)
    ]


@pytest.mark.parametrize("part", range(4))
def test_two_thousand_spoilt_files(part: int, tmp_path: Path) -> None:
    """4 x 500 files: spoilt bytes, lengths, headers, meta and columns."""
    loaded, wrong = campaign(sound(tmp_path), 500 * part, 500, tmp_path)
    assert not wrong, "\n".join(wrong)
    assert 20 < loaded < 480


LIMITED = """
import resource, sys
from engine.errors import TraceError
from engine.trace import Trace
path, most = sys.argv[1], int(sys.argv[2])
held = int(next(row for row in open("/proc/self/status") if row.startswith("VmData")).split()[1])
resource.setrlimit(resource.RLIMIT_DATA, (1024 * held + most,) * 2)
try:
    print("loaded", len(Trace.load(path).step_rows))
except TraceError as error:
    print("refused", error)
"""
"""Loads a file with so much memory and no more: what asks for more dies of a MemoryError."""


def bomb(good: Parts, meta: str) -> bytes:
    """A file whose meta is this text."""
    header = json.loads(good.content[8 : good.header_end])
    header["__metadata__"]["fiddler_viz"] = meta
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + good.content[good.header_end :]


def tall(good: Parts, rows: int) -> bytes:
    """A file with so many more rows of work, all of them sound."""
    columns = dict(good.columns)
    work = columns["work_rows"]
    columns["work_rows"] = np.repeat(work, rows // len(work) + 1, axis=0)
    return hostile_files.written(good.meta, columns)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits memory as Linux does")
@pytest.mark.parametrize(
    ("made", "answer"),
    [
        (lambda good: bomb(good, "[" * 20_000_000), "refused"),
        (lambda good: bomb(good, '{"schema": [' + "[]," * 8_000_000 + "[]]}"), "refused"),
        (lambda good: bomb(good, '{"schema": {' + '"a":{},' * 3_000_000 + '"b":{}}}'), "refused"),
        (lambda good: bomb(good, '{"schema": "' + "x" * 30_000_000 + '"}'), "refused"),
        (lambda good: bomb(good, '{"schema": ' + "9" * 30_000_000 + "}"), "refused"),
        (lambda good: good.content + bytes(30_000_000), "refused"),
        (lambda good: tall(good, 600_000), "loaded"),
    ],
    ids=["brackets", "lists", "objects", "text", "digits", "tail", "rows"],
)
def test_reading_takes_no_more_than_twice_the_file(
    made: Callable[[Parts], bytes], answer: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(made(sound(tmp_path)[1]))
    most = 2 * path.stat().st_size + SPARE_BYTES
    command = [sys.executable, "-c", LIMITED, str(path), str(most)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout.startswith(answer), ended.stdout[-300:] + ended.stderr[-600:]
