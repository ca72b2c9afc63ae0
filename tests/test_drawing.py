"""What is drawn: labels that cover no neighbour, sizes that follow the face, sheets, and videos' codecs."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refnet.detection.nms import nested
from refnet.errors import OutputError
from refnet.faces.face import Face, Faces
from refnet.media.picture import SHOWN_SIDE, Picture
from refnet.media.sources import Frame, Source
from refnet.results import copies, drawing, sheets
from refnet.results.copies import AnnotatedCopies
from refnet.results.drawing import BOX, draw_boxes, draw_faces
from tests.detection_networks import f32, image_of

cv2 = pytest.importorskip("cv2")


def tags(boxes: np.ndarray, labels: list[str], shape: tuple[int, ...]) -> list[Any]:
    """The tags that `draw_boxes` places, in order; None where it leaves one out."""
    taken, placed = np.asarray(boxes, float), []
    for i, label in enumerate(labels):
        tag = drawing._place(label, i, taken, shape)
        placed.append(tag)
        if tag is not None:
            taken = np.concatenate([taken, [tag.box]])
    return placed


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 60),
    shape=st.sampled_from([(40, 60), (480, 640), (2160, 3840)]),
)
@settings(max_examples=40)
def test_a_label_covers_no_neighbour_and_stays_in_the_picture(
    seed: int, count: int, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 0.9, (count, 2)) * shape[::-1]
    sides = rng.uniform(0.02, 0.3) * min(shape) * rng.uniform(0.7, 1.3, (count, 1))
    boxes = np.concatenate([corners, corners + sides * [1, 1.2]], axis=1)
    found = [tag for tag in tags(boxes, ["0.98"] * count, (*shape, 3)) if tag is not None]
    numbers = [i for i, tag in enumerate(tags(boxes, ["0.98"] * count, (*shape, 3))) if tag]
    for own, tag in zip(numbers, found, strict=True):
        x1, y1, x2, y2 = tag.box
        assert x1 >= 0 and y1 >= 0 and x2 <= shape[1] and y2 <= shape[0]
        others = [box for i, box in enumerate(boxes) if i != own]
        others += [other.box for other in found if other is not tag]
        for left, top, right, bottom in others:
            assert not (min(x2, right) > max(x1, left) and min(y2, bottom) > max(y1, top))


def test_labels_go_where_there_is_room() -> None:
    shape = (400, 400, 3)
    (above,) = tags(np.array([[100, 100, 200, 220.0]]), ["0.98"], shape)
    assert above.box[3] == 100 and above.box[0] == 100
    (below,) = tags(np.array([[100, 2, 200, 120.0]]), ["0.98"], shape)
    assert below.box[1] == 120
    between = np.array([[100, 100, 140, 150.0], [100, 50, 140, 99], [100, 151, 140, 200]])
    assert tags(between, ["0.98"], shape) == [None]  # no room above, below or in it
    smaller = np.array([[100, 100, 200, 180.0], [100, 40, 200, 86], [100, 181, 200, 260]])
    shrunk = tags(smaller, ["0.98"], shape)[0]
    assert shrunk is not None and shrunk.scale < above.scale


def test_sizes_follow_the_face() -> None:
    """The same picture four times as large is drawn four times as large, and small faces finely."""
    box = np.array([300.0, 200, 500, 440])
    small = drawing._place("0.98", 0, box[None], (720, 960))
    large = drawing._place("0.98", 0, 4 * box[None], (2880, 3840))
    assert small is not None and large is not None
    assert large.scale == pytest.approx(4 * small.scale)
    thin, thick = (drawing._thickness(k * box, np.zeros((k * 720, k * 960, 3))) for k in (1, 4))
    assert (thin, thick) == (3, 11)
    assert drawing._thickness(np.array([0, 0, 30, 30]), np.zeros((720, 960, 3))) == 1
    assert drawing._thickness(np.array([0, 0, 60, 60]), np.zeros((2160, 3840, 3))) == 2


@pytest.mark.parametrize("side", [1, 2, 9, 30])
def test_tiny_pictures_are_drawn_on(side: int) -> None:
    image = np.zeros((side, side, 3), np.uint8)
    drawn = draw_boxes(image, np.array([[0, 0, side, side]]), ["0.98"])
    assert drawn.shape == image.shape and drawn.any()
    # A label much wider than its face is left out.
    assert tags(np.array([[50, 50, 50 + side / 3, 50 + side / 3]]), ["0.98"], (100, 100)) == [None]


def test_nested_boxes_of_one_face() -> None:
    """The better one stays, whichever is larger; neighbours and people in the corners stay too."""
    boxes = np.array(
        [
            *([100, 100, 200, 200], [120, 110, 190, 190]),  # the smaller one is better
            *([300, 100, 400, 200], [330, 120, 370, 170]),  # the larger one is better
            *([500, 100, 600, 200], [501, 101, 520, 120]),  # somebody in the corner
            *([700, 100, 800, 200], [760, 100, 860, 200]),  # neighbours
        ],
        float,
    )
    scores = [0.6, 0.9, 0.9, 0.6, 0.9, 0.6, 0.9, 0.8]
    assert np.flatnonzero(nested(boxes, scores)).tolist() == [0, 3]
    twice = np.array([[0, 0, 10, 10.0]] * 3)
    assert nested(twice, [0.5, 0.5, 0.5]).tolist() == [False, True, True]
    assert nested(np.zeros((0, 4)), []).tolist() == []


def test_a_face_found_twice_is_drawn_once() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    better = Face(f32([60, 60, 200, 220]), 0.9, None, (300, 300))
    worse = Face(f32([20, 20, 260, 280]), 0.4, None, (300, 300))
    np.testing.assert_array_equal(
        draw_faces(image, Faces([better, worse])), draw_faces(image, Faces([better]))
    )


def test_doubtful_points_are_drawn_faintly() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    points = np.random.default_rng(0).uniform(100, 300, (98, 2)).astype(np.float32)
    drawn = [
        draw_faces(
            image, [Face(f32([80, 80, 320, 320]), 0.9, points, (400, 400), None, None, sure)]
        )
        for sure in (None, 0.9, 0.2)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    inside = [int(one[150:250, 150:250].astype(int).sum()) for one in drawn]
    assert inside[2] < 0.6 * inside[0]
    assert (drawn[0] == 255).all(2).any() and not (drawn[2] == 255).all(2).any()


def test_captions_stand_below_the_tiles() -> None:
    """A tile's picture is untouched, and its caption ends before the next tile's begins."""
    crop = image_of(112, 112)
    points = np.full((98, 2), 0.5)
    short = sheets.points_tile(crop, points, points, "0.123")
    long = sheets.points_tile(crop, points, points, "a very long caption " * 10)
    np.testing.assert_array_equal(short[: sheets.TILE], long[: sheets.TILE])
    assert short.shape == long.shape == (sheets.TILE + sheets.STRIP, sheets.TILE, 3)
    for tile in (short, long):
        strip = tile[sheets.TILE :]
        assert (strip > 100).any() and (strip[:, -3:] == sheets.BACKGROUND).all()
    boxes = np.array([[10, 10, 60, 60.0]])
    wide = sheets.boxes_tile(image_of(40, 400), boxes, boxes, "2 missed, 0 false")
    assert wide.shape == short.shape
    whole = sheets.sheet([short, long, wide, short, long])
    assert whole.shape[0] > 2 * short.shape[0] and whole.shape[1] > 4 * short.shape[1]
    assert sheets.sheet([wide]).shape[1] >= wide.shape[1]
    assert sheets.boxes_tile(image_of(1, 900), boxes, boxes, "").shape == short.shape


class Writer:
    """An OpenCV that writes some codecs only."""

    can: ClassVar[tuple[str, ...]] = ()
    asked: ClassVar[list[str]] = []

    def __init__(self, path: str, code: int, rate: float, size: tuple[int, int]) -> None:
        name = code.to_bytes(4, "little").decode()
        self.asked.append(name)
        self.open = name in self.can
        self.real = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), rate, size)

    def isOpened(self) -> bool:
        return self.open

    def write(self, image: np.ndarray) -> None:
        self.real.write(image)

    def release(self) -> None:
        self.real.release()


@pytest.mark.parametrize(
    ("can", "asked"), [(("avc1", "mp4v"), ["avc1"]), (("mp4v",), ["avc1", "mp4v"])]
)
def test_videos_are_h264_where_opencv_writes_it(
    monkeypatch: Any, tmp_path: Path, can: tuple[str, ...], asked: list[str]
) -> None:
    monkeypatch.setattr(Writer, "can", can)
    monkeypatch.setattr(Writer, "asked", [])
    fake = type(
        "cv2",
        (),
        {**vars(cv2), "VideoWriter": Writer, "VideoWriter_fourcc": cv2.VideoWriter_fourcc},
    )
    monkeypatch.setattr(copies, "opencv", lambda: fake)
    made = AnnotatedCopies(tmp_path / "out")
    assert made.codec is None
    frame = Frame(Source("video", "a.mp4", "a.mp4"), image_of(48, 64), index=0, time=0.0, rate=25.0)
    made.write(frame, Faces())
    assert Writer.asked == asked and made.codec == asked[-1]
    assert (tmp_path / "out/a.mp4").stat().st_size > 0


def test_an_opencv_that_writes_no_video_is_said(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(Writer, "can", ())
    fake = type(
        "cv2",
        (),
        {**vars(cv2), "VideoWriter": Writer, "VideoWriter_fourcc": cv2.VideoWriter_fourcc},
    )
    monkeypatch.setattr(copies, "opencv", lambda: fake)
    frame = Frame(Source("video", "a.mp4", "a.mp4"), image_of(48, 64), index=0, time=0.0, rate=25.0)
    with pytest.raises(OutputError, match="cannot make an MP4 file there"):
        AnnotatedCopies(tmp_path / "out").write(frame, Faces())


def test_notebooks_get_large_pictures_shrunk() -> None:
    picture = Picture.of(np.zeros((2000, 3200, 3), np.uint8))
    png = picture._repr_png_()
    assert png is not None and picture.shape == (2000, 3200, 3)
    shown = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (1000, SHOWN_SIDE, 3)
    one = Face(f32([1, 2, 30, 40]), 0.5, None, (60, 80))
    assert "1 face in 80×60" in one._repr_html_() and BOX == (80, 200, 120)
