"""Programs of several threads: what each may touch is proved against the plan's own program."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from refnet.kernels import assembler, partition, runner, streaming, verify
from refnet.kernels import instructions as ops
from tests import kernel_checks as checks


@pytest.fixture(scope="module")
def plan() -> checks.Plan:
    """A stream of rows and one of pixels, and every other kernel that is shared, each a phase of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "STREAMED", 1)
        patch.setattr(streaming, "BAND_PIXELS", 14)
        patch.setattr(streaming, "BAND_FLOATS", 0)
        net = checks.Net((3, 61, 53))
        x = net.conv("input", "planar", 20, 3, padding=1)
        x = net.conv(x, "dense", 40, 3, stride=2, padding=1)
        y = net.conv(net.add("relu", "r", x), "winograd", 40, 3, padding=1)
        x = net.add("add", "sum", x, y)
        x = net.conv(x, "depthwise", 40, 3, stride=2, padding=1, groups=40)
        x = net.conv(x, "dense2", 24, 3, stride=2)
        x = net.conv(x, "window", 24, 5, padding=2, groups=24)
        x = net.add("upsample", "larger", x, factor=(2, 2))
        x = net.add("depth_to_space", "largest", x, block=2, depth_first=True)
        between: Any = {"factor": (2, 1), "coordinates": "half_pixel"}
        x = net.add("upsample_linear", "between", x, **between)
        window: Any = {"kernel": (2, 2), "stride": (1, 1), "padding": (0, 0)}
        x = net.add("max_pool", "pool", x, **window)
        z = net.conv(net.conv(x, "tree", 20, 1), "leaf", 18, 1)
        return checks.compile_plan(
            graph := checks.graph_of(net, net.add("softmax", "soft", z, axis=1)),
            checks.random_weights(graph),
        )


@pytest.fixture(autouse=True)
def least_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "LEAST_WORK", 1)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_shares_give_the_bits_of_the_whole(plan: checks.Plan, threads: int) -> None:
    x = checks.image(plan.input_shape)
    many = runner.Runner(plan, threads)
    many.__dict__["_large"] = True
    assert_array_equal(many.run(x)[0], runner.Runner(plan).run(x)[0])
    shared = {
        ops.OPCODES[plan.instructions[n].opcode]
        for first, last, together in many._partitioned().phases
        for n in range(first, last)
        if together
    }
    assert shared == {ops.OPCODES[opcode] for opcode in ops.SHARES}


def changed(
    monkeypatch: pytest.MonkeyPatch, column: int, change: int, opcode: int | None = None
) -> None:
    """Shares that are wrong by a little in one field, for all threads but the first one."""
    right = partition._share

    def wrong(
        instruction: assembler.Instruction, thread: int, threads: int
    ) -> assembler.Instruction | None:
        share = right(instruction, thread, threads)
        if share is None or thread == 0 or opcode not in (None, share.opcode):
            return share
        operand: Any = share.operands[column]
        return replace(share, operands={**share.operands, column: operand + change})

    monkeypatch.setattr(partition, "_share", wrong)


@pytest.mark.parametrize("opcode", sorted(set(ops.SHARES) - {ops.PLANAR, ops.POINTWISE}))
@pytest.mark.parametrize(("column", "change"), [(ops.FIRST, -1), (ops.FIRST, 1), (ops.LAST, 1)])
def test_shares_that_overlap_leave_gaps_or_go_too_far_are_refused(
    plan: checks.Plan, monkeypatch: pytest.MonkeyPatch, opcode: int, column: int, change: int
) -> None:
    changed(monkeypatch, column, change, opcode)
    with pytest.raises(verify.PlanError):
        partition.partition(plan, 3)
    # Without the check, these programs would run.
    monkeypatch.setattr(verify, "verify_partition", lambda *_: None)
    assert len(partition.partition(plan, 3).programs) == 3


def test_scratch_of_another_thread_is_refused(
    plan: checks.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in (0, plan.per_thread - 16, plan.per_thread // 2):
        monkeypatch.setattr(partition, "Assembler", lambda shift, w=wrong: assembler.Assembler(w))
        with pytest.raises(verify.PlanError, match=r"touches .*, (not its own|which was not)"):
            partition.partition(plan, 2)


def test_a_band_that_two_threads_make_or_none_does_is_refused(
    plan: checks.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = partition._shares
    for wrong in (lambda t: 0, lambda t: 1):
        monkeypatch.setattr(
            partition, "_shares", lambda p, ph, t, n, w=wrong: right(p, ph, w(t), n)
        )
        with pytest.raises(verify.PlanError):
            partition.partition(plan, 2)


@settings(max_examples=150)
@given(data=st.data())
def test_a_tampered_program_of_a_thread_is_refused_or_touches_what_was_proved(
    plan: checks.Plan, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "LEAST_WORK", 1)
        split = partition.partition(plan, 3)
    thread = data.draw(st.integers(0, 2))
    program = split.programs[thread].copy()
    count = len(plan.instructions)
    working = [n for n in range(count) if program[n * ops.WIDTH + ops.OPCODE] != ops.NOTHING]
    number = data.draw(st.sampled_from(working))
    column = data.draw(st.sampled_from(ops.FIELDS[plan.instructions[number].opcode]))
    program[number * ops.WIDTH + column] += data.draw(
        st.sampled_from([-1, 1, -16, 16, 48, -(1 << 20), 1 << 20])
    )
    programs = [*split.programs]
    programs[thread] = program
    try:
        verify.verify_partition(plan, programs, split.phases)
    except verify.PlanError:
        return
    whole = verify.accessed(verify.Program(plan.program, count), number)
    access = verify.accessed(verify.Program(program, count), number)
    shared = plan.arena - plan.per_thread
    allowed = np.zeros(plan.arena, bool)
    for start, stop in whole.writes + whole.scratch:
        allowed[start:stop] = True
    for start, stop in access.writes + access.scratch:
        shift = thread * plan.per_thread if start >= shared else 0
        assert allowed[start - shift : stop - shift].all()


def test_an_access_is_contained_where_every_range_is() -> None:
    whole, part = verify.Access(), verify.Access()
    whole.reads, whole.writes = [(0, 10), (10, 20)], [(32, 48)]
    part.reads, part.writes = [(5, 15), (0, 20)], [(32, 33), (47, 48)]
    verify.contained(part, whole)
    for name, ranges in (("reads", [(19, 21)]), ("writes", [(31, 33)]), ("image", [(0, 1)])):
        wrong = verify.Access()
        setattr(wrong, name, ranges)
        with pytest.raises(verify.PlanError, match=f"of the {name}, which was not proved"):
            verify.contained(wrong, whole)
