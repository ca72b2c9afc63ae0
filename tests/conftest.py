"""What several test files share: where the real weights, golden files and photos are, and figures for the end of a run."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Drawn examples are the same on every run: a red test is red for everyone, and CI does not flicker.
settings.register_profile("refnet", derandomize=True, deadline=None)
settings.load_profile("refnet")

#: The property of a test under which its figures travel to the summary.
FIGURES = "figures"


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real checkpoints, golden outputs and photos, none of which may be committed."""
    default = Path(__file__).parents[2] / "shared" / "assets"
    folder = Path(os.environ.get("REFNET_ASSETS", default))
    if not folder.is_dir():
        pytest.skip(f"no asset bundle at {folder}; set REFNET_ASSETS to its folder")
    return folder


@pytest.fixture(autouse=True)
def free_cores() -> Iterator[None]:
    """Give the process back the cores that it had: the benchmarks keep theirs on one, and would keep all later tests there."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Keeps a line of figures, which the summary at the end of the run shows."""

    def keep(line: str) -> None:
        request.node.user_properties.append((FIGURES, line))

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have said; properties of a test also come from the processes of pytest-xdist."""
    lines = [
        text
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, text in report.user_properties
        if name == FIGURES
    ]
    if lines:
        terminalreporter.section("figures")
    for line in lines:
        terminalreporter.write_line(str(line))
