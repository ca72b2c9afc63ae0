"""Text that a terminal may show."""

from __future__ import annotations

import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def printable(text: str) -> str:
    """`text` with control characters, and others that a terminal would obey, as escapes such as \\x1b.

    File names may hold any of them: a newline would fake a line of ours, an escape sequence would
    colour or clear the screen, and a mark of direction would reverse what is read.
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _HIDDEN else c
        for c in text
    )
