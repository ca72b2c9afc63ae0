"""Optional packages: the module, or a sentence that says what needs it and how to install it."""

import json
import sys

import pytest

from refnet.errors import DependencyError
from refnet.optional import require


def test_a_module_that_is_there_is_given() -> None:
    assert require("json", "this", "json") is json
    assert require("json.decoder", "this", "json") is json.decoder


@pytest.mark.parametrize(
    ("install", "command"),
    [("package", "pip install package$"), ("refnet[extra]", r"pip install 'refnet\[extra\]'$")],
)
def test_one_that_is_absent_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, install: str, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "absent", None)
    with pytest.raises(DependencyError, match=command) as caught:
        require("absent.part", "a table", install)
    assert str(caught.value).startswith("a table needs the package absent")
    assert isinstance(caught.value, ImportError)


def test_two_packages_that_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV comes in builds that replace each other's files, so a person is to choose."""
    from refnet.media.images import opencv

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DependencyError, match=r"opencv-python, .*opencv-python-headless$"):
        opencv()
