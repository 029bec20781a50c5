"""``python -m engine.native`` compiles the libraries in place, after a change of their sources."""

from __future__ import annotations

import sys

from engine.native.build import LIBRARIES, BuildError, build


def main() -> int:
    """Build, say where; 1 where it failed."""
    try:
        for target, sources in LIBRARIES:
            print(build(target, sources))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
