"""Figures: what is drawn is what was measured, at its scale, and files are what their names say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

import refnet
from refnet.errors import OptionError, OutputError
from refnet.fields import figures
from refnet.fields.branches import Branch, branches
from refnet.fields.effective_receptive_field import (
    EffectiveReceptiveField,
    effective_receptive_field,
)
from refnet.fields.figures.depth import growing_layers
from refnet.fields.figures.style import LOOKS, OBJECTS, SEES, lit, placed
from refnet.graph import Graph

pytest.importorskip("matplotlib", reason="figures need the extra `plot`")

from matplotlib.colors import to_hex
from matplotlib.patches import Ellipse, Rectangle

Fields = list[tuple[Branch, EffectiveReceptiveField]]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return refnet.build("lffd-face-v2", width=0.125)


@pytest.fixture(scope="module")
def fields(graph: Graph) -> Fields:
    # An eighth of the channels with eight times the weight: the same map as the full network's.
    return [(b, effective_receptive_field(graph, b.tensor, constant=0.4)) for b in branches(graph)]


@pytest.fixture
def image() -> Any:
    ramp = np.linspace(0, 255, 200)[None, :, None]
    return np.broadcast_to(ramp, (160, 200, 3)).astype(np.uint8)


def _outlines(axes: Any, color: str) -> list[tuple[float, float, float, float]]:
    return [
        (patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height())
        for patch in axes.patches
        if isinstance(patch, Rectangle) and to_hex(patch.get_edgecolor()) == color
    ]


def test_heat_map_is_to_scale(fields: Fields, image: Any) -> None:
    branch = fields[1][0]
    field = fields[1][1].at((5, 6))
    figure = figures.heat_map(field, image=image, objects=branch.objects, title="one unit")
    (axes,) = figure.axes
    x1, y1, x2, y2 = branch.field.box((5, 6))
    # A pixel's square reaches half a pixel to either side of its coordinate.
    assert _outlines(axes, SEES) == [(x1 - 0.5, y1 - 0.5, x2 - x1, y2 - y1)]
    assert sorted(box[2] for box in _outlines(axes, OBJECTS)) == [20, 40]
    for x, y, width, height in _outlines(axes, OBJECTS):
        assert (x + width / 2, y + height / 2) == ((x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2)
    (ellipse,) = (patch for patch in axes.patches if isinstance(patch, Ellipse))
    assert to_hex(ellipse.get_edgecolor()) == LOOKS
    assert (ellipse.height, ellipse.width) == field.two_sigma
    assert axes.get_title() == "one unit"
    left, right = axes.get_xlim()
    assert left < 0
    assert right > 199
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["sees 95 px", "looks at 51 px (2σ)", "looks for 20 to 40 px"]


def test_image_is_lit_where_the_unit_looks(fields: Fields) -> None:
    field = fields[1][1].at((5, 6)).smoothed(4)
    image = np.full((160, 200, 3), 120, np.uint8)
    light = placed(field.map, field.origin, image.shape)
    assert light.shape == (160, 200)
    assert light.argmax() == 47 * 200 + 55  # 7 + 8 · 5, 7 + 8 · 6
    shown = lit(image, light).sum(2)
    assert shown[47, 55] > 2.5 * shown[150, 190]
    # A field that leaves the image is cut, not wrapped.
    corner = placed(np.ones((5, 5)), (-3, 197), (160, 200, 3))
    assert corner.sum() == 2 * 3
    assert corner[:2, 197:].all()


def test_comparison_keeps_one_scale(fields: Fields) -> None:
    field = fields[0][1]
    figure = figures.comparison({"before": field, "after": field.smoothed(3)})
    before, after = figure.axes
    assert before.get_xlim() == after.get_xlim()
    assert before.get_title().startswith("before: 33 px")
    assert after.get_title().startswith("after: 35 px")  # 4 √(8.2² + 3²)


def test_profile_draws_marginal_and_fit(fields: Fields) -> None:
    branch, field = fields[2]
    figure = figures.profile(field, objects=branch.objects)
    for axes, axis in zip(figure.axes, (1, 0), strict=True):
        fit = next(line for line in axes.lines if line.get_label() == "Gaussian fit")
        x, y = (np.asarray(side, float) for side in fit.get_data())
        gaussian = field.gaussian[axis]
        np.testing.assert_allclose(y, gaussian(x + 87))
        assert f"residual {100 * gaussian.residual:.1f} %" in axes.get_title()
        edges = [
            float(np.asarray(line.get_xdata())[0])
            for line in axes.lines
            if to_hex(line.get_color()) == SEES
        ]
        assert edges == [-87.5, 87.5]


@pytest.mark.parametrize("photo", [False, True])
def test_sheet_shows_every_branch(fields: Fields, image: Any, photo: bool) -> None:
    given: dict[str, Any] = {"image": image, "face": (60, 40, 120, 110)} if photo else {}
    figure = figures.sheet(fields, **given)
    *panels, chart = figure.axes
    assert [axes.get_title() for axes in panels] == [f"branch {i}" for i in range(1, 6)]
    for axes, (branch, field) in zip(panels, fields, strict=True):
        size = field.map.shape[0]
        assert _outlines(axes, SEES) == [(-size / 2, -size / 2, size, size)]
        assert branch.objects is not None
        assert [box[2] for box in _outlines(axes, OBJECTS)] == list(branch.objects)
        if photo:  # the face's longer side, 70 px, has the geometric middle of the branch's range
            left, right, _, _ = axes.images[0].get_extent()
            middle = np.sqrt(branch.objects[0] * branch.objects[1])
            assert right - left == pytest.approx(200 * middle / 70, abs=1)
    words = {text.get_text() for text in chart.texts}
    assert {"55", "95", "175", "335", "655", "33", "363", "10–20", "160–320"} <= words
    marked = [np.asarray(line.get_ydata(), float).ravel().tolist() for line in chart.lines]
    assert all([float(size)] in marked for size in (55, 95, 175, 335, 655))


def test_growing_layers_are_the_trunk(graph: Graph) -> None:
    names = growing_layers(graph, "score_3")
    assert names == tuple(f"conv{i}" for i in range(1, 15))


def test_animation_has_a_frame_a_layer(graph: Graph, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "depth.gif"
    frames = figures.animation(
        graph, "score_1", lambda tensor: effective_receptive_field(graph, tensor), path, dpi=40
    )
    with Image.open(path) as picture:
        first = np.asarray(picture.convert("RGB")).astype(int)
        assert picture.n_frames >= 8  # type: ignore[attr-defined]  # equal last ones may be merged
        picture.seek(7)
        last = np.asarray(picture.convert("RGB")).astype(int)
    assert frames == 8 + 3
    assert (np.abs(first - last).sum(2) > 60).mean() > 0.02


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_files_are_of_the_format_of_their_suffix(
    fields: Fields, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / "new" / f"sheet{suffix}"
    figures.save(figures.sheet(fields[:2]), path)
    data = path.read_bytes()
    if suffix == ".png":
        picture = cv2.imread(str(path))
        assert picture is not None
        assert min(picture.shape[:2]) > 400
    elif suffix == ".svg":
        assert ElementTree.fromstring(data).tag.endswith("svg")
    else:
        assert data.startswith(b"%PDF")
    figures.save(figures.sheet(fields[:2]), path)
    assert path.read_bytes() == data  # the same figure is the same file


def test_compact_files_are_smaller(fields: Fields, tmp_path: Path) -> None:
    full, compact = tmp_path / "full.png", tmp_path / "compact.png"
    figure = figures.sheet(fields[:3])
    figures.save(figure, full)
    figures.save(figure, compact, compact=True)
    assert compact.stat().st_size < 0.6 * full.stat().st_size
    a, b = cv2.imread(str(full)), cv2.imread(str(compact))
    assert a is not None
    assert b is not None
    assert a.shape == b.shape
    assert np.abs(a.astype(int) - b).mean() < 3


def test_wrong_figures_are_refused_by_name(
    graph: Graph, fields: Fields, image: Any, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=r"written as \.png, \.svg, \.pdf"):
        figures.save(figures.heat_map(fields[0][1]), tmp_path / "a.bmp")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        figures.save(figures.heat_map(fields[0][1]), tmp_path / "file" / "a.png")
    with pytest.raises(OptionError, match="together with the box of a face"):
        figures.sheet(fields, image=image)
    with pytest.raises(OptionError, match="at least one branch"):
        figures.sheet([])
    with pytest.raises(OptionError, match=r"written as \.gif"):
        figures.animation(graph, "score_1", lambda tensor: fields[0][1], tmp_path / "a.mp4")
    with pytest.raises(OptionError, match="sees more than one pixel"):
        figures.animation(graph, "normalize", lambda tensor: fields[0][1], tmp_path / "a.gif")


WITHOUT_MATPLOTLIB = """
import sys
sys.modules["matplotlib"] = None
import refnet
from refnet.fields import figures
field = refnet.effective_receptive_field(refnet.build("tinynet"))
try:
    figures.heat_map(field)
except refnet.DependencyError as error:
    print(error)
"""


def test_matplotlib_is_optional() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MATPLOTLIB],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert "pip install 'refnet[plot]'" in done.stdout
