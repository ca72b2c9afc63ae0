"""Torch twins of PFLD and of PFLD-MSFC, its variant with multi-scale features.

Facts from "PFLD: A Practical Facial Landmark Detector" (arXiv:1902.10859) and from the repository
FaceLandmark_PFLD_UltraLight, whose state-dict names these modules carry; PFLD-MSFC was only ever
described in prose, so its names continue that style.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBlock(nn.Sequential):
    """Conv, batch norm, ReLU in the slots 0, 1, 2; a slot that is not used is empty and nameless.

    With `folded`, the batch norm has gone into slot 0, which therefore has a bias.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        stride: int,
        padding: int,
        *,
        groups: int = 1,
        batch_norm: bool = True,
        relu: bool = True,
        folded: bool = False,
    ) -> None:
        conv = nn.Conv2d(
            cin, cout, kernel, stride, padding, groups=groups, bias=batch_norm and folded
        )
        norm = nn.BatchNorm2d(cout) if batch_norm and not folded else nn.Sequential()
        super().__init__(conv, norm, nn.ReLU() if relu else nn.Sequential())


class InvertedResidual(nn.Module):
    """Pointwise, depthwise, linear pointwise; the skip is a flag, not inferred from shapes."""

    def __init__(
        self, cin: int, cout: int, stride: int, expansion: int, *, skip: bool, folded: bool
    ) -> None:
        super().__init__()
        hidden = cin * expansion
        self.skip = skip
        self.inv_res = nn.Sequential(
            ConvBlock(cin, hidden, 1, 1, 0, folded=folded),
            ConvBlock(hidden, hidden, 3, stride, 1, groups=hidden, folded=folded),
            ConvBlock(hidden, cout, 1, 1, 0, relu=False, folded=folded),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inv_res(x)
        return x + y if self.skip else y


class LandmarkNet(nn.Module):
    """What every PFLD has: named stages, features tapped on the way and pooled to one number each.

    `taps` names the stages whose outputs are averaged over the whole map; conv8, whose kernel is
    the whole map, is the last feature.
    """

    taps: tuple[str, ...] = ()
    fc: nn.Module

    def features(self, x: Tensor) -> Tensor:
        """What the fully connected layer reads: (N, features)."""
        pooled = []
        for name, stage in self.named_children():
            if name == "fc":
                break
            x = stage(x)
            if name in self.taps:
                pooled.append(F.avg_pool2d(x, x.shape[2]).flatten(1))
        return torch.cat([*pooled, x.flatten(1)], 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, 2 landmarks), x and y in turn, as fractions of the side S."""
        y: Tensor = self.fc(self.features(x))
        return y


class PFLD(LandmarkNet):
    """PFLD with a depthwise conv2; its first block of 128 channels has no skip."""

    taps = ("conv6", "conv7")

    def __init__(
        self, width: float = 1.0, size: int = 112, landmarks: int = 98, *, folded: bool = False
    ) -> None:
        super().__init__()

        def c(base: int) -> int:
            return int(base * width)

        def block(cin: int, cout: int, stride: int, expansion: int, skip: bool) -> nn.Module:
            return InvertedResidual(c(cin), c(cout), stride, expansion, skip=skip, folded=folded)

        self.conv1 = ConvBlock(3, c(64), 3, 2, 1, folded=folded)
        self.conv2 = ConvBlock(c(64), c(64), 3, 1, 1, groups=c(64), folded=folded)
        self.conv3_1 = block(64, 64, 2, 2, False)
        for i in range(2, 6):
            self.add_module(f"conv3_{i}", block(64, 64, 1, 2, True))
        self.conv4 = block(64, 128, 2, 2, False)
        self.conv5_1 = block(128, 128, 1, 4, False)
        for i in range(2, 7):
            self.add_module(f"conv5_{i}", block(128, 128, 1, 4, True))
        self.conv6 = block(128, 16, 1, 2, False)
        self.conv7 = ConvBlock(c(16), c(32), 3, 2, 1, folded=folded)
        self.conv8 = ConvBlock(c(32), c(128), size // 16, 1, 0, batch_norm=False)
        self.fc = nn.Linear(c(176), 2 * landmarks)


class PFLDMSFC(LandmarkNet):
    """PFLD with features of five scales: strides 2, 4, 8 and 16, and the whole face."""

    taps = ("conv2", "conv3_3", "conv4_3", "conv5_4")

    def __init__(
        self, width: float = 1.0, size: int = 112, landmarks: int = 98, *, folded: bool = False
    ) -> None:
        super().__init__()

        def c(base: int) -> int:
            return int(base * width)

        self.conv1 = ConvBlock(3, c(64), 3, 2, 1, folded=folded)
        self.conv2 = ConvBlock(c(64), c(64), 3, 1, 1, groups=c(64), folded=folded)
        cin = c(64)
        stages = {"conv3": (64, 2, 3), "conv4": (96, 3, 3), "conv5": (144, 4, 4)}
        for name, (cout, expansion, repeats) in stages.items():
            for i in range(1, repeats + 1):
                self.add_module(
                    f"{name}_{i}",
                    InvertedResidual(
                        cin, c(cout), 2 if i == 1 else 1, expansion, skip=i > 1, folded=folded
                    ),
                )
                cin = c(cout)
        self.conv6 = InvertedResidual(cin, c(16), 1, 2, skip=False, folded=folded)
        self.conv7 = ConvBlock(c(16), c(32), 3, 1, 1, folded=folded)
        self.conv8 = ConvBlock(c(32), c(128), size // 16, 1, 0, batch_norm=False)
        self.fc = nn.Linear(c(496), 2 * landmarks)
