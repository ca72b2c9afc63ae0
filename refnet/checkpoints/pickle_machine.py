"""A pickle machine that can only make plain data: it imports nothing, and calls only what it is given.

A pickle is a program for a stack machine (CPython, `Lib/pickletools.py`, describes every opcode).
The one in the standard library may import and call anything, and allocates what the program asks
for. This one knows the opcodes that a file of tensors needs, turns every global into an inert
`Global`, calls only the functions in its table, and counts what it makes. Whatever else a program
asks for is an `UnsafeCheckpointError`.

Sets come back as lists and ordered dicts as dicts: they only stand beside the tensors, and a list
hashes nothing. Keys of dicts are text or numbers of bounded size, for the same reason: neither a
deep tuple nor crafted numbers may make hashing slow.
"""

import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from refnet.errors import CheckpointError, UnsafeCheckpointError

# The largest state dict here, 2,086 tensors, takes 75,000 instructions and makes 25,000 objects.
_OPCODES_AT_MOST = 1_000_000
_OBJECTS_AT_MOST = 250_000
_NESTED_MARKS_AT_MOST = 1_000
_LONG_BYTES_AT_MOST = 255
_NAME_BYTES_AT_MOST = 255


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class, function or constant. It is a name and no more: nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Inert:
    """An object of a class that was not imported: its class's name and its pickled state."""

    of: Global
    state: dict[object, object] = field(default_factory=dict)


Function = Callable[..., object]


class PickleMachine:
    """Runs one pickle at a time out of `data`.

    functions: by full name, what REDUCE may call: code of ours that checks its arguments.
    tokens: full names that may appear as values (storage classes, dtypes).
    persistent: turns a persistent id (storages of tensors) into a value.
    inert: whether objects of unknown classes become `Inert` rather than an error. Calls of
    functions outside the table are refused all the same, but for those in `constructors`: they
    are known to make plain values, and what they would make becomes `Inert` too.
    unread: by full name, functions that make tensors of kinds that are not read, and the kind, for the message.
    """

    def __init__(
        self,
        data: bytes,
        functions: Mapping[str, Function],
        tokens: Collection[str],
        persistent: Callable[[object], object],
        *,
        inert: bool = False,
        constructors: Collection[str] = (),
        unread: Mapping[str, str] | None = None,
    ) -> None:
        self._data = data
        self._functions = functions
        self._tokens = tokens
        self._persistent = persistent
        self._inert = inert
        self._constructors = constructors
        self._unread = unread or {}
        self.position = 0
        self._opcodes = 0
        self._objects = 0

    def run(self) -> object:
        """Run the pickle at `position`; return its value and leave `position` after its end.

        Raises CheckpointError where the pickle is cut off, malformed or over the limits, and
        UnsafeCheckpointError where it asks for anything but plain data and the given functions.
        """
        self._stack: list[object] = []
        self._marks: list[list[object]] = []
        self._memo: dict[int, object] = {}
        self._unknown: Global | None = None
        start = self.position
        try:
            while True:
                self._opcodes += 1
                if self._opcodes > _OPCODES_AT_MOST:
                    raise CheckpointError(
                        f"its pickle has more than {_OPCODES_AT_MOST:,} instructions, more than any "
                        f"file of tensors needs"
                    )
                opcode = self._data[self.position]
                self.position += 1
                if opcode == _STOP:
                    break
                instruction = _INSTRUCTIONS.get(opcode)
                if instruction is None:
                    raise self._refused(opcode)
                instruction(self)
            value = self._stack.pop()
        except CheckpointError:
            raise
        except (IndexError, KeyError, TypeError, ValueError, struct.error, OverflowError) as error:
            raise CheckpointError(
                f"its pickle (at byte {start:,}) is cut off or malformed near byte "
                f"{self.position:,} of {len(self._data):,}"
            ) from error
        if self._unknown is not None and not self._inert:
            raise self._unknown_class(self._unknown)
        return value

    # --- refusals

    def _refused(self, opcode: int) -> CheckpointError:
        if opcode in b"ioP\x82\x83\x84\x92":  # build objects, or name globals, in other ways
            return UnsafeCheckpointError(
                f"its pickle asks for an object in a way that no file of tensors uses "
                f"(opcode 0x{opcode:02x} at byte {self.position - 1:,}). It was refused; nothing "
                f"was executed."
            )
        return CheckpointError(
            f"its pickle is malformed: opcode 0x{opcode:02x} at byte {self.position - 1:,} does not "
            f"occur in files of tensors"
        )

    @staticmethod
    def _unknown_class(of: Global) -> UnsafeCheckpointError:
        return UnsafeCheckpointError(
            f"it holds more than tensors: a pickled object of class {of}. It was refused; nothing "
            f"was executed. If this is a whole module (torch.save(model, ...)) or a checkpoint with "
            f"settings beside its tensors, refnet.checkpoints.read(path, inert=True), or `refnet "
            f"convert --inert`, takes the tensors alone and runs none of its code; or write "
            f"model.state_dict() with torch.save where that code is trusted."
        )

    # --- pieces of the program

    def _bytes(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise CheckpointError(
                f"its pickle is cut off: {count:,} bytes are announced at byte {self.position:,}, "
                f"{len(self._data) - self.position:,} are left"
            )
        piece = self._data[self.position : end]
        self.position = end
        return piece

    def _unsigned(self, width: int) -> int:
        return int.from_bytes(self._bytes(width), "little")

    def _line(self) -> str:
        end = self._data.find(b"\n", self.position, self.position + _NAME_BYTES_AT_MOST + 1)
        if end < 0:
            raise CheckpointError(
                f"its pickle is malformed: no name ends after byte {self.position:,}"
            )
        line = self._bytes(end - self.position)
        self.position += 1
        return line.decode("utf-8")

    def _count(self, objects: int) -> None:
        self._objects += objects
        if self._objects > _OBJECTS_AT_MOST:
            raise CheckpointError(
                f"its pickle makes more than {_OBJECTS_AT_MOST:,} objects, more than any file of "
                f"tensors needs"
            )

    def _push_object(self, value: object) -> None:
        self._count(1)
        self._stack.append(value)

    def _pop_to_mark(self) -> list[object]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    # --- instructions

    def _proto(self) -> None:
        version = self._unsigned(1)
        if version > 5:
            raise CheckpointError(f"its pickle has protocol {version}; protocols 0 to 5 are known")

    def _frame(self) -> None:
        self._bytes(8)  # a hint for buffered readers

    def _mark(self) -> None:
        if len(self._marks) >= _NESTED_MARKS_AT_MOST:
            raise CheckpointError(f"its pickle nests deeper than {_NESTED_MARKS_AT_MOST:,} levels")
        self._marks.append(self._stack)
        self._stack = []

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._stack = self._marks.pop()

    def _binfloat(self) -> None:
        self._stack.append(struct.unpack(">d", self._bytes(8))[0])

    def _signed(self, width: int) -> None:
        self._stack.append(int.from_bytes(self._bytes(width), "little", signed=True))

    def _long(self, width: int) -> None:
        count = self._unsigned(width)
        if count > _LONG_BYTES_AT_MOST:
            raise CheckpointError(
                f"its pickle holds an integer of {count:,} bytes; {_LONG_BYTES_AT_MOST} are enough "
                f"for any count or hash"
            )
        self._signed(count)

    def _text(self, width: int, encoding: str) -> None:
        self._push_object(self._bytes(self._unsigned(width)).decode(encoding))

    def _raw(self, width: int) -> None:
        self._push_object(self._bytes(self._unsigned(width)))

    def _tuple(self, count: int) -> None:
        if count > len(self._stack):
            raise IndexError
        items = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        self._push_object(items)

    def _append(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):  # the items of a list of unknown class are dropped
            raise TypeError

    def _set_items(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, Inert):  # the items of a dict of unknown class are dropped
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _global(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        value = Global(_printable(module), _printable(name))
        if self._unknown is None and not self._known(value):
            self._unknown = value
        self._push_object(value)

    def _known(self, value: Global) -> bool:
        return str(value) in self._functions or str(value) in self._tokens

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(arguments, tuple):
            raise TypeError
        call = self._functions.get(str(function)) if isinstance(function, Global) else None
        if isinstance(function, Global) and str(function) in self._constructors:
            if not self._inert:
                raise self._unknown_class(function)
            self._push_object(Inert(function))
            return
        if call is None:
            if isinstance(function, Global) and str(function) in self._unread:
                raise UnsafeCheckpointError(
                    f"it holds {self._unread[str(function)]} tensors ({function}), which are not read here; nothing was "
                    f"executed. Where the file is trusted, save plain ones with torch.save: tensor.to_dense(), "
                    f"tensor.dequantize() or tensor.cpu() makes them."
                )
            what = str(function) if isinstance(function, Global) else type(function).__name__
            raise UnsafeCheckpointError(
                f"its pickle asks to call {what}, which has no place in a file of tensors. It was "
                f"refused; nothing was executed. Load such a file nowhere unless you trust whoever "
                f"wrote it."
            )
        # What a function copies counts, or a long list could be copied by many short calls.
        self._count(len(arguments) + sum(len(a) for a in arguments if isinstance(a, list | tuple)))
        self._push_object(call(*arguments))

    def _new_object(self) -> None:
        arguments, of = self._stack.pop(), self._stack.pop()
        if not isinstance(arguments, tuple) or not isinstance(of, Global):
            raise TypeError
        if not self._inert:
            raise self._unknown_class(of)
        self._push_object(Inert(of))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Inert):
            if isinstance(state, tuple) and len(state) == 2:
                state = state[0]  # (__dict__, slots)
            if isinstance(state, dict):
                self._count(len(state))
                target.state.update(state)
        elif not isinstance(
            target, dict
        ):  # an ordered dict's own attributes (_metadata) are dropped
            raise TypeError

    def _persistent_id(self) -> None:
        self._push_object(self._persistent(self._stack.pop()))


def _key(value: object) -> str | int | bytes:
    """`value` where it may be the key of a dict."""
    if isinstance(value, str | bytes) or (isinstance(value, int) and abs(value) < 1 << 60):
        return value
    raise CheckpointError(
        f"its pickle has a dict with a key that is a {type(value).__name__} or a number out of "
        f"range; names of tensors are text"
    )


def _printable(name: str) -> str:
    """`name` as far as it may appear in an error message."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:_NAME_BYTES_AT_MOST])


_STOP = ord(".")
_Instruction = Callable[[PickleMachine], object]
_M = PickleMachine
_INSTRUCTIONS: dict[int, _Instruction] = {
    key[0]: instruction
    for key, instruction in {
        b"\x80": _M._proto,
        b"\x95": _M._frame,
        b"(": _M._mark,
        b"0": _M._pop,
        b"1": _M._pop_to_mark,
        b"N": lambda m: m._stack.append(None),
        b"\x88": lambda m: m._stack.append(True),
        b"\x89": lambda m: m._stack.append(False),
        b"G": _M._binfloat,
        b"J": lambda m: m._signed(4),
        b"K": lambda m: m._stack.append(m._unsigned(1)),
        b"M": lambda m: m._stack.append(m._unsigned(2)),
        b"\x8a": lambda m: m._long(1),
        b"\x8b": lambda m: m._long(4),
        b"\x8c": lambda m: m._text(1, "utf-8"),
        b"X": lambda m: m._text(4, "utf-8"),
        b"\x8d": lambda m: m._text(8, "utf-8"),
        b"U": lambda m: m._text(1, "latin-1"),  # text written by Python 2
        b"T": lambda m: m._text(4, "latin-1"),
        b"C": lambda m: m._raw(1),
        b"B": lambda m: m._raw(4),
        b"\x8e": lambda m: m._raw(8),
        b"}": lambda m: m._push_object({}),
        b"]": lambda m: m._push_object([]),
        b")": lambda m: m._stack.append(()),
        b"\x8f": lambda m: m._push_object([]),  # a set
        b"\x85": lambda m: m._tuple(1),
        b"\x86": lambda m: m._tuple(2),
        b"\x87": lambda m: m._tuple(3),
        b"t": lambda m: m._push_object(tuple(m._pop_to_mark())),
        b"\x91": lambda m: m._push_object(m._pop_to_mark()),  # a frozen set
        b"a": lambda m: m._append([m._stack.pop()]),
        b"e": lambda m: m._append(m._pop_to_mark()),
        b"\x90": lambda m: m._append(m._pop_to_mark()),  # into a set
        b"s": lambda m: m._set_items([m._stack.pop(), m._stack.pop()][::-1]),
        b"u": lambda m: m._set_items(m._pop_to_mark()),
        b"q": lambda m: m._put(m._unsigned(1)),
        b"r": lambda m: m._put(m._unsigned(4)),
        b"\x94": lambda m: m._put(len(m._memo)),
        b"h": lambda m: m._stack.append(m._memo[m._unsigned(1)]),
        b"j": lambda m: m._stack.append(m._memo[m._unsigned(4)]),
        b"c": lambda m: m._global(m._line(), m._line()),
        b"\x93": lambda m: m._global(*[m._stack.pop(), m._stack.pop()][::-1]),
        b"R": _M._reduce,
        b"\x81": _M._new_object,
        b"b": _M._build,
        b"Q": _M._persistent_id,
    }.items()
}
