"""What networks expect and mean: complete, true to their graphs, and exact to the last bit."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import refnet
from refnet.detection.detector import HEADS
from refnet.errors import OptionError
from refnet.fields.branches import branches
from refnet.networks.defaults import (
    DEFAULTS,
    DETECTOR,
    LANDMARKER,
    NEUTRAL,
    Preprocessing,
    defaults_of,
    detection_of,
)

EVERY_VALUE = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)


def test_every_network_is_listed() -> None:
    assert set(DEFAULTS) == set(refnet.networks())
    assert {DETECTOR, LANDMARKER} <= set(DEFAULTS)


@pytest.mark.parametrize("name", refnet.networks())
def test_records_agree_with_the_graphs(name: str) -> None:
    graph, defaults = refnet.build(name), defaults_of(name)
    assert defaults_of(graph) is defaults
    assert defaults.any_size is not graph.fixed_size
    if defaults.detection is not None:
        assert len(defaults.detection.object_ranges) == len(branches(graph))
        assert defaults.detection.head in HEADS


def test_networks_of_ones_own_are_neutral() -> None:
    graph = replace(refnet.build("tinynet"), name="mine")
    assert defaults_of(graph) is defaults_of("mine") is NEUTRAL
    with pytest.raises(OptionError, match="mine detects nothing; use one of lffd-face-v1"):
        detection_of(graph)
    assert detection_of(graph, DEFAULTS["lffd-head"]).classes == ("head",)


@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [
        ("lffd-face-v2", lambda x: x.astype(np.float32)),
        ("basketnet", lambda x: x / np.float32(255)),
        ("pfld-polaris", lambda x: x * np.float32(1 / 255)),
        ("pfld", lambda x: x * np.float32(2 / 255) + np.float32(-1)),
        ("tinynet", lambda x: x * np.float32(1 / 255)),
    ],
)
def test_each_network_keeps_its_arithmetic(
    name: str, arithmetic: Callable[[np.ndarray], np.ndarray]
) -> None:
    found = defaults_of(name).preprocessing.apply(EVERY_VALUE)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, arithmetic(EVERY_VALUE).transpose(0, 3, 1, 2))


def test_dividing_is_not_multiplying_by_the_inverse() -> None:
    """Why there are two factors."""
    divided, scaled = Preprocessing(divide=255.0), Preprocessing(scale=1 / 255)
    assert (divided.apply(EVERY_VALUE) != scaled.apply(EVERY_VALUE)).any()


def test_channels_come_first_and_in_the_networks_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    for order, step in (("bgr", 1), ("rgb", -1)):
        found = Preprocessing(order).apply(images)
        np.testing.assert_array_equal(found, images[..., ::step].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(Preprocessing(order).apply(list(images)), found)
        assert found.flags.c_contiguous and found.flags.writeable
    with pytest.raises(OptionError, match="'bgr' or 'rgb'"):
        Preprocessing("gbr")
