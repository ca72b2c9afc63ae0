"""The Ghost descendants of PFLD: facial landmarks with half of the channels made by a cheap filter.

A Ghost module (Han et al. 2020, arXiv:1911.11907) makes half of its channels by a 1×1 convolution and
the other half from those by a 3×3 depthwise one. GhostOne replaces every convolution by a MobileOne
block (Vasu et al. 2022, arXiv:2206.04040): parallel linear branches in training, one convolution in
inference. Five scales feed the last layer. Input is BGR scaled to [-1, 1].

    pfld-ultralight, pfld-ultralight-slim   AnthonyF333/FaceLandmark_PFLD_UltraLight
                                            ("GhostNet" and "GhostNet_Slim" in PFLD_GhostOne)
    pfld-ghostone                           AnthonyF333/PFLD_GhostOne
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from refnet.arrays import Array
from refnet.builder import POINTWISE, Window
from refnet.graph import Graph
from refnet.networks.options import check_choice, check_count, check_square, check_width
from refnet.networks.pfld import FORMS, Blocks, landmark_options, options_in_order

__all__ = [
    "options_in_order",
    "options_of",
    "pfld_ghostone",
    "pfld_ultralight",
    "pfld_ultralight_slim",
]


class Bottleneck(NamedTuple):
    """A row of the table: channel counts at width 1."""

    name: str
    channels: int
    stride: int
    hidden: int
    hidden_slim: int  # also those of GhostOne


BLOCKS = (
    Bottleneck("conv3_1", 80, 2, 128, 96),
    Bottleneck("conv3_2", 80, 1, 160, 120),
    Bottleneck("conv3_3", 80, 1, 160, 120),
    Bottleneck("conv4_1", 96, 2, 240, 200),
    Bottleneck("conv4_2", 96, 1, 288, 240),
    Bottleneck("conv4_3", 96, 1, 288, 240),
    Bottleneck("conv5_1", 144, 2, 384, 336),
    Bottleneck("conv5_2", 144, 1, 576, 504),
    Bottleneck("conv5_3", 144, 1, 576, 504),
    Bottleneck("conv5_4", 144, 1, 576, 504),
    Bottleneck("conv6", 16, 1, 288, 216),
)
TAPS = ("conv3_3", "conv4_3", "conv5_4")  # the last block of each stage feeds the last layer
OVERPARAMETERISED_BRANCHES = 6


class GhostBlocks(Blocks):
    """Ghost modules and bottlenecks of plain convolutions."""

    shortcut = True

    def ghost_conv(
        self, x: str, prefix: str, channels: int, window: Window, *, linear: bool
    ) -> str:
        """One convolution of a Ghost module."""
        return self.conv_block(x, prefix, channels, window, linear=linear)

    def ghost_module(self, x: str, name: str, channels: int, *, linear: bool) -> str:
        """⌈channels / 2⌉ by a 1×1 convolution, as many by a depthwise one of those, cut to `channels`."""
        half = (channels + 1) // 2
        primary = self.ghost_conv(x, f"{name}.primary_conv", half, POINTWISE, linear=linear)
        cheap = self.ghost_conv(
            primary, f"{name}.cheap_operation", half, Window(3, 1, 1, half), linear=linear
        )
        y = self.add("concat", name, primary, cheap, axis=1)
        if 2 * half == channels:
            return y
        return self.add("slice", f"{name}.cut", y, start=0, stop=channels)

    def ghost_bottleneck(self, x: str, name: str, hidden: int, channels: int, stride: int) -> str:
        """Ghost module up, depthwise stride, Ghost module down; plus a shortcut where there is one."""
        prefix = f"{name}.ghost_conv"
        y = self.ghost_module(x, f"{prefix}.0", hidden, linear=False)
        if stride == 2:
            y = self.ghost_conv(y, f"{prefix}.1", hidden, Window(3, 2, 1, hidden), linear=True)
        y = self.ghost_module(y, f"{prefix}.2", channels, linear=True)
        if not self.shortcut:
            return y
        taken = self.shape[x][0]
        if stride == 1 and taken == channels:
            return self.add("add", name, y, x)
        s = self.conv_block(
            x, f"{name}.shortcut.0", taken, Window(3, stride, 1, taken), linear=True
        )
        s = self.conv_block(s, f"{name}.shortcut.1", channels, POINTWISE, linear=True)
        return self.add("add", name, y, s)


class GhostOneBlocks(GhostBlocks):
    """The same of MobileOne blocks, without shortcuts."""

    shortcut = False

    def ghost_conv(
        self, x: str, prefix: str, channels: int, window: Window, *, linear: bool
    ) -> str:
        if self.form == "inference":
            y = self.conv(x, f"{prefix}.reparam_conv", channels, window)
        else:
            y = self.add("add", f"{prefix}.sum", *self._branches(x, prefix, channels, window))
        return y if linear else self.activate(y, f"{prefix}.act")

    def _branches(self, x: str, prefix: str, channels: int, window: Window) -> list[str]:
        """A norm of the input where shapes allow, six equal convolutions, a 1×1 one if k > 1."""
        branches = []
        if self.shape[x][0] == channels and window.stride == 1:
            branches.append(self.batch_norm(x, f"{prefix}.rbr_skip"))
        windows = {f"rbr_conv.{i}": window for i in range(OVERPARAMETERISED_BRANCHES)}
        if window.kernel > 1:
            windows["rbr_scale"] = Window(1, window.stride, 0, window.groups)
        for branch, own in windows.items():
            conv, norm = f"{prefix}.{branch}.conv", f"{prefix}.{branch}.bn"
            branches.append(self.conv_norm(x, conv, norm, channels, own))
        return branches


def pfld_ultralight(
    width: float = 1.0, input_size: Any = 112, landmarks: int = 98, form: str = "training"
) -> Graph:
    """PFLD_Ultralight, also published as PFLD_GhostNet."""
    return _build("pfld-ultralight", width, input_size, landmarks, form)


def pfld_ultralight_slim(
    width: float = 1.0, input_size: Any = 112, landmarks: int = 98, form: str = "training"
) -> Graph:
    """PFLD_Ultralight_Slim, also published as PFLD_GhostNet_Slim: narrower hidden layers."""
    return _build("pfld-ultralight-slim", width, input_size, landmarks, form)


def pfld_ghostone(
    width: float = 1.0, input_size: Any = 112, landmarks: int = 98, form: str = "training"
) -> Graph:
    """PFLD_GhostOne: the slim widths, MobileOne blocks, no shortcuts."""
    return _build("pfld-ghostone", width, input_size, landmarks, form)


def _build(name: str, width: float, input_size: Any, landmarks: int, form: str) -> Graph:
    def scale(channels: int) -> int:
        return int(channels * width)

    ghostone = name == "pfld-ghostone"
    slim = name != "pfld-ultralight"
    hidden = {b.name: b.hidden_slim if slim else b.hidden for b in BLOCKS}
    parts = (64, 80, 96, 144, 128)

    def fits(w: float) -> bool:
        # A GhostOne module is not cut to size, so an odd count would come out one channel too wide.
        even = not ghostone or all(
            int(c * w) % 2 == 0 for b in BLOCKS for c in (b.channels, hidden[b.name])
        )
        return even and int(512 * w) == sum(int(c * w) for c in parts) and int(16 * w) > 0

    width = check_width(name, width, fits)
    size = check_square(name, input_size, 16)
    check_count(name, "landmarks", landmarks)
    check_choice(name, "form", form, FORMS)
    net = (GhostOneBlocks if ghostone else GhostBlocks)((3, size, size), form)

    x = net.ghost_conv("input", "conv1", scale(64), Window(3, 2, 1), linear=False)
    x = net.ghost_conv(x, "conv2", scale(64), Window(3, 1, 1, scale(64)), linear=False)
    taps = [x]
    for block in BLOCKS:
        x = net.ghost_bottleneck(
            x, block.name, scale(hidden[block.name]), scale(block.channels), block.stride
        )
        if block.name in TAPS:
            taps.append(x)
    x = net.ghost_conv(x, "conv7", scale(32), Window(3, 1, 1), linear=False)
    x = net.activate(net.conv(x, "conv8.0", scale(128), Window(size // 16), bias=False), "conv8.2")

    scales = [net.global_average(tap, f"avg_pool{i}") for i, tap in enumerate(taps, 1)]
    output = net.landmarks([*scales, net.add("flatten", "conv8.flat", x)], landmarks)
    options = {"width": width, "input_size": size, "landmarks": landmarks, "form": form}
    return net.graph(name, (output,), options, fixed_size=True)


def options_of(
    name: str, tensors: Mapping[str, Array], hints: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """See `refnet.networks.options_of`."""
    first = "conv1.0.weight"
    if name == "pfld-ghostone":
        training = hints["form"] == "training"
        block = "rbr_conv.0.conv" if training else "reparam_conv"
        first = f"conv1.{block}.weight"
    return landmark_options(tensors, hints["form"], first, "conv8.0.weight")
