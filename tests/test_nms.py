"""Non-maximum suppression against loops written from the definitions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refnet.detection import nms
from refnet.detection.nms import OVERLAPS, sorted_by_score, suppress
from refnet.errors import OptionError, ShapeError


def f32(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)


def overlap_of(kept: np.ndarray, lower: np.ndarray, overlap: str) -> float:
    """One pair, in Python floats, straight from the module's definitions."""
    extra = 0 if overlap == "iou" else 1
    width = min(kept[2], lower[2]) - max(kept[0], lower[0]) + extra
    height = min(kept[3], lower[3]) - max(kept[1], lower[1]) + extra
    shared = max(width, 0) * max(height, 0)

    def area(box: np.ndarray, extra: int) -> float:
        return float((box[2] - box[0] + extra) * (box[3] - box[1] + extra))

    if overlap == "lower-area":
        return float(shared / area(lower, 0))
    extra = int(overlap == "inclusive-iou")
    return float(shared / (area(kept, extra) + area(lower, extra) - shared))


def slow(boxes: np.ndarray, scores: np.ndarray, threshold: float, overlap: str) -> list[int]:
    left = sorted(range(len(boxes)), key=lambda i: (-scores[i], -i))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if overlap_of(boxes[best], boxes[i], overlap) <= threshold]
    return kept


def boxes_and_scores(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, 60, (count, 2))
    sides = generator.integers(1, 40, (count, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    return boxes, generator.permutation(count).astype(np.float32) / max(count, 1)


@pytest.mark.parametrize("overlap", OVERLAPS)
@given(seed=st.integers(0, 2**16), count=st.integers(0, 40), together=st.sampled_from([0, 128]))
def test_equals_the_definition(overlap: str, seed: int, count: int, together: int) -> None:
    """By all pairs at once, and box after box."""
    boxes, scores = boxes_and_scores(seed, count)
    threshold = 0.3711  # no ratio of whole numbers this small hits it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms, "TOGETHER", together)
        kept = suppress(boxes, scores, threshold, overlap)
    assert kept.tolist() == slow(boxes.astype(float), scores, threshold, overlap)


@pytest.mark.parametrize("overlap", OVERLAPS)
@given(seed=st.integers(0, 2**16))
def test_does_not_depend_on_the_order_of_different_scores(overlap: str, seed: int) -> None:
    boxes, scores = boxes_and_scores(seed, 40)
    order = np.random.default_rng(seed + 1).permutation(40)
    kept = suppress(boxes, scores, 0.4, overlap)
    shuffled = suppress(boxes[order], scores[order], 0.4, overlap)
    np.testing.assert_array_equal(order[shuffled], kept)


def test_of_equal_scores_the_last_is_kept() -> None:
    box = f32([[0, 0, 10, 10]] * 3)
    assert suppress(box, f32([0.5, 0.5, 0.5]), 0.4).tolist() == [2]
    assert sorted_by_score(f32([0.1, 0.7, 0.7, 0.3])).tolist() == [2, 1, 3, 0]


def test_lower_area_counts_edge_pixels_in_the_intersection_only() -> None:
    """Boxes that touch share one column of pixels: 1 · 11 of an area of 100 is 0.11."""
    boxes = f32([[0, 0, 10, 10], [10, 0, 20, 10]])
    scores = f32([0.9, 0.8])
    assert len(suppress(boxes, scores, 0.109)) == 1
    assert len(suppress(boxes, scores, 0.111)) == 2
    assert len(suppress(boxes, scores, 0.0, "iou")) == 2
    # 121 - 11 shared pixels: 11 / (121 + 121 - 11), and equality suppresses.
    assert len(suppress(boxes, scores, float(np.float32(11 / 231)), "inclusive-iou")) == 1
    assert len(suppress(boxes, scores, 11 / 231 + 1e-6, "inclusive-iou")) == 2


def test_lower_area_suppresses_a_small_box_inside_a_large_one_and_iou_does_not() -> None:
    boxes = f32([[0, 0, 100, 100], [40, 40, 60, 60]])
    scores = f32([0.9, 0.8])
    assert len(suppress(boxes, scores, 0.6)) == 1
    assert len(suppress(boxes, scores, 0.6, "iou")) == 2


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_boxes_without_area_divide_by_nothing(overlap: str) -> None:
    boxes = f32([[0, 0, 10, 10], [5, 5, 5, 5], [90, 90, 90, 80], [30, 30, 20, 20]])
    with np.errstate(all="raise"):
        kept = suppress(boxes, f32([0.9, 0.8, 0.7, 0.6]), 0.4, overlap)
    assert 0 in kept
    assert (1 in kept) == (overlap != "lower-area")


def test_classes_do_not_suppress_each_other() -> None:
    boxes = f32([[0, 0, 10, 10]] * 4)
    scores = f32([0.6, 0.9, 0.7, 0.8])
    assert suppress(boxes, scores, 0.4, labels=[0, 0, 1, 1]).tolist() == [1, 3]


def test_only_the_best_take_part() -> None:
    boxes = f32([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    assert suppress(boxes, f32([0.3, 0.2, 0.9]), 0.4, top_k=2).tolist() == [2, 0]


def test_nothing_in_nothing_out() -> None:
    kept = suppress(np.zeros((0, 4)), np.zeros(0), 0.4)
    assert kept.shape == (0,) and kept.dtype == np.int64
    assert suppress(np.zeros((0, 4)), np.zeros(0), 0.4, labels=np.zeros(0)).shape == (0,)


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ShapeError, match=r"boxes are \(N, 4\)"):
        suppress(np.zeros((3, 5)), np.zeros(3), 0.4)
    with pytest.raises(ShapeError, match="labels"):
        suppress(np.zeros((3, 4)), np.zeros(3), 0.4, labels=[0])
    with pytest.raises(OptionError, match="lower-area, iou"):
        suppress(np.zeros((3, 4)), np.zeros(3), 0.4, "giou")
