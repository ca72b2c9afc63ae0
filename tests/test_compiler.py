"""One network, many image sizes: weights are packed once, plans and arenas are kept within bounds."""

import gc
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import refnet
from refnet import engine as engines
from refnet.kernels import assembler, compiler, instructions, layout, packing, runner, simd
from refnet.passes import fold
from refnet.random_weights import random_weights
from tests import kernel_checks as checks

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("lffd-face-v2", {"width": 0.25}),
    ("lffd-plate-small", {"width": 0.25}),
    ("basketnet", {}),
]
SIZES = ((3, 150, 131), (3, 133, 160), (3, 245, 300))


def compiler_of(name: str, options: dict[str, Any]) -> compiler.Compiler:
    graph = refnet.build(name, **options)
    return compiler.Compiler(*fold(graph, random_weights(graph)))


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_a_second_image_size_packs_nothing(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = compiler_of(name, options)
    first = made.plan((3, 240, 320))

    def refuse(*_: object) -> int:
        raise AssertionError("packed again")

    monkeypatch.setattr(packing.PackedWeights, "_add", refuse)
    second = made.plan((3, 244, 330))
    assert second.weights.ctypes.data == first.weights.ctypes.data
    assert not first.weights.flags.writeable


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_a_plan_does_not_depend_on_the_sizes_before_it(name: str, options: dict[str, Any]) -> None:
    shared = compiler_of(name, options)
    plans = [shared.plan(size, guard=16) for size in SIZES]
    for size, plan in zip(SIZES, plans, strict=True):
        alone = compiler_of(name, options).plan(size, guard=16)
        x = checks.image(size)
        for y, e in zip(checks.run_guarded(plan, x), checks.run_guarded(alone, x), strict=True):
            assert_array_equal(y, e)


def test_what_does_not_fit_goes_to_a_larger_copy_and_old_plans_stay() -> None:
    packed = packing.PackedWeights(expected=40)
    first = packed.get("a", lambda: np.arange(20, dtype=np.float32))
    before = packed.view()
    second = packed.get("b", lambda: np.ones(100, np.float32))
    after = packed.view()
    assert packed.get("a", lambda: np.zeros(1, np.float32)) == first
    assert (first % packing.ALIGNMENT, second % packing.ALIGNMENT) == (0, 0)
    assert before.ctypes.data != after.ctypes.data and after.ctypes.data % 64 == 0
    assert_array_equal(before[first:][:20], np.arange(20))
    assert_array_equal(after[first:][:20], np.arange(20))
    assert_array_equal(after[second:][:100], 1)


def test_memory_is_reserved_for_all_that_a_network_may_need() -> None:
    for name, options in NETWORKS:
        made = compiler_of(name, options)
        addresses = {made.plan(size).weights.ctypes.data for size in SIZES}
        assert len(addresses) == 1


def test_operands_become_integers_and_equal_lists_share_a_place() -> None:
    shared, own = layout.Buffer("shared", 100, offset=32), layout.Buffer("own", 9, True, offset=64)
    block = layout.Block(own, 5)
    operands: dict[int, assembler.Operand] = {
        instructions.Y: block,
        instructions.X: shared,
        instructions.SCRATCH: own,
        instructions.SECOND: assembler.Distance(layout.Block(shared, 8), block),
        instructions.INPUTS: (block, 7),
        instructions.SEGMENTS: (7,),
        instructions.PRODUCT: (7,),
    }
    one = assembler.Instruction(instructions.DENSE, "n", "", operands, (), ())
    for shift in (0, 1000):
        program = assembler.Assembler(shift).program([one])
        field = dict(enumerate(program[: instructions.WIDTH].tolist()))
        assert field[instructions.OPCODE] == instructions.DENSE
        assert field[instructions.Y] == 69 + shift and field[instructions.X] == 32
        assert field[instructions.SCRATCH] == 64 + shift
        assert field[instructions.SECOND] == 40 - 69 - shift
        assert field[instructions.SEGMENTS] == field[instructions.PRODUCT]
        assert program[field[instructions.INPUTS] :][:2].tolist() == [69 + shift, 7]
        assert program[field[instructions.SEGMENTS]] == 7


# ------------------------------------------------------------------------- plans within bounds


def model_of(threads: int = 1) -> refnet.Model:
    graph = refnet.build("lffd-face-v2", width=0.125)
    return refnet.Model(graph, random_weights(graph), backend="compiled", threads=threads)


def sizes(count: int) -> Iterator[tuple[int, int, int]]:
    for i in range(count):
        yield (3, 150 + i % 41, 150 + (7 * i) % 47)


def test_plans_are_kept_by_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    first, second, third = (model.engine.runner(size) for size in sizes(3))
    assert list(model.engine._runners.values()) == [first, second, third]
    kept = (first, second, third)
    monkeypatch.setattr(engines, "PLAN_MEMORY", sum(r.plan.nbytes for r in kept))
    fourth = model.engine.runner((3, 149, 149))
    assert list(model.engine._runners.values())[-1] is fourth
    assert first not in model.engine._runners.values()
    monkeypatch.setattr(engines, "PLAN_MEMORY", 1)
    large = model.engine.runner((3, 400, 400))
    assert list(model.engine._runners.values()) == [large]
    assert model.engine._arenas is not None and model.engine._arenas.most == large.arena
    small = model.engine.runner((3, 149, 149))
    assert list(model.engine._runners.values()) == [small]
    assert model.engine._arenas.most == small.arena < large.arena


def test_a_plan_of_a_far_larger_arena_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two large sizes in turn are both kept: the newest needs that arena itself."""
    monkeypatch.setattr(engines, "ARENA_MEMORY", 0)
    engine = model_of().engine
    large = [engine.runner((3, 400, 400)), engine.runner((3, 400, 402))]
    assert list(engine._runners.values()) == large
    small = engine.runner((3, 150, 150))
    assert list(engine._runners.values()) == [small]


def test_many_image_sizes_take_no_more_memory_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PLAN_MEMORY", 2 << 20)
    model = model_of()

    def run(count: int) -> int:
        for size in sizes(count):
            model(np.zeros((1, *size), np.float32))
        gc.collect()
        return resident()

    run(40)
    before = run(40)
    assert run(300) - before < 4 << 20
    assert len(model.engine._runners) < 40


def resident() -> int:
    """Bytes of this process that are in memory."""
    file = Path("/proc/self/statm")
    if not file.exists():
        pytest.skip("this system does not say how much memory a process takes")
    return int(file.read_text().split()[1]) * resource.getpagesize()


def test_plans_of_a_model_share_an_arena_in_each_thread() -> None:
    """Whichever is run after which, in whichever thread; bits are those of a model that runs nothing else."""
    model, shapes = model_of(), [(3, 150, 160), (3, 250, 260), (3, 149, 171)]
    expected = {s: model_of()(checks.image(s)) for s in shapes}
    wrong: list[tuple[int, int, int]] = []

    def work() -> None:
        for shape in [*shapes, *shapes[::-1], shapes[0]]:
            got = model(checks.image(shape))
            if not all(np.array_equal(y, e) for y, e in zip(got, expected[shape], strict=True)):
                wrong.append(shape)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    work()
    assert not wrong
    arenas = model.engine._arenas
    assert arenas is not None
    assert arenas.local.floats == max(r.arena for r in model.engine._runners.values())


def test_an_arena_is_replaced_only_where_it_is_too_small_or_far_too_large() -> None:
    arenas = runner.Arenas()
    place = arenas.reserve(1000)
    assert place % 64 == 0 and arenas.reserve(500) == place and arenas.local.version == 1
    arenas.reserve(2000)
    assert (arenas.local.version, arenas.local.floats) == (2, 2000)
    arenas.most = 2000
    arenas.reserve(10)
    assert arenas.local.version == 2
    arenas.most = 1500
    arenas.reserve(10)
    assert (arenas.local.version, arenas.local.floats) == (3, max(10, simd.LANES))


def test_a_model_goes_on_after_a_size_for_which_there_is_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = model_of(), checks.image((3, 150, 160))
    expected = model(x)

    def refuse(floats: int) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(runner, "aligned", refuse)
        with pytest.raises(MemoryError):
            model(checks.image((3, 400, 400)))
    for y, e in zip(model(x), expected, strict=True):
        assert_array_equal(y, e)
