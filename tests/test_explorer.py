"""The explorer's page in a real headless Chromium: what it shows is what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import refnet
from refnet.errors import OptionError
from refnet.fields.branches import Branch, branches
from refnet.fields.effective_receptive_field import (
    EffectiveReceptiveField,
    effective_receptive_field,
)
from refnet.fields.figures import explorer
from refnet.graph import Graph
from tests.headless_browser import Page, browser, chromium

READY = "document.documentElement?.dataset.ready === 'yes'"

Fields = list[tuple[Branch, EffectiveReceptiveField]]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return refnet.build("lffd-face-v2", width=0.125)


@pytest.fixture(scope="module")
def fields(graph: Graph) -> Fields:
    return [(b, effective_receptive_field(graph, b.tensor)) for b in branches(graph)[:3]]


@pytest.fixture(scope="module")
def page_file(graph: Graph, fields: Fields, tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = np.full((300, 400, 3), (40, 90, 160), np.uint8)
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    path.write_text(explorer(graph, fields, image=image), "utf-8")
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    path = chromium()
    if path is None:
        pytest.skip("no Chromium is installed here")
    with browser(path, tmp_path_factory.mktemp("profile")) as page:
        yield page


def test_page_needs_nothing_but_itself(page_file: Path) -> None:
    text = page_file.read_text("utf-8")
    assert "__DATA__" not in text
    for word in ("http://", "https://", 'src="', "<link", "@import"):
        assert word not in text


def test_page_shows_what_was_measured(tab: Page, page_file: Path, fields: Fields) -> None:
    for branch, field in fields:
        for threshold in (0.25, 0.5, 0.75):
            state = f"branch={branch.number}&threshold={threshold}&unit=5,6"
            tab.open("about:blank", "true")
            tab.open(f"{page_file.as_uri()}#{state}", READY)
            x1, y1, x2, y2 = field.threshold_box(threshold)
            assert tab.text("above") == f"{x2 - x1} × {y2 - y1} px"
            assert tab.text("count") == f"{np.count_nonzero(field.map > threshold):,}"
        rows, columns = field.map.shape
        left, top, right, bottom = branch.field.box((5, 6))
        assert tab.text("unit") == "5, 6"
        assert tab.text("sees") == f"{columns} × {rows} px"
        assert tab.text("from") == f"{left}, {top}"
        assert tab.text("centre") == f"{(left + right - 1) // 2}, {(top + bottom - 1) // 2}"
        assert tab.text("window") == f"{field.window} px"
        assert tab.text("luo") == f"{field.luo_width:.1f} px"
        assert tab.text("looks") == f"{field.two_sigma[1]:.1f} × {field.two_sigma[0]:.1f} px"
        assert branch.objects is not None
        assert tab.text("objects") == f"{branch.objects[0]} to {branch.objects[1]} px"
    assert tab.errors == []


def test_pointing_picks_the_nearest_unit(tab: Page, page_file: Path, fields: Fields) -> None:
    tab.open("about:blank", "true")
    tab.open(f"{page_file.as_uri()}#branch=2", READY)
    area = tab.evaluate(
        "(() => { const a = canvas.getBoundingClientRect();"
        " return [a.left, a.top, a.width, a.height, canvas.width, canvas.height]; })()"
    )
    left, top, width, height, inner_width, inner_height = area
    scale = min(width / inner_width, height / inner_height)
    margin = round(0.12 * 400)
    branch = fields[1][0]  # centres at 7, 15, 23, ...
    for row, column in ((0, 0), (12, 20), (30, 44)):
        y, x = 7 + 8 * row + 0.5, 7 + 8 * column + 0.5
        tab.point(
            left + (width - scale * inner_width) / 2 + scale * (x + margin + 2),
            top + (height - scale * inner_height) / 2 + scale * (y + margin - 2),
        )
        assert tab.text("unit") == f"{row}, {column}"
        assert tab.text("from") == "{}, {}".format(*branch.field.box((row, column))[:2])
    tab.point(left + 20, top + 20)  # outside the image, the nearest unit is at its corner
    assert tab.text("unit") == "0, 0"


def test_keys_and_buttons_move_between_units_and_branches(tab: Page, page_file: Path) -> None:
    tab.open("about:blank", "true")
    tab.open(f"{page_file.as_uri()}#branch=1&unit=3,3", READY)
    tab.evaluate("canvas.focus()")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp"):
        tab.press(key)
    assert tab.text("unit") == "4, 4"
    # The other branch's unit at the same place: 3 + 4 · 4 = 19 lies between 15 and 31.
    tab.evaluate("document.querySelectorAll('#branches button')[2].click()")
    assert tab.text("unit") == "0, 0"
    assert tab.text("sees") == "175 × 175 px"
    tab.evaluate("threshold.value = 0.9; threshold.dispatchEvent(new Event('input'))")
    assert tab.text("level") == "0.90"
    assert "threshold=0.9" in tab.evaluate("location.hash")


def test_picture_is_lit_where_the_unit_looks(tab: Page, page_file: Path) -> None:
    tab.open("about:blank", "true")
    tab.open(f"{page_file.as_uri()}#branch=3&unit=8,11", READY)
    shot = cv2.imdecode(np.frombuffer(tab.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert shot is not None
    # Unit (8, 11) of branch 3 has its centre at (143, 191); the corner of the image is in the dark.
    centre, corner = tab.evaluate(
        "(() => { const a = canvas.getBoundingClientRect();"
        " const s = Math.min(a.width / canvas.width, a.height / canvas.height);"
        " const at = (x, y) => [a.left + (a.width - s * canvas.width) / 2 + s * (x + margin),"
        "                       a.top + (a.height - s * canvas.height) / 2 + s * (y + margin)];"
        " return [at(191, 143), at(390, 290)]; })()"
    )

    def brightness(at: list[float]) -> float:
        x, y = (round(side) for side in at)
        return float(np.median(shot[y - 4 : y + 5, x - 4 : x + 5].sum(2)))

    assert brightness(centre) > 1.8 * brightness(corner)


def test_vectors_have_no_unit_to_point_at() -> None:
    graph = refnet.build("pfld-ultralight", width=0.25, input_size=96)
    fields = [(b, effective_receptive_field(graph, b.tensor)) for b in branches(graph)]
    with pytest.raises(OptionError, match="no unit to point at"):
        explorer(graph, fields)
