"""Metrics: published check values, closed forms, and curves worked out by hand."""

import numpy as np
import pytest

from refnet.detection.boxes import iou
from refnet.errors import OptionError, ShapeError
from refnet.faces.schemes import EYE_CORNERS, MIRROR_98, TO_68, as_68, mirrored
from refnet.ops import Array
from refnet.training import metrics
from refnet.training.metrics import average_precision, cumulative_error, matched, nme, normalisers

RNG = np.random.default_rng(3)


def test_the_mirror_is_an_involution_that_fixes_the_middle_of_the_face() -> None:
    assert (MIRROR_98[MIRROR_98] == np.arange(98)).all()
    fixed = np.flatnonzero(np.arange(98) == MIRROR_98)
    assert fixed.tolist() == [16, 51, 52, 53, 54, 57, 79, 85, 90, 94]
    pairs = {0: 32, 33: 46, 37: 42, 38: 50, 41: 47, 55: 59, 60: 72, 61: 71, 64: 68, 65: 75, 67: 73}
    pairs |= {76: 82, 77: 81, 83: 87, 84: 86, 88: 92, 93: 95, 96: 97}
    assert all(MIRROR_98[a] == b for a, b in pairs.items())


def test_mirroring_twice_changes_nothing_and_once_moves_left_to_right() -> None:
    points = RNG.random((2, 98, 2))
    np.testing.assert_allclose(mirrored(mirrored(points, 1.0), 1.0), points, atol=1e-15)
    assert mirrored(points, 1.0)[0, 60, 0] == 1 - points[0, 72, 0]
    with pytest.raises(OptionError, match="not of 68"):
        mirrored(points[:, :68], 1.0)


def test_98_points_map_to_the_known_68() -> None:
    assert len(set(TO_68.tolist())) == 68
    assert [TO_68[k] for k in (0, 8, 16, 27, 30, 36, 45, 48, 67)] == [
        0,
        16,
        32,
        51,
        54,
        60,
        72,
        76,
        95,
    ]
    points = RNG.random((1, 98, 2))
    left, right = EYE_CORNERS[68]
    assert (as_68(points)[0, [left, right]] == points[0, list(EYE_CORNERS[98])]).all()
    with pytest.raises(OptionError, match="not 29"):
        as_68(points[:, :29])


@pytest.mark.parametrize(("count", "corners"), EYE_CORNERS.items())
def test_nme_of_a_shift_is_the_shift_over_the_eyes_distance(
    count: int, corners: tuple[int, int]
) -> None:
    truth = RNG.random((4, count, 2))
    truth[:, corners[0]], truth[:, corners[1]] = (0.0, 0.0), (3.0, 4.0)
    np.testing.assert_allclose(nme(truth + np.array([0.3, 0.4]), truth), 0.1, rtol=1e-12)


def test_each_normaliser_is_its_distance_by_hand() -> None:
    truth = np.full((1, 98, 2), 0.5)
    truth[0, 60], truth[0, 72] = (0, 0), (1, 0)
    truth[0, 96], truth[0, 97] = (0.2, 0.1), (0.8, 0.1)
    truth[0, 0] = (0.5, 4)
    assert normalisers(truth)[0] == 1
    assert normalisers(truth, "inter-pupil")[0] == pytest.approx(0.6)
    assert normalisers(truth, "box")[0] == pytest.approx(2)
    eyes = np.zeros((1, 68, 2))
    eyes[0, 36:42, 0], eyes[0, 42:48, 0] = np.arange(6), 10 + np.arange(6)
    assert normalisers(eyes, "inter-pupil")[0] == pytest.approx(10)


def test_normalisers_that_do_not_exist_are_errors() -> None:
    with pytest.raises(OptionError, match="not for 106"):
        normalisers(np.zeros((1, 106, 2)))
    with pytest.raises(OptionError, match="inter-ocular, inter-pupil, box"):
        normalisers(np.zeros((1, 98, 2)), "nose")
    with pytest.raises(ShapeError, match="face 0"):
        normalisers(np.zeros((1, 98, 2)))
    with pytest.raises(ShapeError, match=r"\(N, K, 2\)"):
        nme(np.zeros((3, 196)), np.zeros((3, 196)))


def test_a_perfect_curve_has_an_area_of_1_and_an_even_one_of_a_half() -> None:
    perfect = cumulative_error(np.zeros(10))
    assert (len(perfect.thresholds), perfect.thresholds[-1]) == (1001, pytest.approx(0.1))
    assert perfect.auc == pytest.approx(1, abs=1e-12)
    assert perfect.failure_rate == 0
    line = metrics.ErrorDistribution(np.linspace(0, 0.1, 1001), np.linspace(0, 1, 1001), 0.1)
    assert line.auc == pytest.approx(0.5, abs=1e-12)


def test_failure_is_strictly_beyond_the_limit() -> None:
    distribution = cumulative_error(np.array([0.05, 0.1, 0.1001, 0.2]))
    assert distribution.failure_rate == 0.5
    assert cumulative_error(np.array([1.0])).auc == 0
    with pytest.raises(ShapeError, match="no faces"):
        cumulative_error(np.zeros(0))


def test_simpson_equals_the_exact_area_of_a_parabola() -> None:
    x = np.linspace(0, 0.1, 1001)
    curve = metrics.ErrorDistribution(x, (x / 0.1) ** 2, 0.1)
    assert curve.auc == pytest.approx(1 / 3, abs=1e-12)


UNIT = np.array([0, 0, 10, 10.0])


def boxes(*offsets: float) -> Array:
    return np.stack([UNIT + np.array([x, 0, x, 0]) for x in offsets])


def test_the_overlap_of_rectangles_is_that_by_hand() -> None:
    overlap = iou(boxes(0, 5, 20), UNIT[None])
    np.testing.assert_allclose(overlap[:, 0], [1, 1 / 3, 0])


def test_a_box_found_twice_is_one_hit_and_one_false_alarm() -> None:
    hit, dropped = matched(boxes(0, 1, 50), boxes(0, 100))
    assert hit.tolist() == [True, False, False]
    assert not dropped.any()
    hit, dropped = matched(boxes(0, 1, 50), boxes(0), ignored=np.array([True]))
    assert (hit.tolist(), dropped.tolist()) == ([False] * 3, [True, True, False])


# Two images, three true boxes; by score: hit, false, hit, false: precisions 1, 1/2, 2/3, 1/2.
DETECTIONS = [(boxes(0, 50), np.array([0.9, 0.8])), (boxes(80, 0), np.array([0.2, 0.7]))]
TRUTHS = [boxes(0), boxes(0, 30)]


def test_average_precision_is_that_by_hand() -> None:
    result = average_precision(DETECTIONS, TRUTHS)
    np.testing.assert_allclose(result.recall, [1 / 3, 1 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(result.precision, [1, 1 / 2, 2 / 3, 1 / 2])
    assert result.value == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    eleven = average_precision(DETECTIONS, TRUTHS, rule="eleven-points")
    assert eleven.value == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)  # recalls 0 .. 0.3, 0.4 .. 0.6


def test_wider_samples_the_same_curve_and_drops_repeated_hits() -> None:
    assert average_precision(DETECTIONS, TRUTHS, rule="wider").value == pytest.approx(5 / 9)
    twice = [(boxes(0, 1), np.array([0.9, 0.8]))]
    assert average_precision(twice, [boxes(0)], rule="wider").precision[-1] == 1
    assert average_precision(twice, [boxes(0)]).precision[-1] == 0.5


def test_average_precision_is_1_0_or_undefined_at_the_ends() -> None:
    nothing = (np.zeros((0, 4)), np.zeros(0))
    for rule in metrics.RULES:
        assert average_precision(
            [(boxes(0), np.ones(1))], [boxes(0)], rule=rule
        ).value == pytest.approx(1)
        assert average_precision([nothing], [boxes(0)], rule=rule).value == 0
        assert np.isnan(average_precision([nothing], [np.zeros((0, 4))], rule=rule).value)
    ignored = average_precision([nothing], [boxes(0, 50)], ignored=[np.array([True, False])])
    assert ignored.value == 0
    found = average_precision(
        [(boxes(50), np.ones(1))], [boxes(0, 50)], ignored=[np.array([True, False])]
    )
    assert found.value == 1
    with pytest.raises(ShapeError, match="1 images of detections, 2"):
        average_precision([nothing], TRUTHS)
    with pytest.raises(OptionError, match="area, eleven-points, wider"):
        average_precision([nothing], [boxes(0)], rule="coco")
