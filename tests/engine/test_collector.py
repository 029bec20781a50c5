"""Pieces of text as tokens come: together exactly what decoding all of them gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from engine.collector import UNFINISHED, Pieces
from fiddler_viz import demo


@pytest.fixture(scope="module")
def byte_level() -> Any:
    """The demo's: bytes, so that a character may come in several tokens."""
    return AutoTokenizer.from_pretrained(demo.model_folder())


@pytest.fixture(scope="module")
def metaspace() -> Any:
    """One that takes the space off the first word of what it decodes."""
    words = ["<s>", "▁To", "▁be", ",", "▁or", "▁not", "s", "▁", "▁é"]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, "<s>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="<s>")


def pieces_of(tokenizer: Any, ids: list[int]) -> list[str]:
    pieces: list[str] = []
    collector = Pieces(tokenizer, pieces.append)
    for token in ids:
        collector.put(token)
    collector.end()
    return pieces


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 2047), max_size=30))
def test_any_ids(ids: list[int], byte_level: Any) -> None:
    pieces = pieces_of(byte_level, ids)
    assert "".join(pieces) == byte_level.decode(ids, skip_special_tokens=True)
    assert all(pieces)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=20))
def test_any_text(text: str, byte_level: Any) -> None:
    """No piece ends within a character."""
    pieces = pieces_of(byte_level, byte_level(text)["input_ids"])
    assert "".join(pieces) == text
    if UNFINISHED not in text:
        assert not any(UNFINISHED in piece for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 8), max_size=12))
def test_words_with_spaces_before_them(ids: list[int], metaspace: Any) -> None:
    assert "".join(pieces_of(metaspace, ids)) == metaspace.decode(ids, skip_special_tokens=True)


def test_a_piece_for_each_word(metaspace: Any) -> None:
    assert pieces_of(metaspace, [1, 2, 3, 4, 5, 1, 2]) == [
        "To", " be", ",", " or", " not", " To", " be",
    ]  # fmt: skip


def test_a_character_in_several_tokens_is_one_piece(byte_level: Any) -> None:
    ids = byte_level("a🙂b")["input_ids"]
    assert len(ids) > 3
    assert pieces_of(byte_level, ids) == ["a", "🙂", "b"]
    assert pieces_of(byte_level, ids[:2]) == ["a", UNFINISHED], "cut off within it"
