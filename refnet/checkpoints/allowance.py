"""How much memory a file may cause to be allocated: a small multiple of its own size, never what it claims."""

from refnet.errors import CheckpointError

_TIMES_FILE_SIZE = 8  # savez_compressed of half-zero tensors, bfloat16 widened to float32
_ALWAYS_ALLOWED = 1 << 20  # so that a tiny file with a few expanded tensors still opens


class Allowance:
    """The bytes that reading one file may still allocate for tensors and for inflated entries.

    Every reader spends from it before it allocates, so that a tensor of stride 0 or a zip bomb is
    an error and not gigabytes.
    """

    def __init__(self, file_size: int) -> None:
        self._limit = _TIMES_FILE_SIZE * file_size + _ALWAYS_ALLOWED
        self._left = self._limit

    def spend(self, count: int, what: str) -> None:
        """Take `count` bytes for `what`, or raise CheckpointError where they are not justified."""
        if count > self._left:
            raise CheckpointError(
                f"{what} claims {count:,} bytes; a file of this size may fill {self._limit:,} in all. "
                f"The file is damaged, or made to exhaust memory."
            )
        self._left -= count
