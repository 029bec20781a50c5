"""Every instruction set this machine runs against float64; AMX's tiles are emulated as well."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from engine import native
from engine.errors import DeviceError, InputError, UnknownNameError
from engine.expert_kernel import linear
from engine.kernels import (
    ISAS,
    Act,
    Attention,
    Dtype,
    Expert,
    Layer,
    Pool,
    isas,
    library,
    open_pool,
)
from engine.kernels.cores import physical_cores
from engine.kernels.library import declared, warn_once
from engine.levels import SCHEMES, dequantise, quantise
from engine.native.build import KERNEL_SOURCES, build, compiler, fingerprint
from engine.threads import torch_team

GIVEN = os.environ.get("FIDDLER_TEST_KERNELS")
"""A library compiled in another way (tools/sanitize.py): tested instead of the package's own."""

OWN = isas(declared(ctypes.CDLL(GIVEN))) if GIVEN else isas()
NAMES = [*OWN, *([] if GIVEN else ["emulated"])]
DTYPES = {
    torch.float32: Dtype.FLOAT32,
    torch.bfloat16: Dtype.BFLOAT16,
    torch.float16: Dtype.FLOAT16,
}
BOUND = {torch.float32: 1e-7, torch.bfloat16: 5e-4, torch.float16: 1e-6}
"""Normalised mean squared error against float64."""

TEAMS = {"own threads": 0} | ({"torch's threads": torch_team()} if torch_team() else {})

pytestmark = pytest.mark.skipif(compiler() is None and not OWN, reason="no C compiler")


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """AMX's tiles in plain C, whatever this machine has."""
    path = tmp_path_factory.mktemp("kernels") / "emulated.so"
    return declared(ctypes.CDLL(str(build(path, KERNEL_SOURCES, ("-DFIDDLER_EMULATE_AMX", "-O2")))))


@pytest.fixture(scope="module")
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Pool]]:
    """Makes pools by name; closes them at the end."""
    made: list[Pool] = []
    given = declared(ctypes.CDLL(GIVEN)) if GIVEN else None

    def pool(name: str, threads: int = 2, team: int = 0) -> Pool:
        of = given if name != "emulated" else request.getfixturevalue("emulated")
        isa = "amx_bf16" if name == "emulated" else name
        made.append(Pool(threads, isa=isa, team=team, of=of))
        return made[-1]

    yield pool
    for each in made:
        each.close()


@pytest.fixture(scope="module", params=NAMES)
def pool(request: pytest.FixtureRequest, make: Callable[..., Pool]) -> Pool:
    return make(request.param)


class Case(NamedTuple):
    """Experts of one shape, stored in one way."""

    up: Tensor  # (E, 2I, H)
    down: Tensor  # (E, H, I)
    up_bias: Tensor | None
    down_bias: Tensor | None
    layer: Layer
    levels: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    """Of quantised weights: levels and scales of up, then of down."""

    @property
    def stored(self) -> tuple[Tensor, Tensor]:
        if self.levels is not None:
            return self.levels[0], self.levels[2]
        if not self.layer.transposed:
            return self.up, self.down
        return self.up.mT.contiguous(), self.down.mT.contiguous()


def case(
    hidden: int,
    inner: int,
    dtype: torch.dtype,
    experts: int = 1,
    *,
    act: Act = Act.SWISH,
    alpha: float = 1.0,
    offset: float = 0.0,
    limit: float = 0.0,
    gated: bool = True,
    interleaved: bool = False,
    transposed: bool = False,
    biased: bool = False,
    tiles_from: int = 0,
) -> Case:
    make = torch.Generator().manual_seed(hidden * inner + experts)
    wide = 2 * inner if gated else inner

    def draw(*shape: int, by: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=make) * by).to(dtype)

    layer = Layer(
        hidden, inner, DTYPES[dtype], gated, interleaved, transposed, tiles_from, act,
        alpha, offset, limit,
    )  # fmt: skip
    return Case(
        draw(experts, wide, hidden, by=2 / hidden**0.5),
        draw(experts, hidden, inner, by=1 / inner**0.5),
        draw(experts, wide) if biased else None,
        draw(experts, hidden) if biased else None,
        layer,
    )


def tokens(n: int, of: Case, seed: int = 0) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(n, of.layer.hidden, generator=make).to(of.up.dtype)


Groups = list[tuple[int, Tensor | None, Tensor | None]]


def run(pool: Pool, of: Case, x: Tensor, groups: Groups, out: Tensor | None = None) -> Tensor:
    """What the kernels make of it, added to ``out``."""
    out = torch.zeros(x.shape[0], of.layer.hidden) if out is None else out
    ups, downs = of.stored
    experts = [
        Expert(
            ups[e].data_ptr(),
            downs[e].data_ptr(),
            0 if of.up_bias is None else of.up_bias[e].data_ptr(),
            0 if of.down_bias is None else of.down_bias[e].data_ptr(),
            ups.stride(1),
            downs.stride(1),
            0 if index is None else index.data_ptr(),
            0 if weight is None else weight.data_ptr(),
            len(x) if index is None else len(index),
            *(() if of.levels is None else (s[e].data_ptr() for s in of.levels[1::2])),
        )
        for e, index, weight in groups
    ]
    pool.experts(of.layer, experts, x.data_ptr(), x.stride(0), out.data_ptr(), out.stride(0))
    return out


ACTS: dict[int, Callable[[Tensor, float], Tensor]] = {
    Act.SWISH: lambda g, alpha: g * torch.sigmoid(alpha * g),
    Act.GELU: lambda g, _: F.gelu(g),
    Act.GELU_TANH: lambda g, _: F.gelu(g, approximate="tanh"),
    Act.RELU: lambda g, _: F.relu(g),
    Act.RELU2: lambda g, _: F.relu(g) ** 2,
}


def expected(of: Case, x: Tensor, groups: Groups) -> Tensor:
    """The same in float64."""
    out = torch.zeros(x.shape[0], of.layer.hidden, dtype=torch.float64)
    limit = of.layer.limit or float("inf")
    for e, index, weight in groups:
        index = torch.arange(len(x)) if index is None else index
        h = x[index].double() @ of.up[e].double().T
        h = h if of.up_bias is None else h + of.up_bias[e].double()
        g, u = (h[:, ::2], h[:, 1::2]) if of.layer.interleaved else h.chunk(2, -1)
        if of.layer.gated:
            act = ACTS[of.layer.activation](g.clamp(max=limit), of.layer.alpha)
            h = act * (u.clamp(-limit, limit) + of.layer.offset)
        else:
            h = ACTS[of.layer.activation](h, of.layer.alpha)
        y = h @ of.down[e].double().T
        y = y if of.down_bias is None else y + of.down_bias[e].double()
        out.index_add_(0, index, y if weight is None else y * weight.double()[:, None])
    return out


def check(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    assert torch.isfinite(got).all()
    error = ((got.double() - want) ** 2).sum() / (want**2).sum().clamp(min=1e-300)
    assert error <= BOUND[dtype], float(error)


# ------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(128, 64), (200, 75), (33, 17), (7, 3), (1, 1), (321, 530)])
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
def test_as_exact_as_the_dtype(
    pool: Pool, dtype: torch.dtype, shape: tuple[int, int], transposed: bool
) -> None:
    of = case(*shape, dtype, transposed=transposed)
    for n in (1, 2, 3, 4, 5, 6, 7, 13, 16, 17, 32, 33, 50):
        x = tokens(n, of)
        check(run(pool, of, x, [(0, None, None)]), expected(of, x, [(0, None, None)]), dtype)


@pytest.mark.parametrize("act", Act)
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
def test_activations(pool: Pool, act: Act, gated: bool, transposed: bool) -> None:
    of = case(96, 80, torch.float32, act=act, gated=gated, transposed=transposed)
    x = tokens(9, of) * 3
    check(run(pool, of, x, [(0, None, None)]), expected(of, x, [(0, None, None)]), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "turns"])
@pytest.mark.parametrize(
    "gate",
    [
        {"alpha": 1.702},
        {"alpha": 1.702, "offset": 1.0, "limit": 1.5},
        {"limit": 0.75},
        {"act": Act.GELU_TANH, "limit": 0.75},
    ],
    ids=["quick-gelu", "gpt-oss", "clamped", "clamped-gelu"],
)
def test_gates_biases_and_layouts(
    pool: Pool, dtype: torch.dtype, transposed: bool, interleaved: bool, gate: dict[str, float]
) -> None:
    of = case(130, 70, dtype, interleaved=interleaved, transposed=transposed, biased=True, **gate)  # type: ignore[arg-type]
    for n in (1, 5, 18):
        x = tokens(n, of)
        check(run(pool, of, x, [(0, None, None)]), expected(of, x, [(0, None, None)]), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
def test_a_group_of_experts(pool: Pool, dtype: torch.dtype, transposed: bool) -> None:
    """Shared and repeated tokens, none at all, one expert with every token, weights of any sign."""
    of = case(144, 96, dtype, experts=5, transposed=transposed, biased=True)
    x = tokens(40, of)
    groups: Groups = [
        (0, torch.arange(40), torch.linspace(-1, 1, 40)),
        (1, torch.tensor([], dtype=torch.int64), torch.tensor([])),
        (2, torch.tensor([7, 3, 7, 7]), torch.tensor([0.5, 0.25, -2.0, 0.0])),
        (3, torch.tensor([39]), torch.tensor([1.5])),
        (4, None, None),
    ]
    start = torch.randn(40, 144)
    check(run(pool, of, x, groups, start.clone()) - start, expected(of, x, groups), dtype)


def test_nothing_to_do(pool: Pool) -> None:
    of = case(64, 32, torch.float32)
    x = tokens(3, of)
    start = torch.randn(3, 64)
    assert torch.equal(run(pool, of, x, [], start.clone()), start)
    none = torch.tensor([], dtype=torch.int64)
    assert torch.equal(run(pool, of, x, [(0, none, None)], start.clone()), start)


def test_rows_may_lie_apart(pool: Pool) -> None:
    of = case(72, 40, torch.bfloat16)
    x, out = torch.zeros(5, 100).bfloat16(), torch.zeros(5, 90)
    x[:, :72] = tokens(5, of)
    run(pool, of, x[:, :72], [(0, None, None)], out[:, :72])
    check(out[:, :72], expected(of, x[:, :72], [(0, None, None)]), torch.bfloat16)
    assert not out[:, 72:].any()


def test_more_tokens_than_pass_together(pool: Pool) -> None:
    """An expert's tokens are cut into pieces past 1024."""
    if pool.isa == "amx_bf16" and GIVEN:
        pytest.skip("slow when emulated and checked")
    of = case(40, 24, torch.bfloat16)
    x = tokens(1100, of)
    check(run(pool, of, x, [(0, None, None)]), expected(of, x, [(0, None, None)]), torch.bfloat16)


@pytest.mark.parametrize("isa", ["amx_bf16", "avx512_bf16"])
@pytest.mark.parametrize("shape", [(200, 75), (33, 17), (321, 530), (512, 160), (1, 1)])
def test_tiles_may_be_asked_for(
    make: Callable[..., Pool], isa: str, shape: tuple[int, int]
) -> None:
    """From 1 token on, and never: where there are tiles the two are not the same bits."""
    if isa not in OWN and (isa != "amx_bf16" or GIVEN):
        pytest.skip(f"this machine does not run {isa}")
    pool = make(isa if isa in OWN else "emulated")
    for tiles_from in (1, 99):
        of = case(*shape, torch.bfloat16, tiles_from=tiles_from)
        for n in (1, 3, 6, 8, 9, 16, 17, 25, 35, 40, 50):
            x = tokens(n, of)
            check(
                run(pool, of, x, [(0, None, None)]),
                expected(of, x, [(0, None, None)]),
                torch.bfloat16,
            )


# -------------------------------------------------------------------------------------- quantised


def quantised(of: Case, scheme: str, group: int) -> Case:
    """The same, its weights rounded to what levels and scales say."""
    layer = Layer.from_buffer_copy(of.layer)
    layer.bits, layer.group = SCHEMES[scheme].bits, group
    up, down = (quantise(part.float(), SCHEMES[scheme], group) for part in (of.up, of.down))
    numbers = [dequantise(*part, torch.float32) for part in (up, down)]
    return of._replace(up=numbers[0], down=numbers[1], layer=layer, levels=(*up, *down))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("hidden", "inner", "group"), [(256, 128, 128), (192, 64, 64), (96, 160, 32), (384, 640, 128)]
)
def test_quantised(
    pool: Pool, dtype: torch.dtype, scheme: str, hidden: int, inner: int, group: int
) -> None:
    of = quantised(case(hidden, inner, dtype), scheme, group)
    for n in (1, 2, 3, 4, 5, 6, 7, 16, 17, 33, 50):
        x = tokens(n, of).to(dtype)
        check(run(pool, of, x, [(0, None, None)]), expected(of, x, [(0, None, None)]), dtype)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        {"biased": True, "interleaved": True, "alpha": 1.702, "offset": 1.0, "limit": 1.5},
        {"biased": True, "gated": False, "act": Act.RELU2},
        {"tiles_from": 1},
        {"tiles_from": 99},
    ],
    ids=["gpt-oss", "plain", "tiles", "no-tiles"],
)
def test_quantised_groups_of_experts(
    pool: Pool, dtype: torch.dtype, scheme: str, shape: dict[str, float]
) -> None:
    """Some of them with few tokens, some with many; rows that are no multiple of what is one go."""
    of = quantised(case(160, 96, dtype, experts=3, **shape), scheme, 32)  # type: ignore[arg-type]
    x = tokens(40, of).to(dtype)
    groups: Groups = [
        (0, torch.arange(40), torch.linspace(-1, 1, 40)),
        (1, torch.tensor([7, 3, 7]), torch.tensor([0.5, 0.25, -2.0])),
        (2, torch.tensor([39]), None),
        (1, torch.tensor([], dtype=torch.int64), None),
    ]
    check(run(pool, of, x, groups), expected(of, x, groups), dtype)
    few = groups[1:]
    check(run(pool, of, x, few), expected(of, x, few), dtype)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantised_weights_stay_in_their_memory(pool: Pool, scheme: str) -> None:
    """Rows next to each other, the last one at the end of its memory; a group of zeros."""
    of = case(128, 128, torch.bfloat16)
    of.up[0, 5], of.down[0, 127, :] = 0, 0
    of = quantised(of, scheme, 128)
    for n in (1, 8):
        x = tokens(n, of).bfloat16()
        got = run(pool, of, x, [(0, None, None)])
        check(got, expected(of, x, [(0, None, None)]), torch.bfloat16)
        assert not got[:, 127].any()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NAMES)
def test_quantised_blocks_that_share_tokens(
    make: Callable[..., Pool], name: str, scheme: str
) -> None:
    """Several blocks of rows are kept while many tokens pass."""
    of = quantised(case(1024, 64, torch.bfloat16), scheme, 64)
    x = tokens(34, of).bfloat16()
    got = run(make(name, 1), of, x, [(0, None, None)])
    check(got, expected(of, x, [(0, None, None)]), torch.bfloat16)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NAMES)
def test_quantised_threads_do_not_show(make: Callable[..., Pool], name: str, scheme: str) -> None:
    of = quantised(case(256, 128, torch.bfloat16, experts=2), scheme, 128)
    for n in (2, 37):
        x = tokens(n, of).bfloat16()
        groups: Groups = [(0, None, None), (1, torch.arange(n), torch.rand(n))]
        first = run(make(name, 1), of, x, groups)
        for threads in (2, 3):
            assert torch.equal(run(make(name, threads), of, x, groups), first)


# -------------------------------------------------------------------------- what is not a number


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("n", [1, 5, 20])
def test_nan_and_infinity_spread_as_they_should(
    pool: Pool, dtype: torch.dtype, transposed: bool, n: int
) -> None:
    of = case(70, 50, dtype, transposed=transposed)
    for value in (float("nan"), float("inf"), float("-inf")):
        x = tokens(n, of)
        x[n // 2, 69] = value
        got = run(pool, of, x, [(0, None, None)])
        want = expected(of, x, [(0, None, None)])
        others = torch.arange(n) != n // 2
        assert got[n // 2].isnan().all() == want[n // 2].isnan().all()
        assert not got[n // 2].isfinite().any()
        assert got[others].isfinite().all(), "a token does not touch another"
        of.down[0, 3, 49] = value
        got = run(pool, of, tokens(n, of), [(0, None, None)])
        assert not got[:, 3].isfinite().any() and got[:, :3].isfinite().all()
        of.down[0, 3, 49] = 0.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_far_values_saturate(pool: Pool, dtype: torch.dtype) -> None:
    """Gates far from zero: 0 on one side, the gate itself on the other, no NaN of an overflow."""
    of = case(32, 16, dtype)
    x = tokens(4, of) * 100
    check(run(pool, of, x, [(0, None, None)]), expected(of, x, [(0, None, None)]), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_denormals_count_as_zero_or_as_they_are(pool: Pool, dtype: torch.dtype) -> None:
    of = case(64, 48, dtype)
    smallest = torch.finfo(dtype).smallest_normal / 4
    of.up[:, ::2] = smallest
    of.down[:, :, ::3] = smallest
    x = tokens(6, of)
    check(run(pool, of, x, [(0, None, None)]), expected(of, x, [(0, None, None)]), dtype)
    x[:] = smallest
    assert run(pool, of, x, [(0, None, None)]).abs().max() < 1e-3
    tiny = torch.tensor(1e-40)
    assert (tiny * 0.5).item() > 0, "the caller's own thread keeps its denormals"


# ------------------------------------------------------------------------------------- attention

HEADS = [(1, 1, 2), (3, 3, 40), (4, 1, 80), (33, 1, 8), (6, 2, 130), (2, 1, 512)]
"""Heads, of keys and values, elements of one: tails of every block, and more than one sliver."""


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "size"), HEADS)
@pytest.mark.parametrize(("tokens", "past", "hidden"), [(1, 0, 1), (3, 33, 63), (32, 16, 129)])
def test_attention_of_odd_sizes(
    pool: Pool,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    size: int,
    tokens: int,
    past: int,
    hidden: int,
) -> None:
    """Of a token of each sequence, with the cache's memory full after it."""
    wide, narrow, turn = heads * size, kv_heads * size, size // 4 * 2
    # A little off the usual one. Logits of more than a few would make roundings of queries and keys
    # count for many times what they are.
    scale = 1.3 / size**0.5
    weights = [
        (torch.randn(n, k) / k**0.5).to(dtype)
        for n, k in ((wide, hidden), (narrow, hidden), (narrow, hidden), (hidden, wide))
    ]
    biases = [torch.randn(len(weight)).to(dtype) for weight in weights]
    norms = [(1 + 0.1 * torch.randn(size)).to(dtype) for _ in range(2)]
    x = torch.randn(tokens, hidden).to(dtype)
    cos, sin = (torch.randn(tokens, turn).to(dtype) for _ in range(2))
    keys, values = (torch.randn(tokens, kv_heads, past + 1, size).to(dtype) for _ in range(2))
    out = torch.zeros(tokens, hidden, dtype=dtype)

    def projected(which: int) -> Tensor:
        y = F.linear(x.double(), weights[which].double(), biases[which].double())
        return y.unflatten(1, (-1, size))  # (T, heads, size)

    def turned(which: int) -> Tensor:
        y = F.rms_norm(projected(which), (size,), norms[which].double(), 1e-6)
        first, rest = y.split([turn, size - turn], -1)
        begin, end = first.chunk(2, -1)
        other = torch.cat([-end, begin], -1)
        first = first * cos.double()[:, None] + other * sin.double()[:, None]
        return torch.cat([first, rest], -1)

    wanted_keys, wanted_values = keys.double(), values.double()
    wanted_keys[:, :, past], wanted_values[:, :, past] = turned(1), projected(2)
    given = F.scaled_dot_product_attention(
        turned(0)[:, :, None], wanted_keys, wanted_values, scale=scale, enable_gqa=True
    )
    wanted = F.linear(given.reshape(tokens, wide), weights[3].double(), biases[3].double())

    layer = Attention(hidden, heads, kv_heads, size, turn, DTYPES[dtype], scale, 1e-6)
    for at, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        layer.weight[at], layer.stride[at] = weight.data_ptr(), weight.stride(0)
        layer.bias[at] = bias.data_ptr()
    for at, norm in enumerate(norms):
        layer.norm[at], layer.norm_size[at] = norm.data_ptr(), size
    pool.attend(
        *(layer, x.data_ptr(), hidden, tokens, cos.data_ptr(), sin.data_ptr(), turn),
        *(keys.data_ptr(), values.data_ptr(), keys.stride(0), keys.stride(1), past),
        *(out.data_ptr(), hidden),
    )
    check(keys, wanted_keys, dtype)
    check(values, wanted_values, dtype)
    if hidden > 1:  # one number may be next to nothing, and its error is not
        error = ((out.double() - wanted) ** 2).sum() / (wanted**2).sum()
        assert error <= 4 * BOUND[dtype]  # rounded four times on the way


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
@pytest.mark.parametrize(("experts", "top"), [(1, 1), (7, 7), (33, 2), (129, 8)])
def test_routes_of_odd_sizes(pool: Pool, dtype: torch.dtype, experts: int, top: int) -> None:
    x, w = torch.randn(5, 63).to(dtype), torch.randn(experts, 63).to(dtype)
    logits = torch.zeros(5, experts, dtype=dtype)
    weights, chosen = torch.zeros(5, top), torch.zeros(5, top, dtype=torch.int64)
    pool.route(
        *(DTYPES[dtype], x.data_ptr(), 63, 5, w.data_ptr(), 63, experts, 63, top, False),
        *(logits.data_ptr(), weights.data_ptr(), chosen.data_ptr()),
    )
    every = logits.float().softmax(-1)
    torch.testing.assert_close(weights, every.topk(top).values, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(weights, every.gather(1, chosen), rtol=1e-4, atol=1e-7)
    assert all(len(set(row)) == top for row in chosen.tolist())


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
@pytest.mark.parametrize("width", [1, 15, 255, 257, 600])
def test_norms_of_odd_sizes(pool: Pool, dtype: torch.dtype, width: int) -> None:
    x, w = torch.randn(3, width).to(dtype), torch.randn(width).to(dtype)
    out = torch.zeros(3, width, dtype=dtype)
    pool.norm(
        *(DTYPES[dtype], x.data_ptr(), 3, width, w.data_ptr(), 1.0, 1e-6, out.data_ptr()),
    )
    wanted = F.rms_norm(x.double(), (width,), w.double() + 1, 1e-6)
    check(out, wanted, dtype)


# ---------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_threads_does_not_show(make: Callable[..., Pool], name: str) -> None:
    for transposed in (False, True):
        of = case(160, 112, torch.bfloat16, experts=3, transposed=transposed)
        x = tokens(37, of)
        groups: Groups = [
            (0, None, None),
            (1, torch.tensor([5, 1, 36]), torch.rand(3)),
            (2, torch.arange(20), torch.rand(20)),
        ]
        first = run(make(name, 1), of, x, groups)
        for threads in (1, 2, 3, 5):
            for team in TEAMS.values():
                pool = make(name, threads, team)
                for _ in range(5):
                    assert torch.equal(run(pool, of, x, groups), first)


@pytest.mark.parametrize("team", TEAMS)
def test_two_pools_and_two_callers_at_once(make: Callable[..., Pool], team: str) -> None:
    of = case(256, 128, torch.bfloat16, experts=2)
    inputs = [tokens(n, of, n) for n in (1, 3, 9, 33)]
    groups: Groups = [(0, None, None), (1, None, None)]
    name = next((name for name in OWN if name != "amx_bf16" or not GIVEN), NAMES[0])
    shared, own = (make(name, team=TEAMS[team]) for _ in range(2))
    alone = [run(shared, of, x, groups) for x in inputs]
    wrong: list[int] = []

    def caller(pool: Pool) -> None:
        for i in range(60):
            at = i % len(inputs)
            if not torch.equal(run(pool, of, inputs[at], groups), alone[at]):
                wrong.append(i)

    threads = [threading.Thread(target=caller, args=(p,)) for p in (shared, shared, own)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads) and not wrong


FORKED = """
import os, torch
from engine.expert_kernel import linear
from engine.kernels import Pool
from engine.threads import torch_team
pool = Pool(2, team=torch_team() if {team} else 0)
x, w = torch.randn(3, 64), torch.randn(96, 64)
want = linear(pool, x, w, None, torch.empty(3, 96))
child = os.fork()
if not child:
    os._exit(0 if linear(pool, x, w, None, torch.empty(3, 96)).equal(want) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(bool(GIVEN) or not hasattr(os, "fork"), reason="of the package's own library")
@pytest.mark.parametrize("team", [False, True])
def test_a_forked_child_does_without_its_parent_s_threads(team: bool) -> None:
    code = FORKED.format(team=team)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_pool_ends_and_says_what_it_is(make: Callable[..., Pool]) -> None:
    pool = make(NAMES[0], 2)
    assert repr(pool) == f"Pool(2 threads, {pool.isa})"
    pool.close()
    pool.close()


@pytest.mark.skipif(bool(GIVEN), reason="needs the package's own library")
def test_wrong_pools_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if not OWN:
        pytest.skip("the kernels are not compiled")
    for threads in (0, -1):
        with pytest.raises(InputError, match="at least 1"):
            Pool(threads)
    with pytest.raises(InputError, match="a core for each"):
        Pool(2, [0])
    monkeypatch.setenv("FIDDLER_ISA", "sse9")
    with pytest.raises(UnknownNameError, match="portable"):
        Pool(1)
    missing = [name for name in ISAS if name not in OWN]
    if missing:
        monkeypatch.setenv("FIDDLER_ISA", missing[0])
        with pytest.raises(InputError, match=f"{missing[0]}: this machine cannot run it"):
            Pool(1)
    monkeypatch.setenv("FIDDLER_ISA", "portable")
    assert Pool(1).isa == "portable"


def test_instruction_sets_are_listed_best_first() -> None:
    assert [name for name in ISAS if name in OWN] == OWN
    assert not OWN or OWN[-1] == "portable"


@pytest.mark.skipif(bool(GIVEN), reason="needs the package's own library")
def test_without_the_library_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "0")
    assert library() is None and isas() == []
    with pytest.raises(DeviceError, match=r"python -m engine\.native"):
        Pool(1)
    warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="not compiled"):
        assert open_pool() is None
    assert open_pool() is None  # a second warning would be an error


def test_one_core_of_each_pair_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 5, 6}, raising=False)
    for cpu in range(8):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "core_cpus_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert physical_cores(tmp_path) == [1, 2]
    assert physical_cores(tmp_path / "nothing") == [1, 2, 5, 6]


def test_the_package_opens_without_torch() -> None:
    code = "import sys, engine.kernels as k; k.isas(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ----------------------------------------------------------------------------------------- linear


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("biased", [False, True], ids=["", "bias"])
def test_linear(pool: Pool, dtype: torch.dtype, biased: bool) -> None:
    for n, outputs, inputs in ((1, 100, 64), (4, 33, 130), (16, 64, 300), (40, 16, 20), (0, 5, 5)):
        make = torch.Generator().manual_seed(n)
        x = torch.randn(n, inputs, generator=make).to(dtype)
        w = torch.randn(outputs, inputs, generator=make).to(dtype)
        bias = torch.randn(outputs, generator=make).to(dtype) if biased else None
        got = linear(pool, x, w, bias, torch.empty(n, outputs, dtype=dtype))
        want = F.linear(x.double(), w.double(), None if bias is None else bias.double())
        check(got, want, dtype)


def test_linear_rounds_to_the_nearest(pool: Pool) -> None:
    """Ties to even; past the largest to infinity; NaN stays NaN."""
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.tensor([[1.0, 1.0]]).to(dtype)
        step = torch.finfo(dtype).eps / 2
        big = torch.finfo(dtype).max
        rows = [[1, step], [1, 3 * step], [-1, -step], [big, big], [float("nan"), 1], [1e-7, 1e-7]]
        w = torch.tensor(rows).to(dtype)
        got = linear(pool, x, w, None, torch.empty(1, len(rows), dtype=dtype))
        want = (x.double() @ w.double().T).float().to(dtype)
        assert torch.equal(got.nan_to_num(7), want.nan_to_num(7))


# ---------------------------------------------------------------------------------------- reading


def test_a_stream_reads_whole_pieces(pool: Pool) -> None:
    memory = torch.ones(300 << 10, dtype=torch.uint8)
    for prefetch in (False, True):
        assert pool.stream(memory.data_ptr(), len(memory), prefetch=prefetch) == 256 << 10


# --------------------------------------------------------------------------------------- building


@pytest.mark.skipif(compiler() is None or bool(GIVEN), reason="no C compiler")
def test_sources_compile_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("-Werror", "-O1")
    found = declared(ctypes.CDLL(str(build(tmp_path / "strict.so", KERNEL_SOURCES, options))))
    assert found.fiddler_fingerprint() == fingerprint(KERNEL_SOURCES)
