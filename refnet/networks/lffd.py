"""LFFD (He et al. 2019, arXiv:1904.10633): anchor-free detection of faces, heads, pedestrians, plates.

A single trunk of 3×3 convolutions; branches hang on it where its receptive field suits a range of
object sizes. There is no batch norm, no pyramid, no anchor. Facts and names are those of the deploy
graphs of YonghaoHe/LFFD-A-Light-and-Fast-Face-Detector-for-Edge-Devices.

Input is raw BGR, 0 to 255, of any size: the normalisation is the first node. Outputs are, branch by
branch, score_i (N, 1, h, w), the probability of an object, and bbox_i (N, 4, h, w).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refnet.arrays import Array
from refnet.builder import POINTWISE, Builder, Window
from refnet.graph import Graph
from refnet.networks.options import check_choice, check_size, check_width, size_of

DOWN, SAME = Window(3, stride=2), Window(3, padding=1)
RESIDUALS = ("pre-activation", "post-activation")


@dataclass(frozen=True)
class Down:
    """A 3×3 convolution of stride 2 without padding, to `channels`."""

    channels: int


@dataclass(frozen=True)
class Residual:
    """`pairs` residual pairs of 3×3 convolutions with `inner` channels between the two."""

    pairs: int
    inner: int


@dataclass(frozen=True)
class Branch:
    """A detection branch, whose 1×1 head has `channels` channels.

    The objects that each branch is trained for are in `refnet.networks.defaults`.
    """

    channels: int = 128


Layer = Down | Residual | Branch

_VGA_TRUNK: tuple[Layer, ...] = (
    *(Down(64), Down(64), Residual(3, 64), Branch()),
    *(Down(64), Residual(1, 64), Branch()),
    *(Down(64), Residual(1, 64), Branch()),
    *(Down(128), Residual(1, 128), Branch()),
)

LAYERS: dict[str, tuple[Layer, ...]] = {
    "lffd-face-v1": (
        *(Down(64), Down(64), Residual(3, 64), Branch(), Residual(1, 64), Branch()),
        *(Down(64), Residual(1, 64), Branch(), Residual(1, 64), Branch()),
        *(Down(128), Residual(1, 128), Branch()),
        *(Down(128), Residual(1, 128), Branch(), Residual(1, 128), Branch()),
        *(Residual(1, 128), Branch()),
    ),
    "lffd-face-v2": (*_VGA_TRUNK, Down(128), Residual(1, 128), Branch()),
    "lffd-head": _VGA_TRUNK,
    "lffd-pedestrian": (
        *(Down(64), Down(64), Down(64), Residual(4, 64), Branch()),
        *(Down(128), Residual(1, 128), Branch()),
        *(Down(128), Residual(1, 128), Branch()),
        *(Down(128), Residual(1, 128), Branch()),
    ),
    "lffd-plate": (
        *(Down(64), Down(64), Down(64), Down(64), Residual(3, 64), Branch()),
        *(Down(64), Residual(1, 64), Branch()),
        *(Down(128), Residual(1, 128), Branch()),
    ),
    "lffd-plate-small": (
        *(Down(32), Down(32), Down(32), Down(64), Residual(3, 32), Branch(64)),
        *(Down(64), Residual(1, 32), Branch(64)),
        *(Down(128), Residual(1, 64), Branch(64)),
    ),
}


def face_v1(
    width: float = 1.0, input_size: Any = (480, 640), residual: str = "pre-activation"
) -> Graph:
    """The face detector of the paper: 25 layers, 8 branches, faces of 10 to 560 pixels."""
    return _build("lffd-face-v1", width, input_size, residual)


def face_v2(
    width: float = 1.0, input_size: Any = (480, 640), residual: str = "pre-activation"
) -> Graph:
    """The lighter face detector: 20 layers, 5 branches, faces of 10 to 320 pixels."""
    return _build("lffd-face-v2", width, input_size, residual)


def head(width: float = 1.0, input_size: Any = (480, 640)) -> Graph:
    """The head detector: 17 layers, 4 branches, heads of 10 to 160 pixels."""
    return _build("lffd-head", width, input_size)


def pedestrian(width: float = 1.0, input_size: Any = (480, 640)) -> Graph:
    """The pedestrian detector: 20 layers, 4 branches, people of 30 to 320 pixels."""
    return _build("lffd-pedestrian", width, input_size)


def plate(width: float = 1.0, input_size: Any = (480, 640)) -> Graph:
    """The licence-plate detector: 16 layers, 3 branches, plates of 64 to 512 pixels."""
    return _build("lffd-plate", width, input_size)


def plate_small(width: float = 1.0, input_size: Any = (480, 640)) -> Graph:
    """The lighter licence-plate detector: inner widths of 32 and 64."""
    return _build("lffd-plate-small", width, input_size)


class _Trunk(Builder):
    """Convolutions numbered in order; `z` is the running tensor, `a` its rectified form."""

    def __init__(self, input_shape: tuple[int, int, int], width: float) -> None:
        super().__init__(input_shape)
        self.width = width
        self.layer = 0
        self.branch = 0
        self.z = self.a = self.add("normalize", "normalize", "input", mean=127.5, std=127.5)

    def scale(self, channels: int) -> int:
        return int(channels * self.width)

    def relu(self, x: str) -> str:
        return self.add("relu", f"relu_{x}", x)

    def next_conv(self, x: str, channels: int, window: Window) -> str:
        self.layer += 1
        return self.conv(x, f"conv{self.layer}", self.scale(channels), window)

    def down(self, channels: int) -> None:
        self.z = self.next_conv(self.a, channels, DOWN)
        self.a = self.relu(self.z)

    def residual_pair(self, inner: int, residual: str) -> None:
        """Pre-activation carries the un-rectified sum on; post-activation skips from `a` and rectifies.

        conv_b's output count is the trunk's own, whatever the inner count.
        """
        t = self.relu(self.next_conv(self.a, inner, SAME))
        self.layer += 1
        skip = self.z if residual == "pre-activation" else self.a
        t = self.conv(t, f"conv{self.layer}", self.shape[skip][0], SAME)
        self.z = self.add("add", f"sum{self.layer}", skip, t)
        self.a = self.relu(self.z)

    def head(self, channels: int) -> tuple[str, str]:
        """1×1 convolutions on `a`: a shared one, then a tower for the score and one for the box."""
        self.branch += 1
        prefix, count = f"conv{self.layer}", self.scale(channels)
        shared = self.relu(self.conv(self.a, f"{prefix}_1", count, POINTWISE))
        score = self.relu(self.conv(shared, f"{prefix}_2_score", count, POINTWISE))
        logits = self.conv(score, f"{prefix}_3_score", 2, POINTWISE)
        probabilities = self.add("softmax", f"softmax_{self.branch}", logits, axis=1)
        box = self.relu(self.conv(shared, f"{prefix}_2_bbox", count, POINTWISE))
        return (
            self.add("slice", f"score_{self.branch}", probabilities, start=0, stop=1),
            self.conv(box, f"{prefix}_3_bbox", 4, POINTWISE, name=f"bbox_{self.branch}"),
        )


def _build(name: str, width: float, input_size: Any, residual: str | None = None) -> Graph:
    layers: Sequence[Layer] = LAYERS[name]
    width = check_width(name, width, lambda w: int(32 * w) >= 1)
    height, columns = check_size(name, input_size)
    options: dict[str, Any] = {"width": width, "input_size": [height, columns]}
    if residual is not None:
        options["residual"] = check_choice(name, "residual", residual, RESIDUALS)
    net = _Trunk((3, height, columns), width)
    outputs: list[str] = []
    for layer in layers:
        if isinstance(layer, Down):
            net.down(layer.channels)
        elif isinstance(layer, Residual):
            for _ in range(layer.pairs):
                net.residual_pair(layer.inner, residual or "pre-activation")
        else:
            outputs += net.head(layer.channels)
    return net.graph(name, tuple(outputs), options, fixed_size=False)


def options_of(
    name: str, tensors: Mapping[str, Array], hints: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """See `refnet.networks.options_of`: the width from the first layer, the residual from the names."""
    first = tensors.get("conv1.weight")
    if first is not None and any(n.endswith("_3_score.weight") for n in tensors):
        layer = LAYERS[name][0]
        assert isinstance(layer, Down)
        options: dict[str, Any] = {"width": size_of(first, 0) / layer.channels}
        yield options | {key: hints[key] for key in ("residual",) if key in hints}
