"""The fixed rule by which a tenth of every training source is set aside, before any run."""

from __future__ import annotations

import hashlib


def is_set_aside(key: str, parts: int = 10) -> bool:
    """Whether `key`, an identity or a photo's name, belongs to the tenth that is never trained on.

    The rule needs no list and no seed: the first eight bytes of the key's SHA-256, modulo `parts`, are 0.
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % parts == 0
