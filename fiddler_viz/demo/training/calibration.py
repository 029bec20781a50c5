"""The calibration text: a little of every domain's validation blocks, to measure popularity on.

``python -m fiddler_viz.demo.training.calibration --texts TEXTS --out FILE`` writes it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import corpus

_DOMAIN_BYTES = 1400


def calibration_text(domains: list[corpus.Domain], domain_bytes: int = _DOMAIN_BYTES) -> str:
    """Whole lines from each domain's middle validation block, `domain_bytes` or a little more."""
    parts: list[str] = []
    for domain in domains:
        block = domain.validation[len(domain.validation) // 2]
        parts.append(corpus.cut(block, domain_bytes)[0].strip("\n") + "\n")
    return "\n".join(parts)


def main() -> None:
    """Write the text from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.write_text(calibration_text(corpus.load(args.texts, args.seed)), encoding="utf-8")


if __name__ == "__main__":
    main()
