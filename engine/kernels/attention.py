"""What attention's kernel has to know of a layer."""

from __future__ import annotations

from ctypes import Structure, c_double, c_int64, c_void_p

MOST_HEAD = 512
"""Elements of a head."""


class Attention(Structure):
    """As ``src/attend.h`` has it: addresses (0: none), strides and sizes in elements.

    ``weight``, ``bias`` and ``stride`` (of rows) are of query, key, value and output; ``norm`` of
    query and key, with a weight for each of ``norm_size`` elements: a head's, or all heads'.
    """

    _fields_ = (
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head", c_int64),
        ("rotary", c_int64),
        ("dtype", c_int64),
        ("scale", c_double),
        ("eps", c_double),
        ("weight", c_void_p * 4),
        ("bias", c_void_p * 4),
        ("stride", c_int64 * 4),
        ("norm", c_void_p * 2),
        ("norm_size", c_int64 * 2),
    )
