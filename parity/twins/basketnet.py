"""Torch twin of BasketNet, the LFFD descendant with separable convs that finds balls.

Facts from the repository aoru45/BasketNet (also called LFFD-Pytorch), whose state-dict names these
modules carry; the outputs are those of its training mode, which knows no fixed size.
"""

import torch
from torch import Tensor, nn


class SeparableConv(nn.Module):
    """Depthwise 3x3 and pointwise conv, both with bias, nothing between them."""

    def __init__(self, cin: int, cout: int, stride: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(cin, cin, 3, stride, padding, groups=cin), nn.Conv2d(cin, cout, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class SeparableResidual(nn.Module):
    """A post-activation pair whose conv path is rectified once more before the addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv2dRelu = nn.Sequential(
            SeparableConv(channels, channels, 1, 1),
            nn.ReLU6(),
            SeparableConv(channels, channels, 1, 1),
            nn.ReLU6(),
        )
        self.relu = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(x + self.conv2dRelu(x))
        return y


class LossBranch(nn.Module):
    """Class logits and locations of one scale; the original computes the shared conv twice."""

    def __init__(self, cin: int, classes: int) -> None:
        super().__init__()
        self.conv1x1relu = nn.Sequential(nn.Conv2d(cin, 64, 1), nn.ReLU6())
        self.score = nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU6(), nn.Conv2d(64, classes, 1))
        self.locations = nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU6(), nn.Conv2d(64, 4, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.score(self.conv1x1relu(x)), self.locations(self.conv1x1relu(x))


def down(conv: nn.Module) -> nn.Module:
    return nn.Sequential(conv, nn.ReLU6())


class BasketNet(nn.Module):
    """Eight scales; class 0 is background, 1 basketball, 2 volleyball."""

    BRANCHES = (
        "tinypart1",
        "tinypart2",
        "smallpart1",
        "smallpart2",
        "mediumpart",
        "largepart1",
        "largepart2",
        "largepart3",
    )

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.c1 = down(SeparableConv(3, 64, 2, 0))
        self.c2 = down(SeparableConv(64, 64, 2, 0))
        self.tinypart1 = nn.Sequential(*(SeparableResidual(64) for _ in range(3)))
        self.tinypart2 = SeparableResidual(64)
        self.c11 = down(nn.Conv2d(64, 64, 3, 2, 0))
        self.smallpart1 = SeparableResidual(64)
        self.smallpart2 = SeparableResidual(64)
        self.c16 = down(nn.Conv2d(64, 128, 3, 2, 0))
        self.mediumpart = SeparableResidual(128)
        self.c19 = down(nn.Conv2d(128, 128, 3, 2, 0))
        self.largepart1 = SeparableResidual(128)
        self.largepart2 = SeparableResidual(128)
        self.largepart3 = SeparableResidual(128)
        for i, width in enumerate((64, 64, 64, 64, 128, 128, 128, 128), 1):
            self.add_module(f"lossbranch{i}", LossBranch(width, classes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """RGB 0..1 (N, 3, H, W) -> logits (N, cells, classes), locations (N, cells, 4).

        Cells run over branch 1 row by row, then over branch 2, and so on.
        """
        logits: list[Tensor] = []
        locations: list[Tensor] = []
        for name, stage in self.named_children():
            if name.startswith("lossbranch"):
                break
            x = stage(x)
            if name in self.BRANCHES:
                branch = self.get_submodule(f"lossbranch{self.BRANCHES.index(name) + 1}")
                for collected, y in zip((logits, locations), branch(x), strict=True):
                    collected.append(y.permute(0, 2, 3, 1).reshape(len(y), -1, y.shape[1]))
        return torch.cat(logits, 1), torch.cat(locations, 1)
