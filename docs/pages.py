"""The pages of the site that the project itself makes, so that nothing is written twice: a hook of MkDocs.

    Reference   a page a public module: what `refnet.__all__` names, what the signatures of these name,
                and what the snippets of docs/ import; and the help of every verb of the command line
    Project     README.md's sections, CHANGELOG.md, CONTRIBUTING.md, SECURITY.md, kernels/README.md and
                the cards of the released weights, as they are, with their links turned to the site's pages

A page takes a section of another file by a line `<!-- include FILE: Heading -->`, and what stands before
the first heading of second rank by `<!-- include FILE -->`. The address of the repository is
`[project.urls]` of pyproject.toml and stands nowhere else.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import refnet
from refnet.cli import VERBS, main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

#: Files outside docs/ that are pages: {file in the repository: page}.
PAGES: dict[str, str] = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "kernels/README.md": "guides/adding-a-kernel.md",
    **{f"weights/{p.name}": f"weights/{p.name}" for p in sorted((ROOT / "weights").glob("*.md"))},
}
FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.M | re.S)
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s]+)\)")
INCLUDE = re.compile(r"^<!-- include ([^:>]+?)(?:: ([^>]+?))? -->$", re.M)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


# --- what MkDocs calls


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the address of the repository and the generated pages into the settings."""
    config.repo_url = address("Repository") or ""
    config.site_url = address("Documentation")
    reference: dict[str, list[Any]] = {}
    for module in modules():
        group = module.split(".")[1] if module.count(".") > 1 else "refnet"
        reference.setdefault(group, []).append({titled(module): page_of(module)})
    contents: list[Any] = ["reference/index.md", {"Command line": "reference/command-line.md"}]
    cards = [page for page in PAGES.values() if page.startswith("weights/")]
    assert config.nav is not None
    for entry in config.nav:
        if isinstance(entry, dict) and "Reference" in entry:
            entry["Reference"] = contents + [{k: v} for k, v in reference.items()]
        if isinstance(entry, dict) and "Weights" in entry:
            entry["Weights"] += [{Path(card).stem: card} for card in cards]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    made = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in PAGES.items()}
    del made["index.md"]  # docs/index.md includes the README's beginning
    made["reference/index.md"] = contents()
    made["reference/command-line.md"] = command_line()
    made |= {page_of(module): reference(module, names) for module, names in modules().items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take in what the page includes, and turn links to files into links to pages."""
    uri = page.file.src_uri
    if "/" not in uri:  # a page of its own tab, without neighbours
        page.meta.setdefault("hide", ["navigation"])
    origin = {page: name for name, page in PAGES.items() if page != "index.md"}
    text = relinked(markdown, origin.get(uri, f"docs/{uri}"), uri)
    return INCLUDE.sub(lambda found: relinked(section(*found.groups()), found[1], uri), text)


# --- text of other files


def section(name: str, heading: str | None) -> str:
    """What stands under a heading of second rank in the file `name`; without one, before the first.

    Raises:
        PluginError: there is no such heading.
    """
    text = (ROOT / name).read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)\n", text, flags=re.M)
    if heading is None:
        return re.sub(r"^# .+\n", "", parts[0]).strip()
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    if heading not in found:
        raise PluginError(f"{name} has no section {heading!r}, but {', '.join(found)}")
    return found[heading].strip()


def relinked(text: str, origin: str, page: str) -> str:
    """`text` of the repository's file `origin`, with links that hold on the site's page `page`.

    A link to a file that is no page leads to the repository; while that has no address, it is plain text.
    """

    def turn(found: re.Match[str]) -> str:
        image, label, target = found.groups()
        path, hash_, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return found[0]
        name = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        if not (ROOT / name).exists():
            return found[0]  # of a page of docs/ to a generated one; MkDocs says where it is none
        inside = PAGES.get(name)
        if name.startswith("docs/") and (ROOT / name).is_file():
            inside = name.removeprefix("docs/")
        if inside is None:
            repository = address("Repository")
            return f"{image}[{label}]({repository}/blob/HEAD/{name})" if repository else label
        way = posixpath.relpath(inside, posixpath.dirname(page) or ".")
        return f"{image}[{label}]({way}{hash_}{anchor})"

    pieces, at = [], 0
    for fence in FENCE.finditer(text):
        pieces += [LINK.sub(turn, text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join(pieces) + LINK.sub(turn, text[at:])


def address(name: str) -> str | None:
    """An address of [project.urls] in pyproject.toml; None while the maintainer has not filled it in."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf'^{name} = "(.+?)/?"$', text, re.M)
    return None if found is None or ".invalid/" in found[1] else found[1]


# --- the reference


def modules() -> Mapping[str, list[str]]:
    """{module: its public names, in the order of the source}, sorted by module."""
    public: dict[tuple[str, str], Any] = {}
    waiting = [*(getattr(refnet, name) for name in refnet.__all__), *imported_by_snippets()]
    for thing in waiting:
        key = (thing.__module__, thing.__name__)
        if key not in public:
            public[key] = thing
            waiting += named_by(thing)
    found: dict[str, list[str]] = {}
    for module, name in sorted(public, key=lambda key: (key[0], line_of(public[key]))):
        found.setdefault(module, []).append(name)
    return dict(sorted(found.items(), key=lambda item: (item[0].count(".") > 1, item[0])))


def imported_by_snippets() -> Iterator[Any]:
    """The classes and functions of refnet that Python blocks of README.md and docs/ import."""
    for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
        for block in PYTHON.findall(path.read_text(encoding="utf-8")):
            for node in ast.walk(ast.parse(block)):
                module = getattr(node, "module", None) or ""
                if not isinstance(node, ast.ImportFrom) or module.partition(".")[0] != "refnet":
                    continue
                for alias in node.names:
                    thing = getattr(importlib.import_module(module), alias.name)
                    if inspect.isclass(thing) or inspect.isfunction(thing):
                        yield thing


def named_by(thing: Any) -> Iterator[Any]:
    """The public classes of refnet that the annotations of a class or function name."""
    annotations: list[Any] = []
    members = [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]
    for member in members:
        function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "func", member))
        name = getattr(function, "__name__", "_")
        if function is thing or name == "__call__" or not name.startswith("_"):
            annotations += getattr(function, "__annotations__", {}).values()
    for word in re.findall(r"\w+", " ".join(map(str, annotations))):
        kind = getattr(importlib.import_module(thing.__module__), word, None)
        ours = inspect.isclass(kind) and kind.__module__.startswith("refnet.")
        if ours and kind is not None and not kind.__name__.startswith("_"):
            yield kind


def line_of(thing: Any) -> int:
    """Where its source begins."""
    return inspect.getsourcelines(inspect.unwrap(thing))[1]


def page_of(module: str) -> str:
    """The page of a module."""
    return f"reference/{module.removeprefix('refnet.').replace('.', '/')}.md"


def titled(module: str) -> str:
    """The title of a module's page."""
    return module.rpartition(".")[2].replace("_", " ").capitalize()


def reference(module: str, names: Iterable[str]) -> str:
    """The page of a module: how its names are imported, what it is about, and each of them."""
    direct = [name for name in names if name in refnet.__all__]
    inner = [name for name in names if name not in direct]
    lines = [f"from refnet import {', '.join(direct)}"] if direct else []
    lines += [f"from {module} import {', '.join(inner)}"] if inner else []
    code = "\n".join(wrapped(line) for line in lines)
    members = "\n".join(f"        - {name}" for name in names)
    return (
        f"# {titled(module)}\n\n```python\n{code}\n```\n\n::: {module}\n    options:\n"
        f"      members:\n{members}\n"
    )


def wrapped(line: str) -> str:
    """An import of one line, or in parentheses where it is longer than a page is wide."""
    if len(line) <= 80:
        return line
    start, _, names = line.partition(" import ")
    return f"{start} import (\n" + "".join(f"    {n},\n" for n in names.split(", ")) + ")"


def contents() -> str:
    """All of `refnet.__all__` with the first sentence of its docstring, errors last."""
    rows: dict[bool, list[str]] = {False: [], True: []}
    for name in sorted(refnet.__all__, key=str.lower):
        thing = getattr(refnet, name)
        target = f"{thing.__module__}.{thing.__name__}"
        row = f"| [`{name}`][{target}] | {first_line(thing)} |"
        rows[inspect.isclass(thing) and issubclass(thing, Exception)].append(row)
    head = "| name | what it is |\n| --- | --- |\n"
    calls, errors = (head + "\n".join(found) for found in rows.values())
    return (
        "# Reference\n\nEvery page is made from the docstrings of one module. Images, boxes and points are "
        "NumPy arrays; each docstring says their shapes, dtypes and units.\n\n"
        f"{calls}\n\n## Errors\n\n{errors}\n"
    )


def first_line(thing: Any) -> str:
    """The first sentence of a docstring, on one line."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return text.split(": `")[0].rstrip(":.") + "."


def command_line() -> str:
    """The help of every verb, as a terminal of 88 columns shows it."""
    parts = ["# Command line", f"```text\n{help_of()}\n```"]
    parts += [f"## {verb}\n\n```text\n{help_of(verb)}\n```" for verb in VERBS]
    return "\n\n".join(parts) + "\n"


def help_of(*words: str) -> str:
    """What `refnet WORDS --help` prints."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS="88"),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([*words, "--help"])
    return printed.getvalue().rstrip()
