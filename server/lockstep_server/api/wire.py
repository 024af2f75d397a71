"""Protobuf messages as bytes: bounds before a request is parsed, large replies without a copy per element.

bytes of a request → `check` → the parser. arrays of a reply → `delimited` → bytes.

Parsing and building happen on the event loop, where a message with millions of tiny fields, or a list of
millions of numbers, would hold up all other calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from ..errors import ServingError, bad_input

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
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


class Unreadable:
    """What the handler of an RPC gets in place of a message that cannot be parsed, or is refused before."""

    def __init__(self, error: ServingError) -> None:
        self.error = error


class RawRequest:
    """A parsed `ModelInferRequest` whose raw contents are views of its bytes. They are never copied."""

    def __init__(self, message: Any, raw_input_contents: list[memoryview]) -> None:
        self._message = message
        self.raw_input_contents = raw_input_contents

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)


Admit = Callable[[int], ServingError | None]
"""The error of a request of so many bytes, if those in flight leave no room for it."""


def reader(
    parse: Callable[[bytes], Any], descriptor: Descriptor | None, admit: Admit = lambda _: None
) -> Callable[[bytes], Any]:
    """A function that parses a request, or returns `Unreadable`. It never raises."""

    raw = descriptor.fields_by_name.get("raw_input_contents") if descriptor is not None else None

    def read(data: bytes) -> Any:
        try:
            if descriptor is not None and len(data) > _SMALL_BYTES:
                if len(data) > LARGE_BYTES and (no_room := admit(len(data))) is not None:
                    return Unreadable(no_room)
                check(data, descriptor)
                if raw is not None and len(data) > LARGE_BYTES:
                    return _without_copies(data, raw.number, parse)
            return parse(data)
        except ServingError as error:
            return Unreadable(error)
        except Exception as error:  # DecodeError, and what a parser raises for text that is not UTF-8
            kind = "a protobuf message" if isinstance(error, DecodeError) else "readable"
            return Unreadable(bad_input("request", f"the message is not {kind} of the type of this method"))

    return read


def _without_copies(data: bytes, number: int, parse: Callable[[bytes], Any]) -> Any:
    """Parse a request without its raw contents, which are the fields of this number."""
    view, at, rest, raws = memoryview(data), 0, [], []
    while at < len(data):
        begin = at
        tag, at = _read_varint(data, at)
        wire = tag & 7
        if wire == _DELIMITED:
            size, start = _read_varint(data, at)
            at = start + size
            if at > len(data):
                return parse(data)  # which reports it
            if tag >> 3 == number:
                raws.append(view[start:at])
                continue
        elif wire == _VARINT:
            _, at = _read_varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:
            return parse(data)
        rest.append(view[begin:at])
    return RawRequest(parse(b"".join(rest)), raws) if raws else parse(data)


def check(data: bytes, descriptor: Descriptor) -> None:
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
                    return
    except IndexError:
        return
    if packed > MAX_PACKED_BYTES:
        raise bad_input(
            "request",
            f"the message has {packed} bytes of integers in lists; send at most {MAX_PACKED_BYTES}, or"
            " raw_input_contents",
        )


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
    return [_varint(number << 3 | _DELIMITED) + _varint(size), *parts]


def packed_floats(number: int, array: np.ndarray[Any, Any]) -> list[Part]:
    """A field of packed 32-bit floats."""
    flat: Any = np.ascontiguousarray(array, "<f4").reshape(-1)
    return delimited(number, memoryview(flat).cast("B")) if flat.size else []


def join(parts: Sequence[Part]) -> bytes:
    return b"".join(parts)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def head_size(number: int, data: memoryview) -> int:
    """The size of a delimited field's tag and length, at the start of `data`."""
    at = len(_varint(number << 3 | _DELIMITED))
    return _read_varint(data, at)[1]


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
