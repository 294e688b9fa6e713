"""Deflate, read by zlib-ng, which takes half as long as the zlib that Python has (docs/decisions/zlib-ng.md)."""

from typing import Final, cast

from zlib_ng import zlib_ng

__all__ = ["GZIP", "RAW_4K", "InflateError", "decompressor"]

GZIP: Final = 16 + zlib_ng.MAX_WBITS
RAW_4K: Final = -12
"""No header, and a window of 4 KiB, as the clusters of a qcow2 have it."""

decompressor: Final = zlib_ng.decompressobj
# Its stubs take this class for an instance.
InflateError: Final = cast(type[Exception], zlib_ng.error)
