"""Losses: values and gradients against torch's automatic ones, and the table of the wing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refnet.errors import OptionError, ShapeError
from refnet.ops import Array
from refnet.training import losses

torch = pytest.importorskip("torch")
twins = pytest.importorskip("parity.losses")

RNG = np.random.default_rng(5)


def torch_gradient(twin: Callable[..., Any], x: Array, *rest: Any) -> tuple[float, Array]:
    leaf = torch.from_numpy(x.copy()).requires_grad_()
    value = twin(leaf, *(torch.from_numpy(r) if isinstance(r, np.ndarray) else r for r in rest))
    value.backward()
    return float(value.detach()), leaf.grad.numpy()


def agree(ours: losses.Loss, theirs: tuple[float, Array]) -> None:
    value, gradient = theirs
    assert ours.value == pytest.approx(value, rel=1e-12)
    assert ours.gradient.dtype == gradient.dtype
    np.testing.assert_allclose(ours.gradient, gradient, rtol=1e-10, atol=1e-12)


# distance, value and slope of the published constants (w = 10, epsilon = 2)
WING = [
    (0.001, 0.0049988, 4.9975),
    (0.01, 0.0498754, 4.9751),
    (0.05, 0.2469261, 4.8780),
    (0.1, 0.4879016, 4.7619),
    (0.5, 2.2314355, 4.0000),
    (1.0, 4.0546511, 3.3333),
]


@pytest.mark.parametrize(("distance", "value", "slope"), WING)
def test_wing_has_the_published_values_and_slopes(
    distance: float, value: float, slope: float
) -> None:
    loss = losses.wing(np.array([[distance]]), np.zeros((1, 1)))
    assert loss.value == pytest.approx(value, abs=5e-8)
    assert loss.gradient[0, 0] == pytest.approx(slope, abs=5e-5)


def test_wing_is_continuous_and_its_constant_is_the_published_one() -> None:
    below = losses.wing(np.array([[10 - 1e-9]]), np.zeros((1, 1))).value
    above = losses.wing(np.array([[10 + 1e-9]]), np.zeros((1, 1))).value
    assert above == pytest.approx(below, abs=1e-8)
    assert 10 - losses.wing(np.array([[10.0]]), np.zeros((1, 1))).value == pytest.approx(
        -7.917594692, abs=1e-9
    )


@pytest.mark.parametrize("constants", [(10.0, 2.0), (0.1, 0.02)])
def test_wing_equals_torch(constants: tuple[float, float]) -> None:
    x, y = RNG.normal(size=(2, 5, 14)) * 8
    ours = losses.wing(x, y, width=constants[0], epsilon=constants[1])
    agree(ours, torch_gradient(twins.wing, x, y, *constants))


@pytest.mark.parametrize("name", ["l1", "l2", "smooth_l1"])
def test_plain_losses_equal_torch(name: str) -> None:
    x, y = RNG.normal(size=(2, 6, 10)) * 2
    agree(getattr(losses, name)(x, y), torch_gradient(getattr(twins, name), x, y))


def test_losses_stay_in_float32() -> None:
    x, y = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    for name in ("wing", "l1", "l2", "smooth_l1"):
        assert getattr(losses, name)(x, y).gradient.dtype == np.float32


@pytest.mark.parametrize("form", ["published", "corrected"])
def test_pfld_equals_torch(form: str) -> None:
    landmarks, target = RNG.random((2, 7, 20))
    angles, target_angles = RNG.normal(size=(2, 7, 3)) * 20
    attributes = (RNG.random((7, 6)) < 0.3).astype(float)
    attributes[0] = 0
    attributes[:, 4] = 0  # a class that nobody has
    ours = losses.pfld(landmarks, target, angles, target_angles, attributes, form=form)
    twin = getattr(twins, f"pfld_{form}")
    value, gradient = torch_gradient(twin, landmarks, target, angles, target_angles, attributes)
    agree(losses.Loss(ours.value, ours.landmarks), (value, gradient))
    value, gradient = torch_gradient(
        lambda a, *rest: twin(rest[0], rest[1], a, rest[2], rest[3]),
        angles,
        landmarks,
        target,
        target_angles,
        attributes,
    )
    agree(losses.Loss(ours.value, ours.angles), (value, gradient))


def test_published_pfld_teaches_nothing_of_ordinary_faces_and_the_corrected_does() -> None:
    x, y = RNG.random((2, 4, 8))
    turn, attributes = np.full((4, 3), 10.0), np.zeros((4, 6))
    assert not losses.pfld(x, y, turn, 0 * turn, attributes).landmarks.any()
    corrected = losses.pfld(x, y, turn, 0 * turn, attributes, form="corrected")
    assert (np.abs(corrected.landmarks) > np.abs(losses.l2(x, y).gradient)).all()


@pytest.mark.parametrize("rule", losses.MINING_RULES)
def test_mining_equals_plain_loops(rule: str) -> None:
    background = RNG.random((2, 6, 7))
    positive = np.zeros(background.shape, bool)
    positive[0, 2, 3:5] = positive[1, 1, 1] = True
    selected = losses.mined(background, positive, rule=rule)
    values = sorted(background[~positive])
    # The coded list starts with the zeros of the three positives: 15 - 3 + 1 negatives stay.
    expected = 15 if rule == "nominal" else 13
    assert selected[positive].all()
    assert sorted(background[selected & ~positive]) == values[:expected]


def test_mining_without_positives_takes_a_tenth() -> None:
    background, nobody = RNG.random((1, 10, 10)), np.zeros((1, 10, 10), bool)
    assert losses.mined(background, nobody, rule="nominal").sum() == 10
    assert losses.mined(background, nobody, rule="coded").sum() == 11


def test_mining_takes_no_more_than_there_are() -> None:
    background, positive = RNG.random((1, 2, 2)), np.array([[[True, True], [True, False]]])
    assert losses.mined(background, positive, rule="nominal").all()
    # Coded: of [0, 0, 0, p] the value at index 1 is 0, so that the one negative stays out.
    assert (losses.mined(background, positive, rule="coded") == positive).all()


@pytest.mark.parametrize("rule", losses.MINING_RULES)
def test_lffd_class_equals_torch(rule: str) -> None:
    logits = RNG.normal(size=(3, 2, 5, 6)) * 3
    face = RNG.random((3, 5, 6)) < 0.1
    mask = face | (RNG.random((3, 5, 6)) < 0.8)
    background = torch.softmax(torch.from_numpy(logits), 1)[:, 1].numpy()
    selected = losses.mined(background, face, rule=rule)
    assert (selected & ~mask).any()  # gray cells are selected, and count in the divisor
    ours = losses.lffd_class(logits, face, mask, rule=rule)
    agree(ours, torch_gradient(twins.lffd_class, logits, face, mask, selected))


@pytest.mark.parametrize("divisor", ["cells", "positives"])
def test_lffd_boxes_equal_torch(divisor: str) -> None:
    x, y = RNG.normal(size=(2, 3, 4, 5, 6))
    mask = RNG.random((3, 5, 6)) < 0.3
    count = float(x.size if divisor == "cells" else 4 * mask.sum())
    agree(
        losses.lffd_boxes(x, y, mask, divisor=divisor),
        torch_gradient(twins.lffd_boxes, x, y, mask, count),
    )


def test_basketnet_losses_equal_torch() -> None:
    logits, labels = RNG.normal(size=(3, 40, 3)), np.zeros((3, 40), np.int64)
    labels[0, [3, 9]], labels[1, 5], labels[:, 20] = (1, 2), 1, -1
    agree(losses.basketnet_class(logits, labels), torch_gradient(twins.basketnet, logits, labels))
    x, y = RNG.normal(size=(2, 3, 40, 4))
    chosen = labels > 0

    def boxes(prediction: Any) -> Any:
        return ((prediction - torch.from_numpy(y))[torch.from_numpy(chosen)] ** 2).sum() / 3

    agree(losses.basketnet_boxes(x, y, labels), torch_gradient(boxes, x))


def test_errors_name_the_shapes_and_the_choices() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 4\) and \(2, 5\)"):
        losses.wing(np.zeros((2, 4)), np.zeros((2, 5)))
    with pytest.raises(OptionError, match="published"):
        x, angles = np.zeros((1, 4)), np.zeros((1, 3))
        losses.pfld(x, x, angles, angles, np.zeros((1, 6)), form="x")
    with pytest.raises(OptionError, match="nominal, coded"):
        losses.mined(np.zeros(3), np.zeros(3, bool), rule="x")
    with pytest.raises(ShapeError, match="2, h, w"):
        losses.lffd_class(
            np.zeros((1, 3, 2, 2)), np.zeros((1, 2, 2), bool), np.ones((1, 2, 2), bool)
        )
