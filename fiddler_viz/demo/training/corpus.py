"""The corpus: five domains of text, each cut into blocks, every 20th of them for validation."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path

from .generated import records, sums

BLOCK_BYTES = 4096
VALIDATION_EVERY = 20
WEIGHTS = {"verse": 0.28, "spanish": 0.28, "python": 0.28, "sums": 0.1, "json": 0.06}
"""How often a training window comes from each domain; its keys are the domains."""

TEXT_FILES = {"verse": "tinyshakespeare.txt", "spanish": "reina-valera-1909.txt"}
"""The file of each domain that is read from the folder of texts."""

_PYTHON_BYTES = 1_200_000
_SUMS_BYTES = 600_000
_RECORDS_BYTES = 700_000
_PYTHON_FILE_BYTES = 100_000


@dataclass(frozen=True)
class Domain:
    """One kind of text: its name and its blocks of about 4 kB."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]


def cut(text: str, block_bytes: int = BLOCK_BYTES) -> list[str]:
    """Cut `text` at line ends into blocks of at least `block_bytes` (UTF-8); nothing is lost.

    The last block takes what is left and may be shorter.
    """
    blocks: list[str] = []
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        size += len(line.encode())
        if size >= block_bytes:
            blocks.append("".join(lines))
            lines, size = [], 0
    if lines:
        blocks.append("".join(lines))
    return blocks


def split(name: str, text: str) -> Domain:
    """A domain from its text: blocks 19, 39, 59... are validation, the others training."""
    blocks = cut(text)
    last = VALIDATION_EVERY - 1
    return Domain(
        name,
        train=tuple(b for i, b in enumerate(blocks) if i % VALIDATION_EVERY != last),
        validation=tuple(b for i, b in enumerate(blocks) if i % VALIDATION_EVERY == last),
    )


def standard_library(size_bytes: int = _PYTHON_BYTES) -> str:
    """Python source: the standard library's top-level modules in order of name, up to `size_bytes`.

    Files that say "copyright" are skipped, for some carry other licences than the PSF's; so are
    files with non-ASCII characters, private modules and modules over 100 kB.
    """
    texts: list[str] = []
    size = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py")):
        source = path.read_bytes()
        if not source.isascii() or b"copyright" in source.lower():
            continue
        if len(source) > _PYTHON_FILE_BYTES:
            continue
        texts.append(source.decode())
        size += len(source)
        if size >= size_bytes:
            break
    return "".join(texts)


def load(texts: Path, seed: int = 0) -> list[Domain]:
    """The five domains, in the order of `WEIGHTS`; `texts` holds the files of `TEXT_FILES`.

    Raises FileNotFoundError naming the first text that is missing.
    """
    sources: dict[str, str] = {}
    for name, file in TEXT_FILES.items():
        path = texts / file
        if not path.is_file():
            raise FileNotFoundError(f"expected the {name} text at {path}; see the model card")
        sources[name] = path.read_text(encoding="utf-8")
    sources["python"] = standard_library()
    sources["sums"] = sums(_SUMS_BYTES, seed)
    sources["json"] = records(_RECORDS_BYTES, seed)
    return [split(name, sources[name]) for name in WEIGHTS]
