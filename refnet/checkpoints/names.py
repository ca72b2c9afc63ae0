"""Names of tensors in other people's files, turned into refnet's.

Most networks keep their first implementation's names here, so that little is left to do:

    every name below one wrapper      "module.conv1.0.weight" (DataParallel) -> "conv1.0.weight"
    MXNet's "conv1_weight"            -> "conv1.weight"
    lffd-pytorch's "layer1.1.conv1"   -> the official layer names, "conv3" (maps below)

lffd-pytorch (becauseofai/lffd-pytorch) has two nets. naivenet20 is the official face v2, naivenet25
the official face v1. Each exists with two kinds of residual block: "Resv2", pre-activation, equal to
the official wiring; and "Resv1", post-activation, whose blocks are numbered one higher because a
ReLU module stands before them.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

_WRAPPERS = (
    "module",
    "_orig_mod",  # torch.compile
    "model",
    "net",
    "network",
    "backbone",
    "pfld_backbone",
    "plfd_backbone",
)

_FACE_V1_HEADS = (8, 10, 13, 15, 18, 21, 23, 25)
_FACE_V2_HEADS = (8, 11, 14, 17, 20)
# Stages of naivenet25 and the official layer that each starts with. A stage that begins with a
# stride-2 convolution has it at index 0, its residual blocks after that.
_STAGES_25 = (
    ("stage1_1", 2, True, 3),
    ("stage1_2", 9, False, 1),
    ("stage2_1", 11, True, 1),
    ("stage2_2", 14, False, 1),
    ("stage3_1", 16, True, 1),
    ("stage4_1", 19, True, 1),
    ("stage4_2", 22, False, 1),
    ("stage4_3", 24, False, 1),
)
# What Resv2 calls the stages without a convolution of their own: the branch reads their entry.
_RESV2_STAGES = {
    "stage1_2": "stage1_2_branch1",
    "stage2_2": "stage2_2_branch3",
    "stage4_2": "stage4_2_branch6",
    "stage4_3": "stage4_3_branch7",
}


def without_wrapper(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """`tensors` without the prefixes ("module.", "model.", ...) that all their names share."""
    result = dict(tensors)
    while result:
        first = {name.partition(".")[0] for name in result if "." in name}
        if len(first) != 1 or not all("." in name for name in result):
            break
        if (prefix := first.pop()) not in _WRAPPERS:
            break
        result = {name[len(prefix) + 1 :]: value for name, value in result.items()}
    return result


def from_mxnet(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """`tensors` with "<layer>_weight" as "<layer>.weight", where all names are of that form."""
    if not all(name.endswith(("_weight", "_bias")) for name in tensors):
        return dict(tensors)
    return {".".join(name.rsplit("_", 1)): value for name, value in tensors.items()}


def from_lffd_pytorch(tensors: Mapping[str, Value]) -> tuple[dict[str, Value], str] | None:
    """`tensors` of a naivenet under official names, and its kind of residual; None for others."""
    layers = {name.rpartition(".")[0] for name in tensors}
    for residual, shift in (("pre-activation", 0), ("post-activation", 1)):
        for names in (_naivenet20(shift), _naivenet25(shift)):
            if layers == set(names):
                renamed = {
                    f"{names[layer]}.{role}": value
                    for (layer, _, role), value in zip(
                        (name.rpartition(".") for name in tensors), tensors.values(), strict=True
                    )
                }
                return renamed, residual
    return None


def _naivenet20(shift: int) -> dict[str, str]:
    names = {"conv1": "conv1"}
    for stage, (start, blocks) in enumerate(((2, 3), (9, 1), (12, 1), (15, 1), (18, 1)), 1):
        names |= _stage(f"layer{stage}", start, True, blocks, shift)
    return names | _branches(_FACE_V2_HEADS)


def _naivenet25(shift: int) -> dict[str, str]:
    names = {"conv1": "conv1"}
    for stage, start, has_conv, blocks in _STAGES_25:
        theirs = stage if shift else _RESV2_STAGES.get(stage, stage)
        names |= _stage(theirs, start, has_conv, blocks, shift if has_conv else 0)
    return names | _branches(_FACE_V1_HEADS)


def _stage(stage: str, start: int, has_conv: bool, blocks: int, shift: int) -> dict[str, str]:
    """{their layer: official layer} of one stage whose first official layer is conv<start>."""
    names = {f"{stage}.0": f"conv{start}"} if has_conv else {}
    first, layer = (1 + shift, start + 1) if has_conv else (0, start)
    for block in range(blocks):
        names[f"{stage}.{first + block}.conv1"] = f"conv{layer + 2 * block}"
        names[f"{stage}.{first + block}.conv2"] = f"conv{layer + 2 * block + 1}"
    return names


def _branches(heads: Iterable[int]) -> dict[str, str]:
    """{their layer: official layer} of the branches, which hang on the layers conv<head>."""
    towers = {
        "conv1": "1",
        "conv2_score": "2_score",
        "conv3_score": "3_score",
        "conv2_bbox": "2_bbox",
        "conv3_bbox": "3_bbox",
    }
    return {
        f"branch{branch}.0.{theirs}": f"conv{head}_{official}"
        for branch, head in enumerate(heads, 1)
        for theirs, official in towers.items()
    }
