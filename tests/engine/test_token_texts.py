"""The text of single tokens, also of those that are a part of a character."""

from __future__ import annotations

from typing import Any

import pytest

from engine.loader import load_tokenizer
from engine.token_texts import TokenTexts
from fiddler_viz import demo


class Pieces:
    """A tokenizer as far as texts need one: names of tokens, and what decoding one gives."""

    def __init__(self, *pieces: tuple[Any, str]) -> None:
        self.pieces = pieces

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[token][1] for token in ids)

    def convert_ids_to_tokens(self, token: int) -> Any:
        return self.pieces[token][0]


def test_parts_of_a_character_are_shown_as_bytes() -> None:
    tokenizer = load_tokenizer(demo.model_folder())
    texts = TokenTexts(tokenizer)
    for text in ("naïve", "日本", "🙂", "plain words", "a\N{REPLACEMENT CHARACTER}b"):
        shown = texts(tokenizer(text)["input_ids"])
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(shown)
        raw = b"".join(
            bytes.fromhex(each[2:].replace("\\x", "")) if each.startswith("\\x") else each.encode()
            for each in shown
        )
        assert raw.decode() == text


@pytest.mark.parametrize(
    ("piece", "decoded", "shown"),
    [
        ("<0xE2>", "�", "\\xe2"),  # SentencePiece's
        ("aĊâĤ", "a\n�", "a\n\\xe2\\x82"),  # byte-level BPE's
        ("ï¿½", "�", "�"),  # the mark itself
        ("▁�", " �", " �"),  # of no bytes
        (None, "�", "�"),
        (b"\xff", "�", "�"),
        ("word", "word", "word"),
    ],
)
def test_other_vocabularies(piece: Any, decoded: str, shown: str) -> None:
    assert TokenTexts(Pieces((piece, decoded)))([0, 0]) == [shown] * 2


def test_without_a_tokenizer_numbers() -> None:
    assert TokenTexts(None)([3, 14]) == ["3 ", "14 "]
