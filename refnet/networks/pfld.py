"""PFLD (Guo et al. 2019, arXiv:1902.10859) and its multi-scale descendant: facial landmarks.

An inverted residual (Sandler et al. 2018) expands channels by t, filters them depthwise, projects
them back. Every channel count is int(base · width). Outputs are 2·landmarks numbers x0, y0, x1, ...
as fractions of the crop's side.

    pfld                    the network of AnthonyF333/FaceLandmark_PFLD_UltraLight
    pfld-msfc               its "multi-scale fully connected" variant: five scales feed the last layer
    pfld-polaris            the network of polarisZhao/PFLD-pytorch, with two outputs
    pfld-polaris-auxiliary  the pose branch that helps to train it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from refnet.arrays import Array
from refnet.builder import POINTWISE, Builder, Window
from refnet.graph import Graph
from refnet.networks.options import check_choice, check_count, check_square, check_width, size_of

FORMS = ("training", "inference")


class Blocks(Builder):
    """The blocks of the PFLD family, under the parameter names of their first implementation."""

    activation = "relu"

    def activate(self, x: str, name: str) -> str:
        """The network's activation."""
        return self.add(self.activation, name, x)

    def conv_block(
        self, x: str, prefix: str, channels: int, window: Window, *, linear: bool = False
    ) -> str:
        """Convolution, batch norm and, unless `linear`, activation."""
        y = self.conv_norm(x, f"{prefix}.0", f"{prefix}.1", channels, window)
        return y if linear else self.activate(y, f"{prefix}.2")

    def inverted_residual(
        self, x: str, name: str, channels: int, *, stride: int, expansion: int, residual: bool
    ) -> str:
        """1×1 expand, 3×3 depthwise, 1×1 project (linear); plus `x` if `residual`."""
        hidden = self.shape[x][0] * expansion
        prefix = f"{name}.inv_res"
        y = self.conv_block(x, f"{prefix}.0", hidden, POINTWISE)
        y = self.conv_block(y, f"{prefix}.1", hidden, Window(3, stride, 1, hidden))
        y = self.conv_block(y, f"{prefix}.2", channels, POINTWISE, linear=True)
        return self.add("add", name, x, y) if residual else y

    def landmarks(self, features: Sequence[str], landmarks: int) -> str:
        """Concatenate feature vectors and map them to 2·landmarks coordinates."""
        joined = self.add("concat", "features", *features, axis=1)
        return self.linear(joined, "fc", 2 * landmarks, name="landmarks")


def pfld(
    width: float = 1.0, input_size: Any = 112, landmarks: int = 98, form: str = "training"
) -> Graph:
    """PFLD with its depthwise conv2: input BGR scaled to [-1, 1]."""
    name = "pfld"

    def scale(channels: int) -> int:
        return int(channels * width)

    width = check_width(
        name, width, lambda w: 0 < int(16 * w) == int(176 * w) - int(32 * w) - int(128 * w)
    )
    size = check_square(name, input_size, 16)
    check_count(name, "landmarks", landmarks)
    net = Blocks((3, size, size), check_choice(name, "form", form, FORMS))

    x = net.conv_block("input", "conv1", scale(64), Window(3, 2, 1))
    x = net.conv_block(x, "conv2", scale(64), Window(3, 1, 1, scale(64)))
    for i in range(1, 6):
        x = net.inverted_residual(
            x, f"conv3_{i}", scale(64), stride=2 if i == 1 else 1, expansion=2, residual=i > 1
        )
    x = net.inverted_residual(x, "conv4", scale(128), stride=2, expansion=2, residual=False)
    for i in range(1, 7):
        x = net.inverted_residual(
            x, f"conv5_{i}", scale(128), stride=1, expansion=4, residual=i > 1
        )
    s1 = net.inverted_residual(x, "conv6", scale(16), stride=1, expansion=2, residual=False)
    s2 = net.conv_block(s1, "conv7", scale(32), Window(3, 2, 1))
    s3 = net.activate(
        net.conv(s2, "conv8.0", scale(128), Window(size // 16), bias=False), "conv8.2"
    )

    scales = [net.global_average(s1, "avg_pool1"), net.global_average(s2, "avg_pool2")]
    output = net.landmarks([*scales, net.add("flatten", "conv8.flat", s3)], landmarks)
    options = {"width": width, "input_size": size, "landmarks": landmarks, "form": form}
    return net.graph(name, (output,), options, fixed_size=True)


def pfld_msfc(
    width: float = 1.0, input_size: Any = 112, landmarks: int = 98, form: str = "training"
) -> Graph:
    """PFLD with five scales joined before the last layer: input BGR scaled to [-1, 1].

    Published as a table only; stride, taps and names follow the author's later networks.
    """
    name = "pfld-msfc"

    def scale(channels: int) -> int:
        return int(channels * width)

    parts = (64, 64, 96, 144, 128)
    width = check_width(
        name, width, lambda w: int(16 * w) > 0 and int(496 * w) == sum(int(c * w) for c in parts)
    )
    size = check_square(name, input_size, 16)
    check_count(name, "landmarks", landmarks)
    net = Blocks((3, size, size), check_choice(name, "form", form, FORMS))

    x = net.conv_block("input", "conv1", scale(64), Window(3, 2, 1))
    x = net.conv_block(x, "conv2", scale(64), Window(3, 1, 1, scale(64)))
    taps = [x]
    for stage, expansion, channels, repeats in ((3, 2, 64, 3), (4, 3, 96, 3), (5, 4, 144, 4)):
        for i in range(1, repeats + 1):
            x = net.inverted_residual(
                x,
                f"conv{stage}_{i}",
                scale(channels),
                stride=2 if i == 1 else 1,
                expansion=expansion,
                residual=i > 1,
            )
        taps.append(x)
    x = net.inverted_residual(x, "conv6", scale(16), stride=1, expansion=2, residual=False)
    x = net.conv_block(x, "conv7", scale(32), Window(3, 1, 1))
    x = net.activate(net.conv(x, "conv8.0", scale(128), Window(size // 16), bias=False), "conv8.2")

    scales = [net.global_average(tap, f"avg_pool{i}") for i, tap in enumerate(taps, 1)]
    output = net.landmarks([*scales, net.add("flatten", "conv8.flat", x)], landmarks)
    options = {"width": width, "input_size": size, "landmarks": landmarks, "form": form}
    return net.graph(name, (output,), options, fixed_size=True)


class PolarisBlocks(Blocks):
    """The same blocks under polarisZhao/PFLD-pytorch's parameter names."""

    def inverted_residual(
        self, x: str, name: str, channels: int, *, stride: int, expansion: int, residual: bool
    ) -> str:
        hidden = self.shape[x][0] * expansion
        y = self.conv_norm(x, f"{name}.conv.0", f"{name}.conv.1", hidden, POINTWISE)
        y = self.activate(y, f"{name}.conv.2")
        filters = Window(3, stride, 1, hidden)
        y = self.conv_norm(y, f"{name}.conv.3", f"{name}.conv.4", hidden, filters)
        y = self.activate(y, f"{name}.conv.5")
        y = self.conv_norm(y, f"{name}.conv.6", f"{name}.conv.7", channels, POINTWISE)
        return self.add("add", name, x, y) if residual else y


def pfld_polaris(
    width: float = 1.0,
    input_size: Any = 112,
    landmarks: int = 98,
    activation: str = "relu",
    bn8: str = "ignored",
    conv2: str = "dense",
    form: str = "training",
) -> Graph:
    """polarisZhao's PFLD: outputs (the 28×28 features that the pose branch reads, landmarks).

    Input is BGR scaled to [0, 1], 112×112 only. `width` scales the trunk (64 and 128 channels); the
    tail is always 16, 32, 128. Published code has activation "relu", a dense conv2, and a bn8 in the
    checkpoint that nothing reads; trained files with "relu6", a "depthwise" conv2 and bn8 "applied"
    after conv8 exist.
    """
    name = "pfld-polaris"

    def scale(channels: int) -> int:
        return int(channels * width)

    width = check_width(name, width, lambda w: int(64 * w) >= 1)
    size = check_square(name, input_size, 112)
    if size != 112:
        check_choice(name, "input_size", size, ("112",))
    check_count(name, "landmarks", landmarks)
    check_choice(name, "bn8", bn8, ("ignored", "applied"))
    check_choice(name, "conv2", conv2, ("dense", "depthwise"))
    net = PolarisBlocks((3, size, size), check_choice(name, "form", form, FORMS))
    net.activation = check_choice(name, "activation", activation, ("relu", "relu6"))

    x = net.conv_norm("input", "conv1", "bn1", scale(64), Window(3, 2, 1))
    x = net.activate(x, "conv1.act")
    groups = scale(64) if conv2 == "depthwise" else 1
    x = net.conv_norm(x, "conv2", "bn2", scale(64), Window(3, 1, 1, groups))
    x = net.activate(x, "conv2.act")
    for i in range(1, 6):
        block = "conv3_1" if i == 1 else f"block3_{i}"
        x = net.inverted_residual(
            x, block, scale(64), stride=2 if i == 1 else 1, expansion=2, residual=i > 1
        )
    features = x
    x = net.inverted_residual(x, "conv4_1", scale(128), stride=2, expansion=2, residual=False)
    for i in range(1, 7):
        block = "conv5_1" if i == 1 else f"block5_{i}"
        x = net.inverted_residual(x, block, scale(128), stride=1, expansion=4, residual=i > 1)
    s1 = net.inverted_residual(x, "conv6_1", 16, stride=1, expansion=2, residual=False)
    s2 = net.conv_norm(s1, "conv7.0", "conv7.1", 32, Window(3, 2, 1))
    s2 = net.activate(s2, "conv7.2")
    s3 = net.conv(s2, "conv8", 128, Window(size // 16))
    if bn8 == "applied" and form == "training":
        s3 = net.batch_norm(s3, "bn8")
    elif bn8 == "ignored" and form == "training":
        roles = ("weight", "bias", "running_mean", "running_var")
        net.state_dict.update({f"bn8.{role}": (128,) for role in roles})
        net.state_dict["bn8.num_batches_tracked"] = ()
    s3 = net.activate(s3, "conv8.act")

    scales = [net.global_average(s1, "avg_pool1"), net.global_average(s2, "avg_pool2")]
    output = net.landmarks([*scales, net.add("flatten", "conv8.flat", s3)], landmarks)
    options = {
        "width": width,
        "input_size": size,
        "landmarks": landmarks,
        "activation": activation,
        "bn8": bn8,
        "conv2": conv2,
        "form": form,
    }
    return net.graph(name, (features, output), options, fixed_size=True)


def pfld_polaris_auxiliary(width: float = 1.0, form: str = "training") -> Graph:
    """The pose branch of polarisZhao's PFLD: features (int(64·width), 28, 28) to three Euler angles."""
    name = "pfld-polaris-auxiliary"
    width = check_width(name, width, lambda w: int(64 * w) >= 1)
    net = Blocks((int(64 * width), 28, 28), check_choice(name, "form", form, FORMS))
    x = net.conv_block("input", "conv1", 128, Window(3, 2, 1))
    x = net.conv_block(x, "conv2", 128, Window(3, 1, 1))
    x = net.conv_block(x, "conv3", 32, Window(3, 2, 1))
    x = net.conv_block(x, "conv4", 128, Window(7, 1, 1))
    x = net.add("max_pool", "maxpool1", x, kernel=(3, 3), stride=(3, 3), padding=(0, 0))
    x = net.linear(net.add("flatten", "maxpool1.flat", x), "fc1", 32)
    output = net.linear(x, "fc2", 3, name="angles")
    return net.graph(name, (output,), {"width": width, "form": form}, fixed_size=True)


# --- what a checkpoint's tensors say


def options_of(
    name: str, tensors: Mapping[str, Array], hints: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """See `refnet.networks.options_of`.

    Of `pfld-polaris`, bn8 is "applied" if its running statistics were ever updated.
    """
    form = hints["form"]
    if name == "pfld-polaris-auxiliary":
        first = tensors.get("conv1.0.weight")
        if first is not None and "fc2.weight" in tensors:
            yield {"width": size_of(first, 1) / 64, "form": form}
    elif name == "pfld-polaris":
        # Its conv8 has the same width at every `width`, so that only conv1 tells.
        for options in landmark_options(tensors, form, "conv1.weight", "conv8.weight", tail=False):
            options["conv2"] = _conv2(tensors.get("conv2.weight"))
            if form == "training":
                options["bn8"] = "applied" if _is_trained(tensors, "bn8") else "ignored"
            yield options
    else:
        yield from landmark_options(tensors, form, "conv1.0.weight", "conv8.0.weight")


def landmark_options(
    tensors: Mapping[str, Array], form: str, first: str, last: str, *, tail: bool = True
) -> Iterator[dict[str, Any]]:
    """Options of a landmark network: input size from conv8, points from fc, width from conv1.

    Args:
        first, last: names of the weights of conv1 and conv8.
        tail: propose the width of conv8 too, for where rounding hides it in conv1.
    """
    if not all(name in tensors for name in (first, last, "fc.weight")):
        return
    widths = [size_of(tensors[first], 0) / 64, size_of(tensors[last], 0) / 128]
    for width in dict.fromkeys(widths if tail else widths[:1]):
        yield {
            "width": width,
            "input_size": 16 * size_of(tensors[last], 2),
            "landmarks": size_of(tensors["fc.weight"], 0) // 2,
            "form": form,
        }


def options_in_order(
    name: str, layers: Sequence[tuple[str, Array]], operators: str
) -> dict[str, Any] | None:
    """See `refnet.networks.options_in_order`: each graph of the family is one chain."""
    convolutions = [weight for op, weight in layers if op == "conv"]
    if len(convolutions) < 2:
        return None
    first, last = layers[0][1], layers[-1][1]
    if name == "pfld-polaris-auxiliary":
        return {"width": size_of(first, 1) / 64, "form": "inference"}
    options: dict[str, Any] = {
        "width": size_of(first, 0) / 64,
        "input_size": 16 * size_of(convolutions[-1], 2),
        "landmarks": size_of(last, 0) // 2,
        "form": "inference",
    }
    if name == "pfld-polaris":
        activation = "relu6" if "Clip=" in operators else "relu"
        options |= {"activation": activation, "conv2": _conv2(convolutions[1])}
    return options


def _conv2(weight: Array | None) -> str:
    return "depthwise" if weight is not None and size_of(weight, 1) == 1 else "dense"


def _is_trained(tensors: Mapping[str, Array], norm: str) -> bool:
    """Whether the running statistics of a batch norm have left their initial 0 and 1."""
    mean, variance = tensors.get(f"{norm}.running_mean"), tensors.get(f"{norm}.running_var")
    return bool(
        mean is not None and variance is not None and (np.any(mean != 0) or np.any(variance != 1))
    )
