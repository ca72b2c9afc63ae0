"""Torch twins of PFLDInference and AuxiliaryNet of the repository polarisZhao/PFLD-pytorch.

Facts from that repository and "PFLD: A Practical Facial Landmark Detector" (arXiv:1902.10859);
checkpoints of its descendants add a width of the trunk, a depthwise conv2, ReLU6, other landmarks
and a bn8 that is applied.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PolarisResidual(nn.Module):
    """The inverted residual under other names: 0, 3, 6 are convs, 1, 4, 7 batch norms."""

    def __init__(
        self,
        cin: int,
        cout: int,
        stride: int,
        expansion: int,
        *,
        skip: bool,
        activation: type[nn.Module],
        folded: bool,
    ) -> None:
        super().__init__()
        hidden = cin * expansion
        self.skip = skip

        def norm(channels: int) -> nn.Module:
            return nn.Sequential() if folded else nn.BatchNorm2d(channels)

        self.conv = nn.Sequential(
            nn.Conv2d(cin, hidden, 1, bias=folded),
            norm(hidden),
            activation(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=folded),
            norm(hidden),
            activation(),
            nn.Conv2d(hidden, cout, 1, bias=folded),
            norm(cout),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.skip else y


class PFLDInference(nn.Module):
    """PFLD with a dense conv2 and two outputs: the map after block3_5 and the landmarks.

    `width` scales the 64 and 128 channels of the trunk; the tail is always 16, 32, 128.
    """

    def __init__(
        self,
        width: float = 1.0,
        size: int = 112,
        landmarks: int = 98,
        *,
        activation: str = "relu",
        bn8: str = "ignored",
        conv2: str = "dense",
        folded: bool = False,
    ) -> None:
        super().__init__()
        act: type[nn.Module] = {"relu": nn.ReLU, "relu6": nn.ReLU6}[activation]
        self.bn8_applied = bn8 == "applied"
        groups = {"dense": 1, "depthwise": int(64 * width)}[conv2]

        def c(base: int) -> int:
            return int(base * width)

        def norm(channels: int) -> nn.Module:
            return nn.Sequential() if folded else nn.BatchNorm2d(channels)

        def block(cin: int, cout: int, stride: int, expansion: int, skip: bool) -> nn.Module:
            return PolarisResidual(
                cin, cout, stride, expansion, skip=skip, activation=act, folded=folded
            )

        self.act = act()
        self.conv1 = nn.Conv2d(3, c(64), 3, 2, 1, bias=folded)
        self.bn1 = norm(c(64))
        self.conv2 = nn.Conv2d(c(64), c(64), 3, 1, 1, groups=groups, bias=folded)
        self.bn2 = norm(c(64))
        self.conv3_1 = block(c(64), c(64), 2, 2, False)
        for i in range(2, 6):
            self.add_module(f"block3_{i}", block(c(64), c(64), 1, 2, True))
        self.conv4_1 = block(c(64), c(128), 2, 2, False)
        self.conv5_1 = block(c(128), c(128), 1, 4, False)
        for i in range(2, 7):
            self.add_module(f"block5_{i}", block(c(128), c(128), 1, 4, True))
        self.conv6_1 = block(c(128), 16, 1, 2, False)
        self.conv7 = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1, bias=folded), norm(32), act())
        self.conv8 = nn.Conv2d(32, 128, size // 16)
        self.bn8 = norm(128)
        self.fc = nn.Linear(176, 2 * landmarks)

    def stages(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map after block3_5, (N, 64 width, S/4, S/4), and what `fc` reads, (N, 176)."""
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act(self.bn2(self.conv2(x)))
        x = self.conv3_1(x)
        for i in range(2, 6):
            x = self.get_submodule(f"block3_{i}")(x)
        features = x
        x = self.conv5_1(self.conv4_1(x))
        for i in range(2, 7):
            x = self.get_submodule(f"block5_{i}")(x)
        s1 = self.conv6_1(x)
        s2 = self.conv7(s1)
        s3 = self.conv8(s2)
        s3 = self.act(self.bn8(s3) if self.bn8_applied else s3)
        pooled = [F.avg_pool2d(s, s.shape[2]).flatten(1) for s in (s1, s2)]
        return features, torch.cat([*pooled, s3.flatten(1)], 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 112, 112) -> features (N, 64 width, 28, 28), landmarks (N, 2 landmarks)."""
        features, pooled = self.stages(x)
        return features, self.fc(pooled)


class AuxiliaryNet(nn.Module):
    """Three Euler angles from the feature map: used while training, dropped afterwards."""

    def __init__(self, width: float = 1.0, *, folded: bool = False) -> None:
        super().__init__()

        def conv(cin: int, cout: int, kernel: int, stride: int) -> nn.Module:
            norm = nn.Sequential() if folded else nn.BatchNorm2d(cout)
            return nn.Sequential(
                nn.Conv2d(cin, cout, kernel, stride, 1, bias=folded), norm, nn.ReLU()
            )

        self.conv1 = conv(int(64 * width), 128, 3, 2)
        self.conv2 = conv(128, 128, 3, 1)
        self.conv3 = conv(128, 32, 3, 2)
        self.conv4 = conv(32, 128, 7, 1)
        self.fc1 = nn.Linear(128, 32)
        self.fc2 = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 64 width, 28, 28) -> (N, 3)."""
        x = self.conv4(self.conv3(self.conv2(self.conv1(x))))
        y: Tensor = self.fc2(self.fc1(F.max_pool2d(x, 3).flatten(1)))
        return y
