"""The site builds without a warning, its reference is the public surface, and the project's records are right."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import refnet
from refnet.cli import VERBS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    for module in ("material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip('the site needs pip install -e ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def page(site: Path, name: str) -> str:
    return (site / name / "index.html").read_text(encoding="utf-8")


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    listed = page(site, "reference")
    for name in refnet.__all__:
        thing = getattr(refnet, name)
        module = thing.__module__.removeprefix("refnet.").replace(".", "/")
        assert f'id="{thing.__module__}.{thing.__name__}"' in page(site, f"reference/{module}")
        assert f"<code>{name}</code>" in listed


def test_what_public_calls_give_is_in_the_reference(site: Path) -> None:
    """`face.measures.pose`, the frames of a tracker, what a table came to: nobody imports these by name."""
    for module, name in (
        ("refnet.faces.measures", "FaceMeasures"),
        ("refnet.faces.head_pose", "HeadPose"),
        ("refnet.faces.tracking", "TrackedFrame"),
        ("refnet.batch", "BatchSummary"),
    ):
        place = module.removeprefix("refnet.").replace(".", "/")
        assert f'id="{module}.{name}"' in page(site, f"reference/{place}")


def test_every_verb_is_in_the_reference(site: Path) -> None:
    text = page(site, "reference/command-line")
    for verb in VERBS:
        assert f'id="{verb}"' in text
        assert f"usage: refnet {verb}" in text


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("project/changelog", "CHANGELOG.md"),
        ("project/contributing", "CONTRIBUTING.md"),
        ("project/security", "SECURITY.md"),
        ("guides/adding-a-kernel", "kernels/README.md"),
    ],
)
def test_files_of_the_project_are_pages(site: Path, name: str, file: str) -> None:
    """Each section of the file is on its page, and there is no second copy of the file."""
    text = page(site, name)
    headings = re.findall(r"^##+ \[?([\w ,]+)\]?$", (ROOT / file).read_text(encoding="utf-8"), re.M)
    assert headings
    for heading in headings:
        assert heading in text
    assert not (ROOT / "docs" / f"{name}.md").exists()


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img)[^>]+src="(https?://[^"]+)"', text)
        fetched += re.findall(r'<link[^>]+href="(https?://[^"]+)"[^>]+rel="stylesheet"', text)
        fetched += re.findall(
            r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="(https?://[^"]+)"', text
        )
        assert not fetched, path


def module_of(file: str) -> ModuleType:
    """A file of the project that is no module of a package."""
    name = f"refnet_{Path(file).stem}"
    specification = importlib.util.spec_from_file_location(name, ROOT / file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "with_address", "without"),
    [
        ("[a](docs/faq.md#rgb-or-bgr)", "[a](../faq.md#rgb-or-bgr)", None),
        ("![a](docs/faces.jpg)", "![a](../faces.jpg)", None),
        ("[a](SECURITY.md)", "[a](../project/security.md)", None),
        ("[a](refnet/ops.py)", "[a](https://host/refnet/blob/HEAD/refnet/ops.py)", "a"),
        ("[a](docs/guides)", "[a](https://host/refnet/blob/HEAD/docs/guides)", "a"),
        ("[a](#above) [b](https://x.org)", "[a](#above) [b](https://x.org)", None),
        ("```sh\n[a](SECURITY.md)\n```", "```sh\n[a](SECURITY.md)\n```", None),
    ],
)
def test_links_of_files_hold_on_pages(
    text: str, with_address: str, without: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of README.md on a page in guides/, with the repository's address and while there is none."""
    pytest.importorskip("mkdocs")
    pages = module_of("docs/pages.py")
    for address, expected in (("https://host/refnet", with_address), (None, without)):
        monkeypatch.setattr(pages, "address", lambda name, found=address: found)
        wanted = with_address if expected is None else expected
        assert pages.relinked(text, "README.md", "guides/x.md") == wanted


def test_a_section_that_there_is_not_is_an_error() -> None:
    """So that a page that includes it cannot be built without it."""
    errors = pytest.importorskip("mkdocs.exceptions")
    pages = module_of("docs/pages.py")
    assert pages.section("README.md", "Networks").startswith("| names | task |")
    with pytest.raises(errors.PluginError, match=r"README\.md has no section 'Nets'"):
        pages.section("README.md", "Nets")


# --- records


def setup_file() -> ModuleType:
    return module_of("setup.py")


def test_links_become_absolute() -> None:
    pytest.importorskip("setuptools")
    text = (
        "![a face](docs/faces.jpg) [kernels](kernels/README.md) [above](#use) [far](https://x.org)"
    )
    assert setup_file().absolute(text, "https://host/refnet") == (
        "![a face](https://host/refnet/raw/HEAD/docs/faces.jpg) "
        "[kernels](https://host/refnet/blob/HEAD/kernels/README.md) [above](#use) [far](https://x.org)"
    )


def test_links_of_the_readme_lead_to_files() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!#|[a-z]+:)([^)#\s]+)", text)
    assert len(targets) > 5
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_the_address_of_the_repository_stands_in_one_file() -> None:
    """So that it is filled in once. A host that can be none marks what is not filled in yet."""
    address = setup_file().repository()
    files = subprocess.run(
        ["git", "grep", "-lF", address.partition("://")[2]],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if files.returncode > 1:
        pytest.skip("no git repository")
    assert files.stdout.split() in ([], ["pyproject.toml"])


def test_the_citation_file_has_what_its_format_asks_for() -> None:
    """Citation File Format 1.2.0: these keys are required, and a type and authors with names of each reference."""
    yaml = pytest.importorskip("yaml")
    record = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(record)
    assert record["cff-version"] == "1.2.0"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'license = "{record["license"]}"' in project
    for reference in record["references"]:
        assert {"type", "title", "authors"} <= set(reference)
        assert all("name" in a or "family-names" in a for a in reference["authors"])


def test_the_slim_container_has_what_the_slim_install_needs() -> None:
    """It installs without dependencies what reads images and computes; all else refnet must do without."""
    text = (ROOT / "docs" / "Dockerfile").read_text(encoding="utf-8")
    (packages,) = re.findall(r"pip install --no-cache-dir (?!--no-deps)(.+?) *\\?\n", text)
    assert packages.split() == ["numpy", "opencv-python-headless"]
    assert 'ENTRYPOINT ["refnet"]' in text
