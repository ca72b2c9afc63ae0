"""Torch twins of LFFD: the official networks, and lffd-pytorch's two with its own tensor names.

Facts from "LFFD: A Light and Fast Face Detector for Edge Devices" (arXiv:1904.10633), from the
deploy graphs of its official repository (residual wiring, layer names) and, for the names of
`NaiveNet`, from the repository becauseofAI/lffd-pytorch.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# "c/" is a stride-2 conv to c channels, "c" a residual pair of c channels, "c:m" one whose inner
# width is m, "*" a branch on what stands before it.
TRUNKS = {
    "lffd-face-v1": "64/ 64/ 64 64 64* 64* 64/ 64* 64* 128/ 128* 128/ 128* 128* 128*",
    "lffd-face-v2": "64/ 64/ 64 64 64* 64/ 64* 64/ 64* 128/ 128* 128/ 128*",
    "lffd-head": "64/ 64/ 64 64 64* 64/ 64* 64/ 64* 128/ 128*",
    "lffd-pedestrian": "64/ 64/ 64/ 64 64 64 64* 128/ 128* 128/ 128* 128/ 128*",
    "lffd-plate": "64/ 64/ 64/ 64/ 64 64 64* 64/ 64* 128/ 128*",
    "lffd-plate-small": "32/ 32/ 32/ 64/ 64:32 64:32 64:32* 64/ 64:32* 128/ 128:64*",
}
HEAD_WIDTH = {"lffd-plate-small": 64}


class Step(NamedTuple):
    """One trunk step: convs `first` .. `first + pair`, counted from 1."""

    first: int
    channels: int
    inner: int
    pair: bool
    branch: bool


def trunk_steps(name: str) -> list[Step]:
    """The trunk of `name` with its convs numbered as the official layers are."""
    steps, index = [], 1
    for token in TRUNKS[name].split():
        match = re.fullmatch(r"(\d+)(?::(\d+))?(/?)(\*?)", token)
        assert match is not None
        channels, inner, down, branch = match.groups()
        steps.append(Step(index, int(channels), int(inner or channels), not down, bool(branch)))
        index += 1 if down else 2
    return steps


class LFFD(nn.Module):
    """An official LFFD network with its official layer names and its normalisation inside.

    Convs are named conv1, conv2, ... along the trunk; the branch on conv8 owns conv8_1,
    conv8_2_score, conv8_3_score, conv8_2_bbox and conv8_3_bbox. `post_activation` carries the
    rectified tensor along the skips, which is not the official function.
    """

    def __init__(self, name: str, width: float = 1.0, *, post_activation: bool = False) -> None:
        super().__init__()
        self.steps = trunk_steps(name)
        self.post_activation = post_activation
        head = int(HEAD_WIDTH.get(name, 128) * width)
        cin = 3
        for step in self.steps:
            channels, inner = int(step.channels * width), int(step.inner * width)
            if step.pair:
                self.conv(step.first, nn.Conv2d(cin, inner, 3, 1, 1))
                self.conv(step.first + 1, nn.Conv2d(inner, channels, 3, 1, 1))
            else:
                self.conv(step.first, nn.Conv2d(cin, channels, 3, 2, 0))
            if step.branch:
                last = step.first + 1
                self.conv(f"{last}_1", nn.Conv2d(channels, head, 1))
                for tower, outputs in (("score", 2), ("bbox", 4)):
                    self.conv(f"{last}_2_{tower}", nn.Conv2d(head, head, 1))
                    self.conv(f"{last}_3_{tower}", nn.Conv2d(head, outputs, 1))
            cin = channels

    def conv(self, number: int | str, module: nn.Module) -> None:
        self.add_module(f"conv{number}", module)

    def apply_conv(self, number: int | str, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(f"conv{number}")(x)
        return y

    def branch(self, last: int, rectified: Tensor) -> tuple[Tensor, Tensor]:
        shared = F.relu(self.apply_conv(f"{last}_1", rectified))
        score = F.relu(self.apply_conv(f"{last}_2_score", shared))
        logits = self.apply_conv(f"{last}_3_score", score)
        box = F.relu(self.apply_conv(f"{last}_2_bbox", shared))
        return torch.softmax(logits, 1)[:, 0:1], self.apply_conv(f"{last}_3_bbox", box)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Raw BGR 0..255 (N, 3, H, W) -> score_1 (N, 1, h, w), bbox_1 (N, 4, h, w), score_2, ..."""
        outputs: list[Tensor] = []
        rectified = (x - 127.5) / 127.5
        running = rectified
        for step in self.steps:
            if step.pair:
                skip = rectified if self.post_activation else running
                inner = F.relu(self.apply_conv(step.first, rectified))
                running = skip + self.apply_conv(step.first + 1, inner)
            else:
                running = self.apply_conv(step.first, rectified)
            rectified = F.relu(running)
            if step.branch:
                outputs += self.branch(step.first + 1, rectified)
        return tuple(outputs)


class ResidualPair(nn.Module):
    """lffd-pytorch's block: `Resv2` is pre-activation, `Resv1` post-activation."""

    def __init__(self, channels: int, version: str) -> None:
        super().__init__()
        self.version = version
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.version == "Resv2":
            y: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
            return y
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class BranchNet(nn.Module):
    """lffd-pytorch's branch head: raw logits, two channels of score and four of box."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, 128, 1)
        self.conv2_score = nn.Conv2d(128, 128, 1)
        self.conv3_score = nn.Conv2d(128, 2, 1)
        self.conv2_bbox = nn.Conv2d(128, 128, 1)
        self.conv3_bbox = nn.Conv2d(128, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.conv1(x))
        score = self.conv3_score(F.relu(self.conv2_score(x)))
        return score, self.conv3_bbox(F.relu(self.conv2_bbox(x)))


# stage name -> (channels, starts with a stride-2 conv, residual pairs); a branch at every end
NAIVENET20 = {
    "layer1": (64, True, 3),
    "layer2": (64, True, 1),
    "layer3": (64, True, 1),
    "layer4": (128, True, 1),
    "layer5": (128, True, 1),
}
NAIVENET25 = {
    "stage1_1": (64, True, 3),
    "stage1_2": (64, False, 1),
    "stage2_1": (64, True, 1),
    "stage2_2": (64, False, 1),
    "stage3_1": (128, True, 1),
    "stage4_1": (128, True, 1),
    "stage4_2": (128, False, 1),
    "stage4_3": (128, False, 1),
}
RESV2_NAMES = {
    "stage1_2": "stage1_2_branch1",
    "stage2_2": "stage2_2_branch3",
    "stage4_2": "stage4_2_branch6",
    "stage4_3": "stage4_3_branch7",
}


class NaiveNet(nn.Module):
    """lffd-pytorch's naivenet20 (face v2) or naivenet25 (face v1), reading normalised input.

    Its 25-layer net with Resv2 blocks cannot run there, because it forgets to collect its outputs;
    here it does.
    """

    def __init__(self, layers: int, version: str = "Resv2") -> None:
        super().__init__()
        self.version = version
        table = {20: NAIVENET20, 25: NAIVENET25}[layers]
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 0)
        self.stages: list[str] = []
        cin = 64
        for name, (channels, down, pairs) in table.items():
            stage = nn.Sequential()
            if down:
                stage.append(nn.Conv2d(cin, channels, 3, 2, 0))
                if version == "Resv1":
                    stage.append(nn.ReLU())
            for _ in range(pairs):
                stage.append(ResidualPair(channels, version))
            if layers == 25 and version == "Resv2":
                name = RESV2_NAMES.get(name, name)
            self.add_module(name, stage)
            self.stages.append(name)
            cin = channels
        for i, (channels, _, _) in enumerate(table.values(), 1):
            self.add_module(f"branch{i}", nn.Sequential(BranchNet(channels)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised BGR (N, 3, H, W) -> [score logits 1 (N, 2, h, w), bbox 1, logits 2, ...]."""
        outputs: list[Tensor] = []
        x = self.conv1(x)
        for i, name in enumerate(self.stages, 1):
            stage = self.get_submodule(name)
            starts_with_conv = isinstance(next(stage.children()), nn.Conv2d)
            x = stage(F.relu(x) if starts_with_conv else x)
            outputs += self.get_submodule(f"branch{i}")(F.relu(x))
        return outputs
