"""ncnn's pair of files: `.param`, a text that lists the layers, and `.bin`, their weights in a row.

    .param   7767517
             <count of layers> <count of blobs>
             <type> <name> <count of inputs> <count of outputs> <inputs> <outputs> <key>=<value> ...
    .bin     for each layer with weights, in order: u32 tag, weights (O, I/groups, kh, kw), padded
             to 4 bytes; then the biases, float32 without a tag

Tag 0 is float32 and 0x01306B47 is float16; the others are quantised and refused. Keys of a
Convolution: 0 outputs, 1 and 11 kernel width and height, 5 whether it has biases, 6 count of
weights; an InnerProduct's: 0 outputs, 1 biases, 2 count of weights. Source: Tencent/ncnn,
docs/developer-guide/param-and-model-file-structure.md and src/modelbin.cpp.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refnet.checkpoints.elements import Array, shaped
from refnet.checkpoints.layers import Layer
from refnet.errors import CheckpointError

MAGIC = b"7767517"
_TAGS = {0: "f4", 0x01306B47: "f2"}
_CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")
_FUSED = {"1": "ReLU", "2": "LeakyRelu", "3": "Clip", "4": "Sigmoid", "5": "Mish", "6": "HardSwish"}
# fmt: off
_WITHOUT_WEIGHTS = frozenset([
    "BinaryOp", "Cast", "Clip", "Concat", "Crop", "Dropout", "ELU", "Eltwise", "Exp",
    "ExpandDims", "Flatten", "HardSigmoid", "HardSwish", "Input", "Interp", "Log", "Noop",
    "Packing", "Padding", "Permute", "Pooling", "Power", "ReLU", "Reduction", "Reshape",
    "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Swish", "TanH", "Threshold",
    "UnaryOp",
])
# fmt: on


@dataclass(frozen=True)
class ParamLayer:
    """One line of a `.param` text."""

    kind: str
    name: str
    numbers: dict[int, str]

    def number(self, key: int, default: int = 0) -> int:
        """The integer under `key`."""
        text = self.numbers.get(key, str(default))
        if not text.isascii() or not text.isdecimal() or len(text) > 10:
            raise CheckpointError(
                f"layer {self.name!r} has {key}={text[:20]}; a count was expected"
            )
        return int(text)


def partner(path: Path) -> Path:
    """The other file of the pair that `path` belongs to."""
    return path.with_suffix(".bin" if path.suffix == ".param" else ".param")


def read_ncnn(param: bytes, weights: bytes) -> tuple[dict[str, Array], tuple[Layer, ...]]:
    """The tensors ("<layer>.weight", "<layer>.bias") and the layers that hold them, in order.

    Raises CheckpointError where the text is malformed, a layer or a tag is of a kind that is not
    read, the weights are cut off, or bytes are left over.
    """
    tensors: dict[str, Array] = {}
    layers: list[Layer] = []
    position = 0
    for layer in parse_param(param):
        if layer.kind in _WITHOUT_WEIGHTS:
            continue
        shape, has_bias = _weights_of(layer)
        weight, position = _tagged(weights, position, shape, layer.name)
        names = [f"{layer.name}.weight", f"{layer.name}.bias"]
        if names[0] in tensors:
            raise CheckpointError(f"two of its layers are named {layer.name!r}")
        tensors[names[0]] = weight
        if has_bias:
            tensors[names[1]], position = _plain(weights, position, shape[:1], "f4", layer.name)
        layers.append(
            Layer(
                "conv" if layer.kind in _CONVOLUTIONS else "linear",
                names[0],
                names[1] if has_bias else None,
            )
        )
    if position != len(weights):
        raise CheckpointError(
            f"{len(weights) - position:,} bytes of its weights belong to no layer. Are the .param and "
            f"the .bin of one network?"
        )
    return tensors, tuple(layers)


def parse_param(param: bytes) -> list[ParamLayer]:
    """The layers of a `.param` text, in order."""
    try:
        lines = [line.split() for line in param.decode("utf-8").splitlines()]
        count = int(lines[1][0]) if len(lines[1][0]) < 10 else -1
    except (UnicodeDecodeError, IndexError, ValueError) as error:
        raise CheckpointError("its list of layers is not a .param text of ncnn") from error
    body = [words for words in lines[2:] if words]
    if count != len(body):
        raise CheckpointError(f"its .param text announces {count} layers and lists {len(body)}")
    return [_param_layer(words) for words in body]


def operators(param: bytes) -> str:
    """How often each kind of layer occurs, activations inside of convolutions among them: "Clip=2 Convolution=3".

    An activation with a slope or bounds other than 0 and 6 has them in its name, without spaces.
    """
    kinds: Counter[str] = Counter()
    for layer in parse_param(param):
        values = [layer.numbers.get(key, "").strip() for key in (0, 1)]
        if layer.kind == "ReLU" and _number(values[0]) not in (None, 0):
            kinds["LeakyRelu"] += 1
        elif layer.kind == "Clip" and [_number(value) for value in values] != [0, 6]:
            kinds[f"Clip({values[0][:8]},{values[1][:8]})"] += 1
        else:
            kinds[layer.kind] += 1
        if layer.kind in (*_CONVOLUTIONS, "InnerProduct") and layer.numbers.get(9, "0") != "0":
            bounds = [_number(value) for value in layer.numbers.get(-23310, "").split(",")]
            fused = _FUSED.get(layer.numbers[9], "Mish")
            kinds[fused if fused != "Clip" or bounds == [2, 0, 6] else "Clip(other)"] += 1
    return " ".join(f"{kind}={count}" for kind, count in sorted(kinds.items()))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _param_layer(words: list[str]) -> ParamLayer:
    if len(words) < 4 or not (words[2] + words[3]).isdecimal() or len(words[2] + words[3]) > 8:
        raise CheckpointError(f"its .param text has a malformed line: {' '.join(words)[:60]!r}")
    numbers: dict[int, str] = {}
    for word in words[4 + int(words[2]) + int(words[3]) :]:
        key, equals, value = word.partition("=")
        if not equals or not key.removeprefix("-").isdecimal() or len(key) > 6:
            raise CheckpointError(f"layer {words[1]!r} of its .param text has {word[:20]!r}")
        numbers[int(key)] = value
    return ParamLayer(words[0], words[1], numbers)


def _weights_of(layer: ParamLayer) -> tuple[tuple[int, ...], bool]:
    """The shape of a layer's weights, and whether biases follow."""
    outputs = layer.number(0)
    if layer.kind == "InnerProduct":
        count, per_output, has_bias = layer.number(2), outputs, layer.number(1) != 0
        kernel: tuple[int, ...] = ()
    elif layer.kind in _CONVOLUTIONS:
        width = layer.number(1)
        kernel = (layer.number(11, width), width)
        count, per_output, has_bias = (
            layer.number(6),
            outputs * kernel[0] * width,
            layer.number(5) != 0,
        )
    else:
        raise CheckpointError(
            f"layer {layer.name!r} is a {layer.kind}, whose weights are not read here. Read are "
            f"Convolution, ConvolutionDepthWise and InnerProduct."
        )
    if layer.number(8) != 0:
        raise CheckpointError(f"layer {layer.name!r} is quantised to int8, which is not read here")
    if per_output == 0 or count == 0 or count % per_output:
        raise CheckpointError(f"layer {layer.name!r} has {count} weights for {outputs} outputs")
    return (outputs, count // per_output, *kernel), has_bias


def _tagged(weights: bytes, position: int, shape: tuple[int, ...], name: str) -> tuple[Array, int]:
    tag = int.from_bytes(weights[position : position + 4], "little")
    if tag not in _TAGS:
        raise CheckpointError(
            f"the weights of layer {name!r} have the tag 0x{tag:08X}, a quantised or unknown encoding. "
            f"Read are float32 (0) and float16 (0x01306B47)."
        )
    array, end = _plain(weights, position + 4, shape, _TAGS[tag], name)
    return array, end + (end - position) % 4  # float16 is padded to 4 bytes


def _plain(
    weights: bytes, position: int, shape: tuple[int, ...], dtype: str, name: str
) -> tuple[Array, int]:
    count = int(np.prod(shape, dtype=object))
    end = position + count * np.dtype(dtype).itemsize
    if end > len(weights):
        raise CheckpointError(
            f"its weights are cut off: layer {name!r} needs {count:,} numbers at byte {position:,} of "
            f"{len(weights):,}. Are the .param and the .bin of one network?"
        )
    flat = np.frombuffer(weights, f"<{dtype}", count, position)
    return shaped(flat, shape, "plain"), end
