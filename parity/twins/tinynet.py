"""Torch twin of TinyNet, the small network of the receptive-field experiment around LFFD.

Facts from the experiment published with the repository aoru45/LFFD-Pytorch: LFFD's first branch
(arXiv:1904.10633), every conv dense, blocks post-activation.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class TinyBlock(nn.Module):
    """y = ReLU(x + ReLU(conv(ReLU(conv(x)))))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(64, 64, 3, 1, 1)
        self.conv2 = nn.Conv2d(64, 64, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + F.relu(self.conv2(F.relu(self.conv1(x)))))


class TinyNet(nn.Module):
    """Two stride-2 convs and three residual blocks; receptive field 55, stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 0)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 0)
        self.block1 = TinyBlock()
        self.block2 = TinyBlock()
        self.block3 = TinyBlock()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 64, h, w)."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        y: Tensor = self.block3(self.block2(self.block1(x)))
        return y
