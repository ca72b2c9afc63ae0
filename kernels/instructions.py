"""The instruction set: what the integers of a program mean.

A program is int64: WIDTH integers for each instruction, then lists that instructions point to by their position. The
first integer is the opcode, which says what runs; each of the others is a *field*, and a name has one column in every
opcode. Fields that an opcode does not use are zero, and so is every field of NOTHING: a zeroed instruction does nothing.

Offsets and pitches are in floats unless said otherwise. A pixel of a block is one vector of LANES floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

(
    NOTHING,
    POINTWISE,  # a 1x1 convolution or a linear layer
    DENSE,  # a k x k convolution of channel blocks
    PLANAR,  # a k x k convolution of the caller's image
    WINOGRAD,  # a 3x3 convolution by F(4x4, 3x3) or F(6x6, 3x3)
    DEPTHWISE,  # a 3x3 convolution of each channel by itself
    DEPTHWISE_WINDOW,  # a convolution of each channel by itself with any window, of a map in a frame
    GLOBAL_AVERAGE,  # the mean of a whole map
    WINDOW_POOL,  # mean or maximum over windows
    SIGMOID,  # 1 / (1 + exp(-x))
    SOFTMAX,  # over the channels of every pixel
    ADD,  # activation(x + other), or activation(x)
    MULTIPLY,  # x * other
    AFFINE,  # x * scale + shift, between two limits
    UPSAMPLE,  # every pixel repeated
    RESAMPLE,  # every pixel between four of the input, or a copy of one
    SPREAD,  # pixels apart from each other, or a map in a frame
    DEPTH_TO_SPACE,  # blocks of channels into the places of a larger map
    GATHER,  # channels into other lanes
    LOAD_IMAGE,  # the caller's planar image into channel blocks
    STORE_OUTPUT,  # channel blocks into the caller's planar array
    PROBE,  # multiply-adds alone, to measure the peak of a core
) = range(22)

#: What runs, for people, by opcode.
OPCODES = (
    "nothing",
    "pointwise",
    "dense",
    "planar",
    "winograd",
    "depthwise",
    "depthwise_window",
    "global_average",
    "window_pool",
    "sigmoid",
    "softmax",
    "add",
    "multiply",
    "affine",
    "upsample",
    "resample",
    "spread",
    "depth_to_space",
    "gather",
    "load_image",
    "store_output",
    "probe",
)

# --------------------------------------------------------------------------------------------- fields

OPCODE = 0
Y = 1  # offset in the arena of the first result; of STORE_OUTPUT in the outputs of an image
X = 2  # offset in the arena of the first input
OTHER = 3  # offset in the arena of a second input, or -1
PIXELS = 4  # pixels of a block; where blocks lie side by side, of all of them
BLOCKS = 5  # channel blocks of the result
BLOCK_PITCH = 6  # from one block of the result to the next
WEIGHTS = 7  # offset in the weights of the packed matrix
CONSTANTS = 8  # offset in the weights of scale, shift and limits, 1 / area, slopes, what fills a frame, the limits of lanes, or shares
INPUTS = (
    9  # list: the offset in the arena of each input block (for GATHER, of each lane; -1 for zeros)
)
INPUT_BLOCKS = 10  # channel blocks of the input; for PLANAR its channels
SEGMENTS = 11  # list of (offset, lanes): input channels that lie side by side
SEGMENT_COUNT = 12  # pairs of that list; for WINOGRAD there are INPUT_BLOCKS
DEPTH = 13  # input channels over all segments; channels of an image or output
FLAGS = 14  # of `epilogue.py`
SECOND = 15  # from a result to what is stored second
RESIDUAL = 16  # from a result to what is added to it
SINGLE = 17  # 1 if a layer has one pixel, or one column
FIRST = 18  # what is done, from here: pixels, patches or rows of the result (of the input where that is smaller)
LAST = 19  # up to here
GROUP = 20  # so many of them together, so that their inputs stay in cache
SCRATCH = 21  # offset in the arena of the workspace
ROWS = 22  # of the input map
COLUMNS = 23
OUT_COLUMNS = 24  # of the result
KERNEL_ROWS = 25  # of a window: what it spans, which is more than its taps where these are dilated
KERNEL_COLUMNS = 26
STRIDE = 27  # rows from one window to the next; columns as well if there is no STRIDE_COLUMNS
STRIDE_COLUMNS = 28
TOP = 29  # rows of padding above the map; of SPREAD also less than none, which cuts the map
LEFT = 30  # columns of padding left of it
PHASE = 31  # columns of the copied band that a stride puts side by side, see `dense.py`
COPY = 32  # 1 if the band is copied, 0 if it is read where it lies
RELU_ON_LOAD = 33  # 1 if the input's ReLU was deferred to here
BIAS = 34  # offset in the weights of the bias of a Winograd layer
PRODUCT = 35  # list: the instruction of the products of a Winograd layer
SIDE = 36  # rows and columns of outputs that a patch makes, 4 or 6
MAXIMUM = 37  # 1 for a maximum, 0 for a mean
CHANNEL_PITCH = 38  # from channel to channel of an output
PIXEL_PITCH = 39  # from pixel to pixel of an output
ZEROS = 40  # offset in the weights of a row of zeros as long as a row of the input
ROUNDS = 41  # of PROBE
REPEAT_ROWS = 42  # rows of the result for each one of the input
REPEAT_COLUMNS = 43  # columns of the result for each one of the input
INPUT_PITCH = 44  # from one block of the input to the next
DILATION = 45  # rows from one tap of a window to the next
DILATION_COLUMNS = 46
STEP = 47  # from one vector of a second input to the next; 0 if one serves all
PLACES = 48  # list of (one, other): columns of the input for each column of the result, then rows for each of its rows

#: Integers of an instruction.
WIDTH = 49

#: {column: name of the field}.
NAMES: Mapping[int, str] = {
    column: name
    for name, column in tuple(globals().items())
    if name.isupper()
    and isinstance(column, int)
    and name not in {*map(str.upper, OPCODES), "WIDTH"}
}

#: What every product says about its results and its inputs.
_RESULT = (Y, BLOCKS, BLOCK_PITCH, FLAGS, SECOND, RESIDUAL)
_PRODUCT = (*_RESULT, WEIGHTS, SEGMENTS, DEPTH, FIRST, LAST, GROUP)
_WINDOW = (SCRATCH, INPUT_BLOCKS, ROWS, COLUMNS, OUT_COLUMNS, KERNEL_ROWS, STRIDE, TOP, LEFT, PHASE)

#: {opcode: the fields that it uses}.
FIELDS: Mapping[int, tuple[int, ...]] = {
    NOTHING: (),
    POINTWISE: (*_PRODUCT, SEGMENT_COUNT, SINGLE),
    DENSE: (*_PRODUCT, SEGMENT_COUNT, *_WINDOW, SINGLE, INPUTS, COPY),
    PLANAR: (*_PRODUCT, SEGMENT_COUNT, *_WINDOW, CONSTANTS),
    WINOGRAD: (
        *(*_PRODUCT, SCRATCH, INPUTS, INPUT_BLOCKS, ROWS, COLUMNS),
        *(RELU_ON_LOAD, BIAS, PRODUCT, SIDE),
    ),
    DEPTHWISE: (
        *(Y, X, BLOCKS, WEIGHTS, ROWS, COLUMNS, OUT_COLUMNS),
        *(STRIDE, TOP, LEFT, FLAGS, RESIDUAL, FIRST, LAST, ZEROS),
        *(INPUT_PITCH, BLOCK_PITCH),
    ),
    DEPTHWISE_WINDOW: (
        *(*_RESULT, X, INPUT_PITCH, WEIGHTS, COLUMNS, OUT_COLUMNS, KERNEL_ROWS, KERNEL_COLUMNS),
        *(STRIDE, STRIDE_COLUMNS, DILATION, DILATION_COLUMNS, FIRST, LAST),
    ),
    GLOBAL_AVERAGE: (Y, PIXELS, BLOCKS, CONSTANTS, INPUTS),
    WINDOW_POOL: (
        *(Y, MAXIMUM, BLOCKS, CONSTANTS, INPUTS, ROWS, COLUMNS, OUT_COLUMNS),
        *(KERNEL_ROWS, KERNEL_COLUMNS, STRIDE, STRIDE_COLUMNS, BLOCK_PITCH, FIRST, LAST),
    ),
    SIGMOID: (Y, X, PIXELS),
    SOFTMAX: (Y, PIXELS, BLOCKS, CONSTANTS, INPUTS, FIRST, LAST),
    ADD: (Y, X, OTHER, PIXELS, FLAGS, CONSTANTS),
    MULTIPLY: (Y, X, OTHER, PIXELS, STEP),
    AFFINE: (Y, X, PIXELS, CONSTANTS),
    UPSAMPLE: (Y, BLOCKS, INPUTS, ROWS, COLUMNS, REPEAT_ROWS, REPEAT_COLUMNS, FIRST, LAST),
    RESAMPLE: (
        *(Y, BLOCKS, BLOCK_PITCH, INPUTS, ROWS, COLUMNS, OUT_COLUMNS, PLACES, CONSTANTS),
        *(FIRST, LAST),
    ),
    SPREAD: (
        *(Y, BLOCKS, BLOCK_PITCH, INPUTS, ROWS, COLUMNS, OUT_COLUMNS, CONSTANTS),
        *(STRIDE, STRIDE_COLUMNS, TOP, LEFT, FIRST, LAST),
    ),
    DEPTH_TO_SPACE: (Y, BLOCKS, INPUTS, ROWS, COLUMNS, REPEAT_ROWS, REPEAT_COLUMNS, FIRST, LAST),
    GATHER: (Y, PIXELS, BLOCKS, INPUTS),
    LOAD_IMAGE: (Y, PIXELS, DEPTH, CONSTANTS),
    STORE_OUTPUT: (Y, PIXELS, DEPTH, INPUTS, CHANNEL_PITCH, PIXEL_PITCH),
    PROBE: (Y, ROUNDS),
}


class Share(NamedTuple):
    """How the extent of an instruction, FIRST to LAST, is shared among threads.

    Attributes:
        grain: the smallest share, of what FIRST and LAST count.
        work: given the value of each field, about how many multiply-adds, or values moved, one of what FIRST and LAST
            count takes for each channel of the result.
    """

    grain: int
    work: Callable[[Callable[[int], int]], int]


#: {opcode: how it is shared}. All other opcodes are never cut.
SHARES: Mapping[int, Share] = {
    POINTWISE: Share(14, lambda field: field(DEPTH)),  # the pixels of a tile
    DENSE: Share(1, lambda field: field(OUT_COLUMNS) * field(DEPTH)),
    PLANAR: Share(1, lambda field: field(OUT_COLUMNS) * field(DEPTH)),
    WINOGRAD: Share(1, lambda field: (field(SIDE) + 2) ** 2 * field(DEPTH)),
    DEPTHWISE: Share(1, lambda field: field(OUT_COLUMNS) * 9),
    DEPTHWISE_WINDOW: Share(
        1, lambda field: field(OUT_COLUMNS) * field(KERNEL_ROWS) * field(KERNEL_COLUMNS)
    ),
    SOFTMAX: Share(1, lambda field: 30),  # multiply-adds for one exponential, about
    UPSAMPLE: Share(1, lambda field: field(COLUMNS) * field(REPEAT_ROWS) * field(REPEAT_COLUMNS)),
    RESAMPLE: Share(1, lambda field: 4 * field(OUT_COLUMNS)),
    SPREAD: Share(1, lambda field: field(OUT_COLUMNS)),
    DEPTH_TO_SPACE: Share(
        1, lambda field: field(COLUMNS) * field(REPEAT_ROWS) * field(REPEAT_COLUMNS)
    ),
    WINDOW_POOL: Share(
        1, lambda field: field(OUT_COLUMNS) * field(KERNEL_ROWS) * field(KERNEL_COLUMNS)
    ),
}
