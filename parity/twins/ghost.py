"""Torch twins of the PFLDs made of Ghost modules: Ultralight, Ultralight-Slim and GhostOne.

Facts from the repositories FaceLandmark_PFLD_UltraLight and PFLD_GhostOne (where the first two are
called GhostNet and GhostNet_Slim), whose state-dict names these modules carry; the blocks are those
of GhostNet (arXiv:1911.11907) and MobileOne (arXiv:2206.04040).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from parity.twins.pfld import ConvBlock, LandmarkNet

#               name       in   out  stride
OUTLINE = {
    "conv3_1": (64, 80, 2),
    "conv3_2": (80, 80, 1),
    "conv3_3": (80, 80, 1),
    "conv4_1": (80, 96, 2),
    "conv4_2": (96, 96, 1),
    "conv4_3": (96, 96, 1),
    "conv5_1": (96, 144, 2),
    "conv5_2": (144, 144, 1),
    "conv5_3": (144, 144, 1),
    "conv5_4": (144, 144, 1),
    "conv6": (144, 16, 1),
}
ULTRALIGHT = (128, 160, 160, 240, 288, 288, 384, 576, 576, 576, 288)
SLIM = (96, 120, 120, 200, 240, 240, 336, 504, 504, 504, 216)


class GhostModule(nn.Module):
    """Half of the channels by a pointwise conv, the other half from those by a depthwise conv."""

    def __init__(self, cin: int, cout: int, *, relu: bool, folded: bool) -> None:
        super().__init__()
        half = -(-cout // 2)
        self.cout = cout
        self.primary_conv = ConvBlock(cin, half, 1, 1, 0, relu=relu, folded=folded)
        self.cheap_operation = ConvBlock(half, half, 3, 1, 1, groups=half, relu=relu, folded=folded)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary_conv(x)
        return torch.cat([primary, self.cheap_operation(primary)], 1)[:, : self.cout]


class GhostBottleneck(nn.Module):
    """Two Ghost modules with a strided depthwise conv between them where the map shrinks."""

    def __init__(self, cin: int, hidden: int, cout: int, stride: int, *, folded: bool) -> None:
        super().__init__()
        down: nn.Module = nn.Sequential()
        if stride == 2:
            down = ConvBlock(hidden, hidden, 3, 2, 1, groups=hidden, relu=False, folded=folded)
        self.ghost_conv = nn.Sequential(
            GhostModule(cin, hidden, relu=True, folded=folded),
            down,
            GhostModule(hidden, cout, relu=False, folded=folded),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(
                ConvBlock(cin, cin, 3, stride, 1, groups=cin, relu=False, folded=folded),
                ConvBlock(cin, cout, 1, 1, 0, relu=False, folded=folded),
            )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.ghost_conv(x) + self.shortcut(x)
        return y


class ConvNorm(nn.Module):
    """One linear branch of a MobileOne block: `conv` without bias, then `bn`."""

    def __init__(
        self, cin: int, cout: int, kernel: int, stride: int, padding: int, groups: int
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


class MobileOneBlock(nn.Module):
    """A sum of linear branches in training, one conv with bias once re-parameterised."""

    BRANCHES = 6

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        stride: int,
        padding: int,
        *,
        groups: int = 1,
        relu: bool = True,
        folded: bool = False,
    ) -> None:
        super().__init__()
        self.activation = nn.ReLU() if relu else nn.Sequential()
        self.folded = folded
        if folded:
            self.reparam_conv = nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups)
            return
        self.rbr_skip = nn.BatchNorm2d(cin) if cin == cout and stride == 1 else None
        self.rbr_conv = nn.ModuleList(
            ConvNorm(cin, cout, kernel, stride, padding, groups) for _ in range(self.BRANCHES)
        )
        self.rbr_scale = ConvNorm(cin, cout, 1, stride, 0, groups) if kernel > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.folded:
            total = self.reparam_conv(x)
        else:
            branches = [*self.rbr_conv, self.rbr_scale, self.rbr_skip]
            total = sum(branch(x) for branch in branches if branch is not None)
        y: Tensor = self.activation(total)
        return y


class GhostOneModule(nn.Module):
    """A Ghost module of two MobileOne blocks; it never cuts the channel that an odd width adds."""

    def __init__(self, cin: int, cout: int, *, relu: bool, folded: bool) -> None:
        super().__init__()
        half = -(-cout // 2)
        self.primary_conv = MobileOneBlock(cin, half, 1, 1, 0, relu=relu, folded=folded)
        self.cheap_operation = MobileOneBlock(
            half, half, 3, 1, 1, groups=half, relu=relu, folded=folded
        )

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary_conv(x)
        return torch.cat([primary, self.cheap_operation(primary)], 1)


class GhostOneBottleneck(nn.Module):
    """Two GhostOne modules, a strided depthwise block between them, and no skip at all."""

    def __init__(self, cin: int, hidden: int, cout: int, stride: int, *, folded: bool) -> None:
        super().__init__()
        down: nn.Module = nn.Sequential()
        if stride == 2:
            down = MobileOneBlock(hidden, hidden, 3, 2, 1, groups=hidden, relu=False, folded=folded)
        self.ghost_conv = nn.Sequential(
            GhostOneModule(cin, hidden, relu=True, folded=folded),
            down,
            GhostOneModule(hidden, cout, relu=False, folded=folded),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.ghost_conv(x)
        return y


class GhostLandmarkNet(LandmarkNet):
    """The outline that the three networks share; they differ in hidden widths and in the blocks."""

    taps = ("conv2", "conv3_3", "conv4_3", "conv5_4")

    def __init__(
        self,
        hidden: tuple[int, ...],
        conv_block: Callable[..., nn.Module],
        bottleneck: Callable[..., nn.Module],
        width: float,
        size: int,
        landmarks: int,
        folded: bool,
    ) -> None:
        super().__init__()

        def c(base: int) -> int:
            return int(base * width)

        self.conv1 = conv_block(3, c(64), 3, 2, 1, folded=folded)
        self.conv2 = conv_block(c(64), c(64), 3, 1, 1, groups=c(64), folded=folded)
        for (name, (cin, cout, stride)), middle in zip(OUTLINE.items(), hidden, strict=True):
            self.add_module(name, bottleneck(c(cin), c(middle), c(cout), stride, folded=folded))
        self.conv7 = conv_block(c(16), c(32), 3, 1, 1, folded=folded)
        self.conv8 = ConvBlock(c(32), c(128), size // 16, 1, 0, batch_norm=False)
        self.fc = nn.Linear(c(512), 2 * landmarks)


class PFLDUltralight(GhostLandmarkNet):
    """PFLD_Ultralight, also called PFLD_GhostNet."""

    def __init__(
        self, width: float = 1.0, size: int = 112, landmarks: int = 98, *, folded: bool = False
    ) -> None:
        super().__init__(ULTRALIGHT, ConvBlock, GhostBottleneck, width, size, landmarks, folded)


class PFLDUltralightSlim(GhostLandmarkNet):
    """PFLD_Ultralight_Slim, also called PFLD_GhostNet_Slim: narrower hidden layers."""

    def __init__(
        self, width: float = 1.0, size: int = 112, landmarks: int = 98, *, folded: bool = False
    ) -> None:
        super().__init__(SLIM, ConvBlock, GhostBottleneck, width, size, landmarks, folded)


class PFLDGhostOne(GhostLandmarkNet):
    """PFLD_GhostOne: the Slim outline of MobileOne blocks, without shortcuts."""

    def __init__(
        self, width: float = 1.0, size: int = 112, landmarks: int = 98, *, folded: bool = False
    ) -> None:
        super().__init__(SLIM, MobileOneBlock, GhostOneBottleneck, width, size, landmarks, folded)
