"""CPU kernels for experts: C in ``src``, behind ctypes, without torch.

They read weights where the loader put them and run without the GIL. One call computes a group of
experts of one layer on a :class:`Pool` of threads, in the best instruction set that the machine
has; ``FIDDLER_ISA`` names another. Everything works without them, through torch.
"""

from __future__ import annotations

from engine.kernels.attention import MOST_HEAD, Attention
from engine.kernels.layer import Act, Dtype, Expert, Layer
from engine.kernels.library import ISAS, choose_isa, isas, library
from engine.kernels.pool import Pool, open_pool

__all__ = [
    "ISAS",
    "MOST_HEAD",
    "Act",
    "Attention",
    "Dtype",
    "Expert",
    "Layer",
    "Pool",
    "choose_isa",
    "isas",
    "library",
    "open_pool",
]
