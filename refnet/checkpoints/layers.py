"""The layers of files that list them in execution order (ONNX, ncnn)."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or fully connected layer, and the names of its tensors in the file."""

    op: Literal["conv", "linear"]
    weight: str
    bias: str | None
