"""Which published face detector an ONNX file holds, recognised by the number and the shapes of its outputs.

A cell is a place of a stride's grid, of which there are ⌈H/S⌉·⌈W/S⌉ on an input of H × W. Lists of cells go row by
row; with several anchors, a cell's follow each other.

    yunet       of each stride 8, 16, 32: class score, object score (cells, 1), box (cells, 4), points (cells, 10)
    scrfd       of each stride 8, 16, 32: scores (2·cells, 1), boxes (2·cells, 4) and, in some, points (2·cells, 10)
    ultralight  of strides 8, 16, 32, 64 in one list, with 3, 2, 2, 3 anchors: scores (n, 2), boxes (n, 4)
    centerface  maps of stride 4: scores (1, h, w), sizes (2, h, w), offsets (2, h, w), points (10, h, w)
    retinaface  of strides 8, 16, 32 in one list, with 2 anchors: boxes (n, 4), scores (n, 2), points (n, 10)

The outputs may come in any order, but for CenterFace's sizes, which are before its offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from refnet.arrays import Pair
from refnet.errors import OptionError
from refnet.graph import Graph
from refnet.ops import Shape

#: Indices of a network's outputs: of each level, in the order that the module gives.
Levels = tuple[tuple[int, ...], ...]

#: Of YuNet, SCRFD and RetinaFace.
STRIDES = (8, 16, 32)
#: The sides in pixels of each stride's anchors.
RETINAFACE_ANCHORS: Mapping[int, tuple[int, ...]] = {8: (16, 32), 16: (64, 128), 32: (256, 512)}
ULTRALIGHT_ANCHORS: Mapping[int, tuple[int, ...]] = {
    8: (10, 16, 24),
    16: (32, 48),
    32: (64, 96),
    64: (128, 192, 256),
}
#: Of CenterFace.
MAP_STRIDE = 4


def cells(size: Pair, stride: int) -> Pair:
    """(rows, columns) of the cells of `stride` on an input of `size`."""
    return -(-size[0] // stride), -(-size[1] // stride)


def decoder_of(graph: Graph) -> str | None:
    """The name of the published detector that `graph` has the outputs of; None where it is none of them."""
    channels, *size = graph.input_shape
    if channels != 3:
        return None
    shapes = _output_shapes(graph)
    return next((name for name, find in _FIND.items() if find(shapes, (size[0], size[1]))), None)


def levels(graph: Graph, decoder: str) -> Levels:
    """The outputs of `graph` as those of the published detector `decoder`.

    Raises:
        OptionError: they are not of that kind.
    """
    shapes = _output_shapes(graph)
    found = _FIND[decoder](shapes, (graph.input_shape[1], graph.input_shape[2]))
    if found is None:
        raise OptionError(
            f"the outputs of {graph.name} are not those of {decoder}; for an input of "
            f"{' × '.join(map(str, graph.input_shape[1:]))} they have the shapes "
            f"{', '.join(map(str, shapes[:16]))}"
        )
    return found


def _output_shapes(graph: Graph) -> list[Shape]:
    shapes = graph.shapes()
    return [tuple(shapes[name]) for name in graph.outputs]


def _lists(shapes: Sequence[Shape], lengths: Sequence[int], widths: Sequence[int]) -> Levels | None:
    """Of each length, the outputs (length, width); None where there are others, or not all of them."""
    rest: dict[Shape, list[int]] = {}
    for i, shape in enumerate(shapes):
        rest.setdefault(shape, []).append(i)
    found = []
    for length in lengths:
        if any(len(rest.get((length, width), ())) < widths.count(width) for width in widths):
            return None
        found.append(tuple(rest[length, width].pop(0) for width in widths))
    return None if any(rest.values()) else tuple(found)


def _yunet(shapes: Sequence[Shape], size: Pair) -> Levels | None:
    return _lists(shapes, [_count(size, stride) for stride in STRIDES], (1, 1, 4, 10))


def _scrfd(shapes: Sequence[Shape], size: Pair) -> Levels | None:
    lengths = [2 * _count(size, stride) for stride in STRIDES]
    return _lists(shapes, lengths, (1, 4, 10)) or _lists(shapes, lengths, (1, 4))


def _ultralight(shapes: Sequence[Shape], size: Pair) -> Levels | None:
    return _lists(shapes, [_anchors(size, ULTRALIGHT_ANCHORS)], (2, 4))


def _retinaface(shapes: Sequence[Shape], size: Pair) -> Levels | None:
    return _lists(shapes, [_anchors(size, RETINAFACE_ANCHORS)], (4, 2, 10))


def _centerface(shapes: Sequence[Shape], size: Pair) -> Levels | None:
    rest = list(shapes)
    found = []
    for channels in (1, 2, 2, 10):
        wanted = (channels, *cells(size, MAP_STRIDE))
        if wanted not in rest:
            return None
        found.append(rest.index(wanted))
        rest[found[-1]] = ()
    return None if any(rest) else (tuple(found),)


def _count(size: Pair, stride: int) -> int:
    rows, columns = cells(size, stride)
    return rows * columns


def _anchors(size: Pair, anchors: Mapping[int, tuple[int, ...]]) -> int:
    return sum(len(sides) * _count(size, stride) for stride, sides in anchors.items())


_FIND: Mapping[str, Callable[[Sequence[Shape], Pair], Levels | None]] = {
    "yunet": _yunet,
    "scrfd": _scrfd,
    "ultralight": _ultralight,
    "centerface": _centerface,
    "retinaface": _retinaface,
}
