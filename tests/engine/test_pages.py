"""Large pages: the same values in other memory, and nothing at all where there are none."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch
from torch import nn

from engine import pages
from engine.pages import LEAST_BYTES, PAGE, empty, may_ask, onto_large_pages


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("no such advice on this system")
    monkeypatch.setattr(pages, "may_ask", lambda: True)


@pytest.mark.usefixtures("asking")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
def test_memory_begins_with_a_page(dtype: torch.dtype) -> None:
    made = empty((3, LEAST_BYTES + 7), dtype)
    assert made.shape == (3, LEAST_BYTES + 7) and made.dtype == dtype and made.is_contiguous()
    assert made.data_ptr() % PAGE == 0
    made.fill_(3)
    assert made.sum(dtype=torch.float64).item() == 3 * made.numel()


@pytest.mark.skipif(not may_ask(), reason="large pages are off, or everywhere")
def test_the_pages_are_large() -> None:
    made = empty((8 * LEAST_BYTES,), torch.uint8).fill_(1)
    whole = Path("/proc/self/smaps").read_text(encoding="ascii")
    sizes = [int(line.split()[1]) for line in whole.splitlines() if line.startswith("AnonHuge")]
    assert sum(sizes) * 1024 >= made.nbytes // 2  # the rest may be too scattered


@pytest.mark.usefixtures("asking")
def test_parameters_are_moved_and_stay_what_they_are() -> None:
    model = nn.Sequential(nn.Linear(2048, 2048), nn.Linear(8, 8), nn.Linear(2048, 2048))
    model[2].weight = model[0].weight  # tied
    model.requires_grad_(False)
    before = [(parameter, parameter.clone()) for parameter in model.parameters()]
    small = model[1].weight.data_ptr()
    assert onto_large_pages(model) == 2048 * 2048 * 4
    assert model[2].weight is model[0].weight and model[0].weight.data_ptr() % PAGE == 0
    assert model[1].weight.data_ptr() == small
    assert all(torch.equal(parameter, values) for parameter, values in before)
    x = torch.randn(3, 2048)
    torch.testing.assert_close(model[0](x), x @ before[0][1].T + model[0].bias)


@pytest.mark.parametrize(
    ("setting", "asks"),
    [("always [madvise] never", True), ("[always] madvise never", False), (None, False)],
)
def test_only_where_it_changes_something(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str | None, asks: bool
) -> None:
    if setting is not None:
        (tmp_path / "enabled").write_text(setting)
    monkeypatch.setattr(pages, "_SETTING", tmp_path / "enabled")
    may_ask.cache_clear()
    assert may_ask() == asks
    if not asks:
        assert onto_large_pages(nn.Linear(2048, 2048)) == 0
    may_ask.cache_clear()


def test_without_the_advice_it_is_plain_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "may_ask", lambda: True)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(pages.mmap, "mmap", refuse)
    assert empty((LEAST_BYTES,), torch.uint8).shape == (LEAST_BYTES,)


def test_own_pages(tmp_path: Path) -> None:
    """Mapped files and small tensors that share pages move; others, and objects, stay."""
    path = tmp_path / "numbers"
    path.write_bytes(bytes(range(256)) * 64)
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    filed = nn.Parameter(torch.frombuffer(mapped, dtype=torch.float32)[4:], requires_grad=False)
    # not the first of its memory, which may begin a page by chance
    small = nn.Parameter(torch.randn(22)[1:].view(3, 7), requires_grad=False)
    alone = nn.Parameter(pages.own((5, 9), torch.float32).fill_(2.0), requires_grad=False)
    before = [part.detach().clone() for part in (filed, small, alone)]
    address = alone.data_ptr()
    moved = pages.onto_own_pages([filed, small, alone])
    assert moved == filed.nbytes + small.nbytes and alone.data_ptr() == address
    for part, values in zip((filed, small, alone), before, strict=True):
        assert part.data_ptr() % mmap.PAGESIZE == 0
        assert part.view(torch.uint8).equal(values.view(torch.uint8))
    assert pages.onto_own_pages([filed, small, alone]) == 0
    assert pages.own((0, 3), torch.float32).shape == (0, 3)
