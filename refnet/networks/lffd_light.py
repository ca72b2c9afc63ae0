"""A light face detector after LFFD's idea, of depthwise-separable blocks with a top-down path.

As in LFFD (He et al. 2019, arXiv:1904.10633) there are no anchors: each branch looks for faces of one range
of sizes, and its cells are its anchors. Blocks are a pointwise and a depthwise convolution in this order,
as in YuNet (Wu et al. 2023); coarse maps are enlarged and added to finer ones (Lin et al. 2017,
arXiv:1612.03144), so that small faces are judged with what lies around them.

Input is raw BGR, 0 to 255; height and width are multiples of 64. There is one output a branch, of 15 numbers
a cell: the logit of a face, four edges and five points, see `refnet.detection.light`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from refnet.arrays import Array
from refnet.builder import POINTWISE, Builder, Window
from refnet.graph import Graph
from refnet.networks.options import check_choice, check_multiple, check_width, size_of
from refnet.networks.pfld import FORMS

STEM = Window(3, stride=2, padding=1)
#: A branch's map: logit, left, top, right and bottom edge, x and y of five points.
NUMBERS = 15


class Stage(NamedTuple):
    """Blocks at one scale, half of the one before: output channels at width 1."""

    blocks: tuple[int, ...]
    branch: bool = False  # whether faces are looked for here


STEM_CHANNELS, STEM_BLOCK, NECK = 16, 32, 64
STAGES = (
    Stage((48, 64)),
    Stage((64,) * 4, branch=True),
    Stage((96,) * 5, branch=True),
    Stage((112,) * 4, branch=True),
    Stage((128,) * 3, branch=True),
)
#: Blocks of a branch after its map has met the coarser ones.
HEAD_BLOCKS = 2
#: The branches' strides in pixels.
STRIDES = (8, 16, 32, 64)


class _Blocks(Builder):
    def relu(self, x: str) -> str:
        return self.add("relu", f"{x}.relu", x)

    def separable(self, x: str, prefix: str, channels: int) -> str:
        """1×1 convolution, 3×3 depthwise convolution, batch norm, ReLU."""
        x = self.conv(x, f"{prefix}.pointwise", channels, POINTWISE, bias=False)
        window = Window(3, padding=1, groups=channels)
        return self.relu(
            self.conv_norm(x, f"{prefix}.depthwise", f"{prefix}.norm", channels, window)
        )

    def reduced(self, x: str, prefix: str, channels: int) -> str:
        """3×3 depthwise convolution of stride 2, 1×1 convolution, batch norm, ReLU.

        In this order, and only here: the largest maps have half the channels of `separable`'s.
        """
        inner = self.shape[x][0]
        window = Window(3, stride=2, padding=1, groups=inner)
        x = self.conv(x, f"{prefix}.depthwise", inner, window, bias=False)
        return self.relu(
            self.conv_norm(x, f"{prefix}.pointwise", f"{prefix}.norm", channels, POINTWISE)
        )

    def halved(self, x: str, name: str) -> str:
        return self.add("max_pool", name, x, kernel=(2, 2), stride=(2, 2), padding=(0, 0))


def lffd_light(width: float = 1.0, input_size: Any = (512, 640), form: str = "training") -> Graph:
    """The light face detector: 4 branches at strides 8 to 64, faces from 8 pixels up, five points each."""
    name = "lffd-light"
    width = check_width(name, width, lambda w: int(STEM_CHANNELS * w) >= 1)
    size = check_multiple(name, input_size, STRIDES[-1])
    form = check_choice(name, "form", form, FORMS)

    def scaled(channels: int) -> int:
        return int(channels * width)

    net = _Blocks((3, *size), form)
    x = net.add("normalize", "normalize", "input", mean=128.0, std=128.0)
    x = net.relu(net.conv_norm(x, "stem.conv", "stem.norm", scaled(STEM_CHANNELS), STEM))
    x = net.reduced(x, "stem.reduce", scaled(STEM_BLOCK))
    maps: list[str] = []
    for number, stage in enumerate(STAGES, start=1):
        if number > 1:  # the stem has made the first stage's scale
            x = net.halved(x, f"stage{number}.pool")
        for block, channels in enumerate(stage.blocks, start=1):
            x = net.separable(x, f"stage{number}.block{block}", scaled(channels))
        if stage.branch:
            maps.append(x)
    outputs: list[str] = []
    above: str | None = None
    for number in range(len(maps), 0, -1):  # from coarse to fine
        x = net.conv(maps[number - 1], f"branch{number}.lateral", scaled(NECK), POINTWISE)
        if above is not None:
            larger = net.add("upsample", f"branch{number}.upsample", above, factor=(2, 2))
            x = net.add("add", f"branch{number}.sum", x, larger)
        above = net.separable(x, f"branch{number}.merge", scaled(NECK))
        x = above
        for block in range(1, HEAD_BLOCKS + 1):
            x = net.separable(x, f"branch{number}.head{block}", scaled(NECK))
        outputs.append(
            net.conv(x, f"branch{number}.output", NUMBERS, POINTWISE, name=f"branch_{number}")
        )
    options = {"width": width, "input_size": list(size), "form": form}
    return net.graph(name, tuple(reversed(outputs)), options, fixed_size=False)


def options_of(
    name: str, tensors: Mapping[str, Array], hints: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """See `refnet.networks.options_of`: the width from the first layer, the form from its norm."""
    first = tensors.get("stem.conv.weight")
    if first is not None and f"branch{len(STRIDES)}.output.weight" in tensors:
        form = "training" if "stem.norm.running_mean" in tensors else "inference"
        yield {"width": size_of(first, 0) / STEM_CHANNELS, "form": form}
