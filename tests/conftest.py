"""What several test files share: where the real weights, golden files and photos are."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Drawn examples are the same on every run: a red test is red for everyone, and CI does not flicker.
settings.register_profile("refnet", derandomize=True, deadline=None)
settings.load_profile("refnet")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real checkpoints, golden outputs and photos, none of which may be committed."""
    default = Path(__file__).parents[2] / "shared" / "assets"
    folder = Path(os.environ.get("REFNET_ASSETS", default))
    if not folder.is_dir():
        pytest.skip(f"no asset bundle at {folder}; set REFNET_ASSETS to its folder")
    return folder
