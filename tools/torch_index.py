"""Print the pip option that keeps CUDA packages away where there is no GPU, or nothing.

On Linux, PyPI's torch brings several GB of CUDA libraries. PyTorch's own index has a build for
the CPU; with it as an extra index pip prefers that build (`2.13.0+cpu` sorts after `2.13.0`).
Nothing is printed where there is an NVIDIA driver, off Linux, or where the index does not answer
within three seconds: pip then uses what it is configured with.

Set TORCH_INDEX to another index's address to use that one, or to nothing to use none.
Standard library only, and no `import torch`: this runs before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import urllib.request

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_TIMEOUT_S = 3.0


def torch_index() -> str | None:
    """The extra index to use, or None."""
    asked = os.environ.get("TORCH_INDEX")
    if asked is not None:
        return asked or None
    if not sys.platform.startswith("linux") or shutil.which("nvidia-smi"):
        return None
    return CPU_INDEX if answers(f"{CPU_INDEX}/torch/", PROBE_TIMEOUT_S) else None


def answers(url: str, timeout_s: float) -> bool:
    """Whether `url` answers a HEAD request in time; also a name server that hangs counts as no."""
    good = threading.Event()

    def probe() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=timeout_s):
                good.set()
        except (OSError, ValueError):  # URLError and HTTPError are OSErrors
            return

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return good.is_set()


if __name__ == "__main__":
    index = torch_index()
    if index:
        print(f"--extra-index-url={index}")
