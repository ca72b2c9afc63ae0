"""Areas, clipping and overlap of boxes, by hand."""

import numpy as np

from refnet.detection.boxes import area, clip, iou


def test_the_area_is_zero_where_corners_are_out_of_order() -> None:
    boxes = np.array([[0, 0, 4, 5], [-1.0, -1, 1, 1], [3, 3, 3, 9], [5, 5, 1, 9]])
    assert area(boxes).tolist() == [20, 4, 0, 0]
    assert area(boxes[0]) == 20


def test_boxes_are_cut_to_the_image() -> None:
    boxes = np.array([[-5, -6, 700, 20], [10, 20, 30, 500]], np.float32)
    cut = clip(boxes, (480, 640, 3))
    assert cut.tolist() == [[0, 0, 640, 20], [10, 20, 30, 480]] and cut.dtype == np.float32
    assert clip(boxes[1], (480, 640)).tolist() == [10, 20, 30, 480]


def test_overlap_is_zero_where_no_box_has_an_area() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 20, 20]], np.float32)
    # 0, not NaN, where both are without area.
    expected = np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(iou(boxes, boxes), expected)
    assert iou(boxes, boxes).dtype == np.float64
    assert iou(boxes[:0], boxes).shape == (0, 3) and iou(boxes, boxes[:0]).shape == (3, 0)
