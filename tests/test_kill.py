"""A few rounds of `python -m tests.kill`: what is killed goes on, and comes to the same."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it forks, and sends signals")


@pytest.fixture(scope="module")
def world(tmp_path_factory: Any) -> Iterator[Any]:
    from tests.kill.rounds import World

    made = World.made(Path(tmp_path_factory.mktemp("kill")), 10)
    yield made
    made.server.close()


@pytest.mark.parametrize("seed", ["test-2", "test-9", "test-15", "test-24", "test-35"])
def test_a_run_that_is_killed_goes_on(world: Any, seed: str) -> None:
    """The seeds draw every verb and kind of results, copies or none, and every end."""
    from tests.kill.rounds import one_round

    assert one_round(world, seed)
