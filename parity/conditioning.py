"""Weights under which two right programs must agree on a gradient, in float32 too.

Where a rectifier's input lies within rounding of its kink, one program sees it open and the other
shut, and their gradients differ by a whole unit's share: no tolerance describes that, and none is
loosened for it. With hundreds of thousands of rectifiers per image it happens in most float32 runs.
So the biases are moved a little, about a thousandth of the activations' spread, until no rectifier's
input is near a kink for the image at hand.

A maximum over a window has a kink where its two largest values meet. They come from one channel, so no
bias parts them: such an image is left for another.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

#: Distance kept from a kink, relative to the tensor's largest magnitude: about ten times the error
#: that float32 leaves there; half of it after rounding to cells.
MARGIN = 1e-5

#: How many margins a bias may move, tried in turn; the last is a fifth of the largest magnitude.
REACHES = (64, 1_000, 20_000)


def settle(module: nn.Module, x: Tensor) -> int:
    """Moves the module's biases so that no rectifier's input for `x` is near a kink.

    Args:
        module: in evaluation mode, float64; changed in place.
        x: (N, C, H, W), float64.

    Returns:
        The number of rectifier inputs that are still within a tenth of the margin, about twice the
        error there: no bias feeds them alone (they follow another rectifier, or a conv without
        bias), or none could be moved far enough; and of windows whose two largest values are within a
        fortieth. Another `x` may have none.
    """
    with torch.no_grad(), _KinkAvoidance() as avoidance:
        module(x)
    return int(avoidance.near)


class _KinkAvoidance(TorchFunctionMode):
    """Remembers the bias that was added last, and moves it when a rectifier follows."""

    def __init__(self) -> None:
        super().__init__()
        self.bias: Tensor | None = None
        self.near = 0

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.relu:
            self.rectify(args[0], 0.0)
        elif function is F.hardtanh:
            self.rectify(args[0], kwargs["min_val"], kwargs["max_val"])
        elif function is F.max_pool2d:
            self.compete(args[0], *args[1:], **kwargs)
        result = function(*args, **kwargs)
        if function is F.conv2d:
            self.bias = args[2]
        elif function is F.batch_norm:
            self.bias = kwargs["bias"]
        return result

    def rectify(self, z: Tensor, *kinks: float) -> None:
        """Moves `z`, and the bias that it came from, in place."""
        margin = MARGIN * z.abs().max().item()
        if self.bias is not None:
            shift = kink_shift(z.transpose(0, 1).flatten(1), kinks, margin)
            z += shift[:, None, None]
            self.bias += shift
            self.bias = None
        # A sum of rectified tensors is 0 exactly or not at all, and 6 exactly where a clamped unit
        # meets a shut one: both programs then follow the same convention.
        summed = bool((z >= 0).all())
        for kink in kinks[1:] if summed else kinks:
            distance = (z - kink).abs()
            self.near += int(((distance < margin / 10) & (distance > 0)).sum())

    def compete(
        self, z: Tensor, kernel_size: int, stride: int | None = None, **others: Any
    ) -> None:
        """Counts the windows in which another value is as large as the largest, but for rounding."""
        assert others.get("padding", 0) == 0 and others.get("dilation", 1) == 1, others
        step = kernel_size if stride is None else stride
        windows = z.unfold(2, kernel_size, step).unfold(3, kernel_size, step).flatten(-2)
        first, second = windows.topk(2).values.unbind(-1)
        # Of equal values, such as zeros behind a rectifier, both programs take the first.
        distance = first - second
        margin = MARGIN * z.abs().max().item()
        # Of the thousands of windows of an image several would be within a tenth of the margin, for any image.
        self.near += int(((distance < margin / 40) & (distance > 0)).sum())


def kink_shift(z: Tensor, kinks: tuple[float, ...], margin: float) -> Tensor:
    """The smallest shift (C,) after which no value of `z` (C, M) is within `margin` / 2 of a kink.

    A channel without such a shift within reach is not shifted.
    """
    shift = torch.zeros(len(z), dtype=z.dtype)
    left = torch.arange(len(z))
    for reach in REACHES:
        found, moved = _shift_within(reach, z[left], kinks, margin)
        shift[left[found]] = moved[found]
        left = left[~found]
        if not len(left):
            break
    return shift


def _shift_within(
    reach: int, z: Tensor, kinks: tuple[float, ...], margin: float
) -> tuple[Tensor, Tensor]:
    """Whether a channel has a good shift of up to `reach` margins, and the smallest.

    The neighbourhood of each kink is cut into cells of one margin; a shift is good if the cell that
    it brings onto the kink, and the two beside it, hold no value.
    """
    taken = torch.zeros(len(z), 2 * reach + 1, dtype=torch.bool)
    for kink in kinks:
        cell = torch.round((z - kink) / margin).clamp(-reach, reach).long() + reach
        taken.scatter_(1, cell, True)
    taken[:, [0, -1]] = True  # what lies beyond the reach was counted there
    good = ~(taken[:, :-2] | taken[:, 1:-1] | taken[:, 2:])
    cells = torch.arange(1 - reach, reach)
    nearest = torch.where(good, cells.abs(), 2 * reach).argmin(1)
    return good.any(1), -margin * cells[nearest].to(z.dtype)
