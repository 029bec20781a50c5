"""A cache at one place: what it answers, and which models have one."""

from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING

from engine.fixed_cache import FixedCache, why_not_fixed
from tests.engine.tiny_models import tiny_config


def states(tokens: int, start: int = 0) -> torch.Tensor:
    """(1, 2, T, 3): numbers that tell their position."""
    return torch.arange(start, start + tokens).float()[None, None, :, None].expand(1, 2, tokens, 3)


@pytest.fixture
def cache() -> FixedCache:
    return FixedCache.of(tiny_config("mixtral"), 16)


def test_a_prompt_attends_to_itself_and_later_steps_to_all_positions(cache: FixedCache) -> None:
    assert cache.get_mask_sizes(5, 0) == (5, 0) and cache.length == 0
    keys, values = cache.update(states(5), states(5), 0)
    assert torch.equal(keys, states(5)) and torch.equal(values, states(5))
    assert cache.get_mask_sizes(1, 0) == (16, 0) and cache.get_seq_length() == 5
    keys, _ = cache.update(states(1, 5), states(1, 5), 0)
    assert keys.shape == (1, 2, 16, 3) and torch.equal(keys[:, :, :6], states(6))
    assert cache.length == 6 and not keys[:, :, 6:].any()


def test_it_stays_where_it_is(cache: FixedCache) -> None:
    cache.update(states(5), states(5), 0)
    first, _ = cache.update(states(1, 5), states(1, 5), 0)
    places = first.data_ptr(), cache.layers[0].cumulative_length.data_ptr()
    cache.rewind(0)
    assert cache.length == 0 and cache.get_mask_sizes(3, 0) == (3, 0)
    cache.update(states(3), states(3), 0)
    again, _ = cache.update(states(1, 3), states(1, 3), 0)
    assert (again.data_ptr(), cache.layers[0].cumulative_length.data_ptr()) == places
    assert torch.equal(again[:, :, :4], states(4))


def test_the_length_is_the_hosts_but_while_recorded(cache: FixedCache) -> None:
    cache.update(states(5), states(5), 0)
    assert cache.get_seq_length() == 5
    cache.recording(True)
    assert torch.is_tensor(cache.get_seq_length())
    cache.recording(False)
    cache.advanced(2)  # the device did so by itself
    assert cache.length == 7 and all(layer.length >= 2 for layer in cache.layers)


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_models_that_keep_every_position_have_one(kind: str) -> None:
    assert why_not_fixed(tiny_config(kind)) is None


@pytest.mark.parametrize("kind", ["qwen3_next", "jamba", "deepseek_v32"])
def test_others_say_why_not(kind: str) -> None:
    assert "its cache has layers that are a" in (why_not_fixed(tiny_config(kind)) or "")


def test_a_window_is_a_mask_not_a_shorter_cache() -> None:
    config = tiny_config("gpt_oss")
    assert config.sliding_window < 16 and type(config) is CONFIG_MAPPING["gpt_oss"]
    cache = FixedCache.of(config, 16)
    assert any(cache.is_sliding) and not all(cache.is_sliding)
    assert {layer.max_cache_len for layer in cache.layers} == {16}
