"""How each operation of `simd.py` becomes LLVM: imported only while kernels are being compiled.

A vector is LLVM's `<LANES x float>`; a tile is an array of such vectors. LLVM's scalar replacement splits that array
into as many registers, so a kernel that loops over `tile_fma` keeps its sums in registers from first to last.
No operation checks bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, models, register_model, type_callable

from . import simd
from .simd import LANES

FLOAT = ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
INT32 = ir.IntType(32)
INT64 = ir.IntType(64)
#: Whether the CPU that is compiled for has an instruction for fused multiply-adds; `compile_kernels` sets it.
fused = True
pointer = types.CPointer(types.float32)  # type: ignore[no-untyped-call]
integers = types.CPointer(types.int64)  # type: ignore[no-untyped-call]


class VectorType(types.Type):
    """One register of LANES float32 values."""

    def __init__(self) -> None:
        super().__init__(name=f"vector{LANES}")


class TileType(types.Type):
    """pixels x blocks registers."""

    def __init__(self, pixels: int, blocks: int) -> None:
        self.pixels, self.blocks = pixels, blocks
        super().__init__(name=f"tile{pixels}x{blocks}")


vector = VectorType()


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: VectorType) -> None:
        super().__init__(manager, kind, VECTOR)  # type: ignore[no-untyped-call]


@register_model(TileType)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: TileType) -> None:
        registers = ir.ArrayType(VECTOR, kind.pixels * kind.blocks)
        super().__init__(manager, kind, registers)  # type: ignore[no-untyped-call]


def _element(builder: Any, base: Any, offset: Any) -> Any:
    return builder.gep(base, [offset], source_etype=FLOAT)


def _load(builder: Any, base: Any, offset: Any, kind: Any = VECTOR) -> Any:
    # Aligned to a float only: pixels of an image, and bands, begin anywhere.
    address = builder.bitcast(_element(builder, base, offset), kind.as_pointer())
    return builder.load(address, align=4, typ=kind)


def _store(builder: Any, base: Any, offset: Any, value: Any) -> None:
    address = builder.bitcast(_element(builder, base, offset), VECTOR.as_pointer())
    builder.store(value, address).align = 4


def _splat(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, scalar, INT32(0))
    zeros = ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES)
    return builder.shuffle_vector(first, undefined, zeros)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Fused where the CPU can; without such an instruction a library call per lane would ruin it."""
    name = f"llvm.{'fma' if fused else 'fmuladd'}.v{LANES}f32"
    function = ir.FunctionType(VECTOR, [VECTOR] * 3)
    module = builder.module
    intrinsic = cgutils.get_or_insert_function(module, function, name)  # type: ignore[no-untyped-call]
    return builder.call(intrinsic, [a, b, c])


def _bounded(builder: Any, comparison: str, bound: Any, value: Any) -> Any:
    return builder.select(builder.fcmp_ordered(comparison, bound, value), bound, value)


def _offsets(builder: Any, tile: TileType, offset: Any, pitch: Any) -> list[Any]:
    """Where each vector of a tile lies: pixel after pixel, blocks `pitch` apart."""
    # Multiplied once a block: pitches are known at run time only, distances between pixels are constants.
    blocks = [builder.add(offset, builder.mul(pitch, INT64(b))) for b in range(tile.blocks)]
    return [builder.add(b, INT64(p * LANES)) for p in range(tile.pixels) for b in blocks]


def _map_tile(builder: Any, tile: TileType, value: Any, change: Callable[[int, Any], Any]) -> Any:
    for index in range(tile.pixels * tile.blocks):
        changed = change(index, builder.extract_value(value, index))
        value = builder.insert_value(value, changed, index)
    return value


def define(
    function: Callable[..., Any], *arguments: Any, returns: Any
) -> Callable[[Callable[..., Any]], None]:
    """Give `function` a type and an LLVM body. `arguments` are Numba types; a type class accepts any instance."""

    def typer(context: Any) -> Callable[..., Any]:
        names = function.__code__.co_varnames[: function.__code__.co_argcount]

        def accept(*given: Any) -> Any:
            for expected, actual in zip(arguments, given, strict=True):
                if isinstance(expected, type) and not isinstance(actual, expected):
                    return None
            return returns(*given) if callable(returns) else returns

        # Numba calls a typer with the argument types, and takes what it returns for the type of the result.
        # Numba matches a call by parameter names, so the typer must show the function's own.
        namespace: dict[str, Any] = {"accept": accept}
        exec(f"def typed({', '.join(names)}): return accept({', '.join(names)})", namespace)
        return namespace["typed"]  # type: ignore[no-any-return]

    type_callable(function)(typer)

    def register(body: Callable[..., Any]) -> None:
        def lowered(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            values = [
                context.cast(builder, value, kind, types.int64)
                if isinstance(kind, types.Integer)
                else value
                for value, kind in zip(values, signature.args, strict=True)
            ]
            result = body(builder, signature, *values)
            return context.get_dummy_value() if result is None else result

        anything = types.VarArg(types.Any)  # type: ignore[no-untyped-call]
        lower_builtin(function, anything)(lowered)  # type: ignore[no-untyped-call]

    return register


_P, _I, _V = types.CPointer, types.Integer, VectorType


def _define_memory() -> None:
    define(simd.floats_of, _I, returns=pointer)(
        lambda builder, _, address: builder.inttoptr(address, FLOAT.as_pointer())
    )
    define(simd.integers_of, _I, returns=integers)(
        lambda builder, _, address: builder.inttoptr(address, INT64.as_pointer())
    )
    define(simd.at, _P, _I, returns=pointer)(
        lambda builder, _, base, offset: _element(builder, base, offset)
    )
    define(simd.integers_at, _P, _I, returns=integers)(
        lambda builder, _, base, offset: builder.gep(base, [offset], source_etype=INT64)
    )

    def prefetch(builder: Any, _: Any, base: Any, offset: Any) -> None:
        byte = ir.IntType(8).as_pointer()
        function = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
        module = builder.module
        hint = cgutils.get_or_insert_function(module, function, "llvm.prefetch.p0i8")  # type: ignore[no-untyped-call]
        address = builder.bitcast(_element(builder, base, offset), byte)
        # For reading, into the second-level cache, of data.
        builder.call(hint, [address, INT32(0), INT32(2), INT32(1)])

    define(simd.prefetch, _P, _I, returns=types.none)(prefetch)
    define(simd.load, _P, _I, returns=vector)(
        lambda builder, _, base, offset: _load(builder, base, offset)
    )
    define(simd.store, _P, _I, _V, returns=types.none)(
        lambda builder, _, base, offset, value: _store(builder, base, offset, value)
    )
    define(simd.broadcast, _P, _I, returns=vector)(
        lambda builder, _, base, offset: _splat(builder, _load(builder, base, offset, FLOAT))
    )


def _define_arithmetic() -> None:
    def splat(builder: Any, signature: Any, scalar: Any) -> Any:
        wide = signature.args[0] == types.float64
        return _splat(builder, builder.fptrunc(scalar, FLOAT) if wide else scalar)

    define(simd.splat, types.Float, returns=vector)(splat)
    define(simd.fma, _V, _V, _V, returns=vector)(lambda builder, _, a, b, c: _fma(builder, a, b, c))
    binary: tuple[tuple[Callable[..., Any], Callable[..., Any]], ...] = (
        (simd.add, lambda builder, _, a, b: builder.fadd(a, b)),
        (simd.sub, lambda builder, _, a, b: builder.fsub(a, b)),
        (simd.mul, lambda builder, _, a, b: builder.fmul(a, b)),
        (simd.div, lambda builder, _, a, b: builder.fdiv(a, b)),
        (simd.maximum, lambda builder, _, bound, a: _bounded(builder, ">", bound, a)),
        (simd.minimum, lambda builder, _, bound, a: _bounded(builder, "<", bound, a)),
    )
    for function, body in binary:
        define(function, _V, _V, returns=vector)(body)

    def evens(builder: Any, _: Any, a: Any, b: Any) -> Any:
        mask = ir.Constant(ir.VectorType(INT32, LANES), list(range(0, 2 * LANES, 2)))
        return builder.shuffle_vector(a, b, mask)

    define(simd.evens, _V, _V, returns=vector)(evens)

    def exchanged(builder: Any, a: Any, distance: int) -> Any:
        # Lane i meets lane i ^ distance on both sides, so after all halves every lane holds the same bits.
        mask = ir.Constant(ir.VectorType(INT32, LANES), [i ^ distance for i in range(LANES)])
        return builder.shuffle_vector(a, a, mask)

    def largest(builder: Any, _: Any, a: Any) -> Any:
        for distance in simd.halves():
            a = _bounded(builder, ">", a, exchanged(builder, a, distance))
        return a

    def total(builder: Any, _: Any, a: Any) -> Any:
        for distance in simd.halves():
            a = builder.fadd(a, exchanged(builder, a, distance))
        return a

    define(simd.largest, _V, returns=vector)(largest)
    define(simd.total, _V, returns=vector)(total)

    def any_nan(builder: Any, _: Any, a: Any) -> Any:
        # A comparison gives a bit for each lane; together they are one integer, zero where no lane is NaN.
        lanes = builder.bitcast(builder.fcmp_unordered("uno", a, a), ir.IntType(LANES))
        found = builder.icmp_unsigned("!=", lanes, ir.Constant(ir.IntType(LANES), 0))
        return builder.zext(found, INT64)

    define(simd.any_nan, _V, returns=types.int64)(any_nan)

    def power_of_two(builder: Any, _: Any, a: Any) -> Any:
        kind = ir.VectorType(INT32, LANES)
        biased = builder.add(builder.fptosi(a, kind), ir.Constant(kind, [127] * LANES))
        return builder.bitcast(builder.shl(biased, ir.Constant(kind, [23] * LANES)), VECTOR)

    define(simd.power_of_two, _V, returns=vector)(power_of_two)


def _define_tiles() -> None:
    def tile_bias(builder: Any, signature: Any, _p: Any, _b: Any, base: Any, offset: Any) -> Any:
        kind = signature.return_type
        rows = [
            _load(builder, base, builder.add(offset, INT64(b * LANES))) for b in range(kind.blocks)
        ]
        empty = ir.Constant(ir.ArrayType(VECTOR, kind.pixels * kind.blocks), ir.Undefined)
        return _map_tile(builder, kind, empty, lambda index, _: rows[index % kind.blocks])

    def tile_fma(
        builder: Any, signature: Any, tile: Any, x: Any, offset: Any, _: Any, w: Any, w_offset: Any
    ) -> Any:
        kind, pixel_pitch = signature.args[0], signature.args[3].literal_value
        rows = [
            _load(builder, w, builder.add(w_offset, INT64(b * LANES))) for b in range(kind.blocks)
        ]
        # Scalar by scalar, so that one register serves them all in turn.
        for p in range(kind.pixels):
            scalar = _splat(
                builder, _load(builder, x, builder.add(offset, INT64(p * pixel_pitch)), FLOAT)
            )
            for b, row in enumerate(rows):
                index = p * kind.blocks + b
                total = _fma(builder, scalar, row, builder.extract_value(tile, index))
                tile = builder.insert_value(tile, total, index)
        return tile

    def tile_window(
        builder: Any,
        signature: Any,
        tile: Any,
        _: Any,
        x: Any,
        offset: Any,
        pitch: Any,
        phase: Any,
        w: Any,
        w_offset: Any,
    ) -> Any:
        kind, rows = signature.args[0], signature.args[1].literal_value
        pixels, blocks = kind.pixels // rows, kind.blocks
        taps = [
            _load(builder, w, builder.add(w_offset, INT64(n * LANES))) for n in range(9 * blocks)
        ]
        # Number by number of the input, from left to right: each is broadcast once, for all windows that it is under.
        for i in range(2 * rows + 1):
            line = builder.add(offset, builder.mul(pitch, INT64(i)))
            phases = (line, builder.add(line, phase))
            for j in range(2 * pixels + 1):
                place = builder.add(phases[j % 2], INT64(j // 2))
                scalar = _splat(builder, _load(builder, x, place, FLOAT))
                for r, p, b in product(range(rows), range(pixels), range(blocks)):
                    row, column = i - 2 * r, j - 2 * p
                    if 0 <= row < 3 and 0 <= column < 3:
                        index = (r * pixels + p) * blocks + b
                        tap = taps[(3 * row + column) * blocks + b]
                        total = _fma(builder, scalar, tap, builder.extract_value(tile, index))
                        tile = builder.insert_value(tile, total, index)
        return tile

    def tile_part(builder: Any, signature: Any, tile: Any, _first: Any, _pixels: Any) -> Any:
        kind, first = signature.return_type, signature.args[1].literal_value
        empty = ir.Constant(ir.ArrayType(VECTOR, kind.pixels * kind.blocks), ir.Undefined)
        return _map_tile(
            builder, kind, empty, lambda i, _: builder.extract_value(tile, first * kind.blocks + i)
        )

    def tile_clamp(builder: Any, signature: Any, tile: Any, low: Any, high: Any) -> Any:
        bounds = [_splat(builder, builder.fptrunc(bound, FLOAT)) for bound in (low, high)]
        return _map_tile(
            builder,
            signature.args[0],
            tile,
            lambda _, c: _bounded(builder, "<", bounds[1], _bounded(builder, ">", bounds[0], c)),
        )

    def tile_leak(builder: Any, signature: Any, tile: Any, slopes: Any) -> Any:
        kind, zero = signature.args[0], _splat(builder, FLOAT(0.0))
        rows = [_load(builder, slopes, INT64(b * LANES)) for b in range(kind.blocks)]

        def leaking(index: int, c: Any) -> Any:
            low, high = (_bounded(builder, sign, zero, c) for sign in "<>")
            return _fma(builder, rows[index % kind.blocks], low, high)

        return _map_tile(builder, kind, tile, leaking)

    def tile_add(
        builder: Any, signature: Any, tile: Any, base: Any, offset: Any, pitch: Any
    ) -> Any:
        kind = signature.args[0]
        offsets = _offsets(builder, kind, offset, pitch)
        return _map_tile(
            builder, kind, tile, lambda i, c: builder.fadd(c, _load(builder, base, offsets[i]))
        )

    def tile_store(
        builder: Any, signature: Any, tile: Any, base: Any, offset: Any, pitch: Any
    ) -> None:
        for index, position in enumerate(_offsets(builder, signature.args[0], offset, pitch)):
            _store(builder, base, position, builder.extract_value(tile, index))

    def part(kind: Any, _: Any, pixels: Any) -> TileType:
        return TileType(pixels.literal_value, kind.blocks)

    literal, tile = types.IntegerLiteral, TileType
    shape = {"returns": lambda p, b, *_: TileType(p.literal_value, b.literal_value)}
    define(simd.tile_bias, literal, literal, _P, _I, **shape)(tile_bias)
    define(simd.tile_fma, tile, _P, _I, literal, _P, _I, returns=lambda kind, *_: kind)(tile_fma)
    define(simd.tile_window, tile, literal, _P, _I, _I, _I, _P, _I, returns=lambda kind, *_: kind)(
        tile_window
    )
    define(simd.tile_part, tile, literal, literal, returns=part)(tile_part)
    define(simd.tile_clamp, tile, types.Float, types.Float, returns=lambda kind, *_: kind)(
        tile_clamp
    )
    define(simd.tile_leak, tile, _P, returns=lambda kind, *_: kind)(tile_leak)
    define(simd.tile_add, tile, _P, _I, _I, returns=lambda kind, *_: kind)(tile_add)
    define(simd.tile_store, tile, _P, _I, _I, returns=types.none)(tile_store)


_define_memory()
_define_arithmetic()
_define_tiles()
