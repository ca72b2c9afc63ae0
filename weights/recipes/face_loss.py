"""The loss of a detector whose branches each take a range of sizes: which cells learn a face, and what.

A cell may learn a face if its centre is near the face's and the face's longer side lies in the range of
its branch; ranges overlap. Of these candidates each face takes the cells that cost it least now, as many
as its ten best boxes overlap it in sum (dynamic assignment: Ge et al. 2021, "YOLOX", section 2.2). The
score learns what the cell's own box is worth (quality focal loss: Li et al. 2020, section 3.1, where it is the
IoU itself; see `worth`), the box learns by IoU and distance of centres (DIoU: Zheng et al. 2020, eq. 7), the
five points by a smooth L1 in shares of the face's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

#: How far from a face's centre a cell may be, in strides, or in shares of the face's side.
NEAR, NEAR_SHARE = 1.5, 0.25
#: What a face may take at most, and what the box counts beside the score in the cost of a cell.
MOST_CELLS, BOX_COST = 10, 3.0
BOX_WEIGHT, POINT_WEIGHT = 3.0, 1.5
#: The IoU from which a box is as good as any, and the one that is worth nothing.
EXACT, LOOSE = 0.65, 0.2
#: From a network's number to the distance of an edge: softplus(number) · stride · this.
EDGE = 1.5

Faces = Sequence[tuple[Tensor, Tensor, Tensor]]  # of each image: boxes, ignored, points


@dataclass(frozen=True)
class Cells:
    """All cells of an image, branch after branch, row by row.

    Attributes:
        centres: (C, 2) pixels.
        strides: (C,) pixels.
        lower, upper: (C,) the longer sides of the faces that the cell's branch takes.
    """

    centres: Tensor
    strides: Tensor
    lower: Tensor
    upper: Tensor

    @classmethod
    def of(
        cls,
        maps: Sequence[Tensor],
        strides: Sequence[int],
        ranges: Sequence[tuple[float, float]],
    ) -> Cells:
        """The cells of the branches' maps (N, 15, h, w)."""
        centres, columns = [], []
        for tensor, stride, (lower, upper) in zip(maps, strides, ranges, strict=True):
            rows, cols = (torch.arange(n, device=tensor.device) for n in tensor.shape[2:])
            y, x = torch.meshgrid((rows + 0.5) * stride, (cols + 0.5) * stride, indexing="ij")
            centres.append(torch.stack([x, y], dim=-1).reshape(-1, 2))
            numbers = torch.tensor(
                [stride, lower, upper], dtype=torch.float32, device=tensor.device
            )
            columns.append(numbers.expand(len(centres[-1]), 3))
        stacked = torch.cat(columns)
        return cls(torch.cat(centres), stacked[:, 0], stacked[:, 1], stacked[:, 2])


def decoded(maps: Sequence[Tensor], cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
    """(logits (N, C), boxes (N, C, 4), points (N, C, 5, 2)) in pixels, from the branches' maps."""
    flat = [m.float().permute(0, 2, 3, 1).reshape(m.shape[0], -1, m.shape[1]) for m in maps]
    numbers = torch.cat(flat, dim=1)
    edges = functional.softplus(numbers[..., 1:5]) * (EDGE * cells.strides[:, None])
    corners = [cells.centres - edges[..., :2], cells.centres + edges[..., 2:]]
    steps = numbers[..., 5:].reshape(*numbers.shape[:2], 5, 2) * cells.strides[:, None, None]
    return numbers[..., 0], torch.cat(corners, dim=-1), cells.centres[:, None] + steps


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of xyxy boxes, elementwise over broadcast leading axes."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).clamp(0).prod(-1)
    other = (others[..., 2:] - others[..., :2]).prod(-1)
    return shared / (area + other - shared + 1e-6)


@torch.no_grad()
def assigned(
    logits: Tensor, boxes: Tensor, cells: Cells, faces: Tensor, ignored: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Which cells of one image learn which face.

    Args:
        logits: (C,), boxes: (C, 4): what the network says now.
        faces: (F, 4) xyxy, ignored: (F,) bool.

    Returns:
        (cells (P,), their faces (P,), weight of every cell (C,): 0 inside ignored faces).
    """
    centres = cells.centres[:, None]
    inside = ((centres > faces[:, :2]) & (centres < faces[:, 2:])).all(-1)
    weight = 1.0 - inside[:, ignored].any(1).float()
    learned = torch.nonzero(~ignored)[:, 0]
    if not len(learned):
        return learned, learned, weight
    own = faces[learned]
    side = (own[:, 2:] - own[:, :2]).amax(1)
    apart = (centres - (own[:, :2] + own[:, 2:]) / 2).abs().amax(-1)
    stride = cells.strides[:, None]
    near = apart < torch.maximum(NEAR * stride, NEAR_SHARE * side)
    # A face smaller than a cell may hold no cell's centre; the nearest cell is a candidate all the same.
    holds = inside[:, learned] | (apart <= stride / 2)
    sized = (side >= cells.lower[:, None]) & (side < cells.upper[:, None])
    candidate = near & holds & sized
    overlap = iou(boxes[:, None], own)
    cost = functional.softplus(-logits)[:, None] - BOX_COST * torch.log(overlap.clamp(1e-4))
    cost = cost.masked_fill(~candidate, torch.inf)
    most = min(MOST_CELLS, len(cost))
    wanted = (overlap * candidate).topk(most, dim=0).values.sum(0).clamp(1, most).int()
    cheapest = cost.topk(most, dim=0, largest=False).indices
    taken = torch.zeros_like(candidate)
    taken.scatter_(0, cheapest, torch.arange(most, device=cost.device)[:, None] < wanted)
    taken &= candidate
    contested = taken.sum(1) > 1
    best = cost[contested].argmin(1)
    taken[contested] = functional.one_hot(best, len(learned)).bool()
    cell, face = taken.nonzero(as_tuple=True)
    weight[cell] = 1.0
    return cell, learned[face], weight


def detection_loss(maps: Sequence[Tensor], cells: Cells, images: Faces) -> tuple[Tensor, ...]:
    """(score, box and point loss) of a batch, each a mean over the cells that learn a face.

    Args:
        maps: of each branch (N, 15, h, w): a logit, four edges, five points.
    """
    logits, boxes, points = decoded(maps, cells)
    quality, weight = torch.zeros_like(logits), torch.ones_like(logits)
    found, true, near, exact = [], [], [], []
    for i, (faces, ignored, marks) in enumerate(images):
        if not len(faces):
            continue
        cell, face, weight[i] = assigned(logits[i], boxes[i], cells, faces, ignored)
        found.append(boxes[i, cell])
        true.append(faces[face])
        quality[i, cell] = worth(iou(boxes[i, cell], faces[face]).detach())
        known = torch.isfinite(marks[face]).all(-1).all(-1)
        side = (faces[face, 2:] - faces[face, :2]).amax(1)[known, None, None]
        near.append(points[i, cell[known]] / side)
        exact.append(marks[face[known]] / side)
    positives = max(1, sum(map(len, found)))
    distance = (logits.sigmoid().detach() - quality).square()
    entropy = functional.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    score = (entropy * distance * weight).sum() / positives
    nothing = logits.sum() * 0
    box = diou(torch.cat(found), torch.cat(true)) if sum(map(len, found)) else nothing
    if not sum(map(len, near)):
        return score, box, nothing
    point = functional.smooth_l1_loss(torch.cat(near), torch.cat(exact), beta=0.05)
    return score, box, point


def worth(overlap: Tensor) -> Tensor:
    """What score a cell learns whose box has this IoU with its face.

    Small faces are never placed as exactly as large ones, and shall not be told by it: from `EXACT` on every box is
    worth 1, below it falls to a tenth.
    """
    return ((overlap - LOOSE) / (EXACT - LOOSE)).clamp(0.1, 1)


def diou(boxes: Tensor, faces: Tensor) -> Tensor:
    """The mean of 1 - IoU + squared distance of the centres over squared diagonal of the hull."""
    hull = torch.maximum(boxes[:, 2:], faces[:, 2:]) - torch.minimum(boxes[:, :2], faces[:, :2])
    apart = (boxes[:, :2] + boxes[:, 2:] - faces[:, :2] - faces[:, 2:]) / 2
    penalty = apart.square().sum(1) / (hull.square().sum(1) + 1e-6)
    return (1 - iou(boxes, faces) + penalty).mean()
