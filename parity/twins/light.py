"""Torch twin of refnet's light face detector: YuNet's block, LFFD's branches, a top-down path.

The block is that of "YuNet: A Tiny Millisecond-level Face Detector" (Wu et al. 2023), the top-down path
that of "Feature Pyramid Networks" (Lin et al. 2017); the table of channels is refnet's own.
"""

from torch import Tensor, nn
from torch.nn import functional as F

#: Of each scale after the stem, the blocks' outputs; a branch hangs on all but the first.
CHANNELS = ((48, 64), (64,) * 4, (96,) * 5, (112,) * 4, (128,) * 3)


class Unit(nn.Module):
    """Two convolutions without an activation between them, a norm after the second, ReLU."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, names: tuple[str, str], folded: bool):
        super().__init__()
        self.add_module(names[0], first)
        self.add_module(names[1], second)
        if not folded:
            self.norm = nn.BatchNorm2d(second.out_channels)
        self.names = names

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = self.get_submodule(name)(x)
        return F.relu(self.norm(x) if hasattr(self, "norm") else x)


def separable(inner: int, outer: int, folded: bool) -> Unit:
    """1×1, then 3×3 depthwise."""
    first = nn.Conv2d(inner, outer, 1, bias=False)
    second = nn.Conv2d(outer, outer, 3, padding=1, groups=outer, bias=folded)
    return Unit(first, second, ("pointwise", "depthwise"), folded)


def reduced(inner: int, outer: int, folded: bool) -> Unit:
    """3×3 depthwise of stride 2, then 1×1."""
    first = nn.Conv2d(inner, inner, 3, stride=2, padding=1, groups=inner, bias=False)
    second = nn.Conv2d(inner, outer, 1, bias=folded)
    return Unit(first, second, ("depthwise", "pointwise"), folded)


class Stem(nn.Module):
    def __init__(self, channels: int, outer: int, folded: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=folded)
        if not folded:
            self.norm = nn.BatchNorm2d(channels)
        self.reduce = reduced(channels, outer, folded)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = F.relu(self.norm(x) if hasattr(self, "norm") else x)
        reduced: Tensor = self.reduce(x)
        return reduced


class Branch(nn.Module):
    def __init__(self, inner: int, neck: int, folded: bool) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(inner, neck, 1)
        self.merge = separable(neck, neck, folded)
        self.head1 = separable(neck, neck, folded)
        self.head2 = separable(neck, neck, folded)
        self.output = nn.Conv2d(neck, 15, 1)


class LFFDLight(nn.Module):
    """`lffd-light`, with its normalisation inside."""

    def __init__(self, folded: bool, width: float = 1.0) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return int(channels * width)

        self.stem = Stem(scaled(16), scaled(32), folded)
        channels, branched = scaled(32), []
        for number, row in enumerate(CHANNELS, 1):
            stage = nn.Module()
            for block, count in enumerate(row, 1):
                stage.add_module(f"block{block}", separable(channels, scaled(count), folded))
                channels = scaled(count)
            self.add_module(f"stage{number}", stage)
            branched.append(channels)
        # Coarse to fine, the order in which they run.
        for number in (4, 3, 2, 1):
            self.add_module(f"branch{number}", Branch(branched[number], scaled(64), folded))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem((x - 128) / 128)
        maps = []
        for number, row in enumerate(CHANNELS, 1):
            x = F.max_pool2d(x, 2) if number > 1 else x
            for block in range(1, len(row) + 1):
                x = self.get_submodule(f"stage{number}.block{block}")(x)
            maps.append(x)
        outputs: list[Tensor] = []
        above: Tensor | None = None
        for number in (4, 3, 2, 1):
            branch = self.get_submodule(f"branch{number}")
            x = branch.lateral(maps[number])  # type: ignore[operator]
            if above is not None:
                x = x + F.interpolate(above, scale_factor=2.0, mode="nearest")
            above = branch.merge(x)  # type: ignore[operator]
            x = branch.head2(branch.head1(above))  # type: ignore[operator]
            outputs.append(branch.output(x))  # type: ignore[operator]
        return tuple(reversed(outputs))
