"""The debug mode itself: a stray write anywhere is found, and what nothing wrote shows as NaN."""

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from refnet.kernels import guard, instructions, machine_code
from tests import kernel_checks as checks

ARENA, IMAGE, OUTPUT = range(3)


@pytest.fixture(scope="module")
def plan() -> checks.Plan:
    net = checks.Net((3, 6, 7))
    x = net.conv("input", "first", 20, 3, padding=1)
    graph = checks.graph_of(net, net.conv(x, "second", 9, 1))
    return checks.compile_plan(graph, checks.random_weights(graph), guard=16)


@pytest.mark.parametrize(
    ("buffer", "end", "offset", "message"),
    [
        (ARENA, False, -1, "outside of its arena"),
        (ARENA, True, -1, "outside of its arena"),  # the guard after the last buffer
        (ARENA, True, 0, "outside of its arena"),
        (OUTPUT, False, -1, "outside of its outputs"),
        (OUTPUT, True, 0, "outside of its outputs"),
        (OUTPUT, True, guard.MARGIN - 1, "outside of its outputs"),
        (IMAGE, False, -1, "wrote to its input"),
        (IMAGE, False, 0, "wrote to its input"),
        (IMAGE, True, 0, "wrote to its input"),
    ],
)
def test_one_float_in_the_wrong_place_is_found(
    plan: checks.Plan,
    monkeypatch: pytest.MonkeyPatch,
    buffer: int,
    end: bool,
    offset: int,
    message: str,
) -> None:
    compiled = machine_code.entry()
    sizes = {ARENA: plan.arena, IMAGE: 3 * 6 * 7, OUTPUT: plan.output_size}

    def stray(call: Any, image: int, images: int, output: int) -> None:
        compiled(call, image, images, output)
        start = {ARENA: call._obj.arena, IMAGE: image, OUTPUT: output}[buffer]
        ctypes.c_float.from_address(start + 4 * (offset + end * sizes[buffer])).value = 1.0

    x = checks.image(plan.input_shape)
    guard.run_guarded(plan, x)
    monkeypatch.setattr(machine_code, "entry", lambda: stray)
    with pytest.raises(guard.GuardError, match=message):
        guard.run_guarded(plan, x)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_a_missing_instruction_would_have_written_is_nan(
    plan: checks.Plan, number: int
) -> None:
    program = plan.program.copy()
    start = number * instructions.WIDTH
    program[start : start + instructions.WIDTH] = instructions.NOTHING  # all zeros
    (y,) = guard.run_guarded(replace(plan, program=program), checks.image(plan.input_shape))
    assert np.isnan(y).all()
