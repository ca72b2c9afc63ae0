"""The instruction set: one column for a name, fields by name only, and nothing done by zeros."""

import ast
import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from refnet.kernels import instructions, lower, lower_convolution, machine_code, verify

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "kernels").glob("*.py"), *(ROOT / "tests").glob("*.py")])
#: What instructions, and the operands that become their fields, are called.
CALLED = {"instruction", "i", "line", "operands", "places", "proved", "heads"}


def literal_indices(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every subscript of an instruction by an integer literal."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Subscript):
            continue
        index, value = node.slice, node.value
        if isinstance(index, ast.Tuple):  # a table of instructions, (number, column)
            index = index.elts[-1]
        if isinstance(value, ast.Attribute):
            name = value.attr
        else:
            # program[number][column]
            name = ast.unparse(value.value if isinstance(value, ast.Subscript) else value)
            called = CALLED | ({"program", "part", "whole"} if value is not node.value else set())
            name = name if name in called else ""
        literal = isinstance(index, ast.Constant) and isinstance(index.value, int)
        nested = isinstance(value, ast.Subscript) and ast.unparse(value.value) in (
            *("program", "part", "whole"),
        )
        if literal and (name in CALLED or nested):
            yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_integer_literal_indexes_an_instruction(path: Path) -> None:
    assert list(literal_indices(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "text", ["instruction[3]", "i[0]", "program[number][2]", "heads[:, 4]", "x.operands[7] = 1"]
)
def test_an_integer_literal_would_be_found(text: str) -> None:
    assert len(list(literal_indices(ast.parse(text)))) == 1


def test_every_name_has_a_column_and_every_column_one_name() -> None:
    columns = {
        name: value
        for name, value in vars(instructions).items()
        if name.isupper() and isinstance(value, int)
    }
    opcodes = {name.upper(): number for number, name in enumerate(instructions.OPCODES)}
    assert {name: columns.pop(name) for name in opcodes} == opcodes
    assert columns.pop("WIDTH") > max(columns.values())
    assert {column: name for name, column in columns.items()} == instructions.NAMES
    assert len(instructions.NAMES) == len(columns)


def test_every_opcode_has_its_fields_and_its_place_in_every_table() -> None:
    opcodes = {*range(len(instructions.OPCODES))}
    assert {*instructions.FIELDS} == opcodes
    for fields in instructions.FIELDS.values():
        assert len({*fields}) == len(fields) and {*fields} <= {*instructions.NAMES}
    assert {*verify._ACCESS} == opcodes - {instructions.PROBE}
    for opcode in instructions.SHARES:
        assert {instructions.FIRST, instructions.LAST} <= {*instructions.FIELDS[opcode]}
    names = {*lower_convolution.ALGORITHMS, "depthwise"}
    assert names <= {*instructions.OPCODES} and "conv" in lower.LOWERINGS


def test_a_zeroed_instruction_does_nothing() -> None:
    """On memory of one canary each, which would show a write; reads of anything else would be a crash."""
    program = np.zeros(3 * instructions.WIDTH, np.int64)
    memory = np.full(64, 7.0, np.float32)
    place = memory.ctypes.data
    call = machine_code.Call(program.ctypes.data, 0, 3, place, place, 0, 0, 0)
    assert machine_code.entry()(ctypes.byref(call), place, 1, place) == 0
    assert (memory == 7.0).all()
