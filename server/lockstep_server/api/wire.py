"""Protobuf messages as bytes: bounds before a request is parsed, large replies without a copy per element.

bytes of a request → `check` → the parser. arrays of a reply → `delimited` → bytes.

Parsing and building happen on the event loop, where a message with millions of tiny fields, or a list of
millions of numbers, would hold up all other calls.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from lockstep_proto import open_inference_pb2 as pb

from ..errors import ServingError, bad_input
from ..frontend.loop_watch import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.descriptor import Descriptor

    Part = bytes | memoryview

MAX_FIELDS = 20_000
"""Strings, numbers and messages, nested ones too, in a request. Each costs the parser more than its bytes."""

MAX_PACKED_BYTES = 4 << 20
"""Bytes of lists of integers and bools in one request. Each is parsed one by one."""

_SMALL_BYTES = 32 * 1024
"""A request of this size is parsed in a millisecond, whatever it holds."""

_COPY_BYTES = 1 << 20
"""Bytes that are copied in one go: in less than a millisecond."""

_VIEW_BYTES = 16 * 1024
"""The tensors of a request of this size are views of its bytes."""

LARGE_BYTES = 64 * 1024
"""Replies with tensors of this size are built from bytes."""

_VARINTS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT32,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_BOOL,
    FieldDescriptor.TYPE_ENUM,
}
_BYTES_PER_STEP, _FIELDS_PER_STEP, _NUMBERS_PER_STEP = 4096, 4, 32

_REQUEST = pb.ModelInferRequest.DESCRIPTOR.fields_by_name
_RAW, _INPUTS = (_REQUEST[name].number for name in ("raw_input_contents", "inputs"))
_CONTENTS = pb.ModelInferRequest.InferInputTensor.DESCRIPTOR.fields_by_name["contents"].number
_PACKED = {
    field.number
    for field in pb.InferTensorContents.DESCRIPTOR.fields
    if field.type not in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING)
}

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


class Unreadable:
    """What the handler of an RPC gets in place of a message that cannot be parsed, or is refused before."""

    def __init__(self, error: ServingError) -> None:
        self.error = error


class RawRequest:
    """A parsed `ModelInferRequest` whose tensors are views of its bytes: they are never copied.

    Args:
        typed: the bytes of packed numbers in the contents of an input, by its index and the field's number,
            as far as they were taken out of the message.
        steps: about how many microseconds it takes to make arrays of the tensors.
    """

    def __init__(
        self,
        message: Any,
        raw_input_contents: Sequence[Part],
        typed: dict[tuple[int, int], list[memoryview]],
        steps: int,
    ) -> None:
        self._message = message
        self.raw_input_contents, self.typed, self.steps = raw_input_contents, typed, steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)


Admit = Callable[[int], ServingError | None]
"""The error of a request of so many bytes, if those in flight leave no room for it."""


def reader(
    parse: Callable[[bytes], Any], descriptor: Descriptor | None, admit: Admit = lambda _: None
) -> Callable[[bytes], Any]:
    """A function that parses a request, or returns `Unreadable`. It never raises."""

    has_tensors = descriptor is not None and "raw_input_contents" in descriptor.fields_by_name

    def read(data: bytes) -> Any:
        try:
            if len(data) <= _VIEW_BYTES:
                return parse(data)
            size = RequestParts(0, 0)
            if descriptor is not None and len(data) > _SMALL_BYTES:
                if len(data) > LARGE_BYTES and (no_room := admit(len(data))) is not None:
                    return Unreadable(no_room)
                size = check(data, descriptor)
            return _without_copies(data, parse, size) if has_tensors else parse(data)
        except ServingError as error:
            return Unreadable(error)
        except Exception as error:  # DecodeError, and what a parser raises for text that is not UTF-8
            kind = "a protobuf message" if isinstance(error, DecodeError) else "readable"
            return Unreadable(bad_input("request", f"the message is not {kind} of the type of this method"))

    return read


def _without_copies(data: bytes, parse: Callable[[bytes], Any], size: RequestParts) -> RawRequest:
    """Parse a request without the contents of its tensors, raw or packed."""
    raws: list[memoryview] = []
    typed: dict[tuple[int, int], list[memoryview]] = {}
    inputs = itertools.count()

    def take_contents(index: int, number: int, data: memoryview) -> list[Part] | None:
        if number not in _PACKED:
            return None
        typed.setdefault((index, number), []).append(data)
        return []

    def take_input(index: int, number: int, data: memoryview) -> list[Part] | None:
        if number != _CONTENTS:
            return None
        return delimited(number, *_replaced(data, partial(take_contents, index)))

    def take(number: int, data: memoryview) -> list[Part] | None:
        if number == _RAW:
            raws.append(data)
            return []
        if number == _INPUTS:
            return delimited(number, *_replaced(data, partial(take_input, next(inputs))))
        return None

    try:
        message = parse(b"".join(_replaced(memoryview(data), take)))
    except _OtherwiseEncoded:
        message, raws, typed = parse(data), [], {}
    steps = len(data) // _BYTES_PER_STEP + size.fields // _FIELDS_PER_STEP + size.packed // _NUMBERS_PER_STEP
    return RawRequest(message, raws or message.raw_input_contents, typed, steps)


def _replaced(data: memoryview, take: Callable[[int, memoryview], list[Part] | None]) -> list[Part]:
    """The fields of a message, in parts. `take` gets the number and content of each that is delimited, and
    returns what stands in its place; None: itself.

    Raises:
        _OtherwiseEncoded: it is malformed, or has numbers that are not packed.
    """
    at = 0
    found: list[Part] = []
    try:
        while at < len(data):
            begin = at
            tag, at = _read_varint(data, at)
            if tag & 7 == _DELIMITED:
                size, start = _read_varint(data, at)
                at = start + size
                if at > len(data):
                    raise _OtherwiseEncoded
                replaced = take(tag >> 3, data[start:at])
                found += [data[begin:at]] if replaced is None else replaced
                continue
            if tag & 7 == _VARINT:
                _, at = _read_varint(data, at)
            elif tag & 7 in (_FIXED32, _FIXED64):
                at += 4 if tag & 7 == _FIXED32 else 8
            else:
                raise _OtherwiseEncoded
            if take(tag >> 3, data[:0]) is not None:
                raise _OtherwiseEncoded
            found.append(data[begin:at])
    except IndexError:
        raise _OtherwiseEncoded from None
    return found


class _OtherwiseEncoded(Exception):
    """Only the parser can read it."""


class RequestParts(NamedTuple):
    """How many fields a request has, and how many bytes of packed integers."""

    fields: int
    packed: int


def check(data: bytes, descriptor: Descriptor) -> RequestParts:
    """Check the size of a request by its bytes. What is malformed is left to the parser.

    Raises:
        ServingError: BAD_INPUT, it has too many fields or numbers.
    """
    fields = packed = 0
    stack = [(0, len(data), descriptor)]
    try:
        while stack:
            at, end, kind = stack.pop()
            known = kind.fields_by_number
            while at < end:
                tag, at = _read_varint(data, at)
                wire = tag & 7
                fields += 1
                if fields > MAX_FIELDS:
                    raise bad_input(
                        "request",
                        f"the message has more than {MAX_FIELDS} fields; send raw_input_contents, or less at"
                        " once",
                    )
                if wire == _VARINT:
                    _, at = _read_varint(data, at)
                elif wire == _DELIMITED:
                    size, at = _read_varint(data, at)
                    field = known.get(tag >> 3)
                    if field is None:
                        pass
                    elif field.message_type is not None:
                        stack.append((at, at + size, field.message_type))
                    elif field.type in _VARINTS:
                        packed += size
                    at += size
                elif wire == _FIXED64:
                    at += 8
                elif wire == _FIXED32:
                    at += 4
                else:
                    return RequestParts(fields, packed)
    except IndexError:
        return RequestParts(fields, packed)
    if packed > MAX_PACKED_BYTES:
        raise bad_input(
            "request",
            f"the message has {packed} bytes of integers in lists; send at most {MAX_PACKED_BYTES}, or"
            " raw_input_contents",
        )
    return RequestParts(fields, packed)


def _read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """(value, offset after it)."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError


def serialized(message: Any) -> bytes:
    """The bytes of a reply: a message, or bytes that were built already."""
    if type(message) is bytes:
        return message
    content: bytes = message.SerializeToString()
    return content


def delimited(number: int, *parts: Part) -> list[Part]:
    """A field that holds a message, string, bytes or packed numbers, given as parts."""
    size = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
    return [tag(number, size), *parts]


@lru_cache(4096)
def tag(number: int, size: int) -> bytes:
    """What stands before the `size` bytes of a delimited field."""
    return _varint(number << 3 | _DELIMITED) + _varint(size)


def packed_floats(number: int, array: np.ndarray[Any, Any]) -> list[Part]:
    """A field of packed 32-bit floats."""
    flat: Any = np.ascontiguousarray(array, "<f4").reshape(-1)
    return delimited(number, memoryview(flat).cast("B")) if flat.size else []


async def join(parts: Sequence[Part]) -> bytes:
    """The parts in one piece. Large ones are copied in turns, between which the event loop does other
    work."""
    size = sum(map(len, parts))
    if size <= _COPY_BYTES:
        return b"".join(parts)
    # bytes(size) is zeros that the system provides as they are written: nobody else sees them before.
    whole, at, turns = bytes(size), 0, Turns()
    start = _address(whole)
    for data in parts:
        part = memoryview(data)
        for begin in range(0, len(part), _COPY_BYTES):
            piece = part[begin : begin + _COPY_BYTES]
            ctypes.memmove(start + at, _address(piece), len(piece))
            at += len(piece)
            await turns.end()
    return whole


def _address(data: Part) -> int:
    return int(np.frombuffer(data, np.uint8).ctypes.data)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def varints(body: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values of packed varints, given as their bytes: int64, and for larger ones what wraps to it."""
    ends = np.flatnonzero(body < 0x80)
    starts = np.empty_like(ends)
    starts[:1], starts[1:] = 0, ends[:-1] + 1
    sizes = ends - starts + 1
    values = (body[starts] & 0x7F).astype(np.uint64)
    for place in range(1, int(sizes.max(initial=1))):
        longer = sizes > place
        digits = (body[starts[longer] + place] & 0x7F).astype(np.uint64)
        values[longer] |= digits << np.uint64(7 * place)
    return values.view(np.int64)
