"""What pyproject.toml cannot say: the README of the package, in which every link is absolute.

An index of packages shows it far from the repository, where `docs/faces.jpg` leads nowhere. Links lead to
`Repository` of [project.urls], in the form of GitHub's addresses.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!#|[a-z]+:)([^)\s]+)\)")


def absolute(text: str, repository: str) -> str:
    """`text` with links to files turned into links to `repository`: to a picture itself, else to its page."""

    def turned(found: re.Match[str]) -> str:
        image, label, target = found.groups()
        return f"{image}[{label}]({repository}/{'raw' if image else 'blob'}/HEAD/{target})"

    return LINK.sub(turned, text)


def repository() -> str:
    """The address in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (found,) = re.findall(r'^Repository = "(.+?)/?"$', text, re.M)
    return str(found)


if __name__ == "__main__":
    setup(
        long_description=absolute((ROOT / "README.md").read_text(encoding="utf-8"), repository()),
        long_description_content_type="text/markdown",
    )
