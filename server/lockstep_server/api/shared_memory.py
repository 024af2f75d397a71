"""Triton's system shared memory: tensors in POSIX shared memory instead of the messages.

register(name, key) → an open file. A request names a region, a place and a size per tensor → `read` copies
the inputs, `write` puts the outputs there.

The memory is read and written as a file, never mapped: its owner may shrink it at any time, and an access to
a mapping would then end the server.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md
"""

from __future__ import annotations

import os
import stat
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lockstep_proto import open_inference_pb2 as pb

from ..errors import ErrorCode, ServingError, bad_input, unavailable
from ..frontend.callers import current
from ..frontend.loop_watch import off_loop
from .tensor_replies import to_bytes
from .tensors import quoted

if TYPE_CHECKING:
    from ..messages import Event
    from ..model.spec import ModelSpec, ModelTensor
    from . import wire

REGION, _SIZE, _OFFSET = (f"shared_memory_{one}" for one in ("region", "byte_size", "offset"))
_FOLDER = "/dev/shm"  # where Linux keeps POSIX shared memory
_MAX_NAME_CHARACTERS, _MAX_REGIONS = 255, 256
_OFF = "shared memory is not allowed; send the tensors, or start the server with --shared-memory-keys"
_BYTES_PER_US = 2000
"""How fast memory is copied, at least."""


@dataclass(eq=False)
class _Region:
    """Its file is closed with the last reference, so not during a copy."""

    key: str
    descriptor: int
    offset: int = 0
    size: int = 0

    def __post_init__(self) -> None:
        weakref.finalize(self, os.close, self.descriptor)


class SharedMemory:
    """The registered regions. With authentication, each caller has its own.

    Args:
        prefix: keys must begin with it. Empty: there is no shared memory.
        max_bytes: of the inputs of one request.
        admit: the error of a request with so many bytes, if those in flight leave no room for it.
    """

    def __init__(self, prefix: str, max_bytes: int, admit: wire.Admit) -> None:
        self._prefix, self._max_bytes, self._admit = prefix.lstrip("/"), max_bytes, admit
        self.on = bool(prefix)
        self._regions: dict[tuple[str, str], _Region] = {}

    # --- the RPCs -----------------------------------------------------------------------------------------

    def register(self, request: pb.SystemSharedMemoryRegisterRequest) -> None:
        """
        Raises:
            ServingError: the key is not allowed, there is no such memory, or it is too small.
        """
        self._check_on()
        owned = _owned(request.name)
        if not request.name or len(request.name) > _MAX_NAME_CHARACTERS:
            raise bad_input("name", f"{len(request.name)} characters; send 1 to {_MAX_NAME_CHARACTERS}")
        if owned in self._regions:
            raise bad_input("name", f"region {request.name!r} is registered already; unregister it first")
        if len(self._regions) >= _MAX_REGIONS:
            raise unavailable(
                f"{_MAX_REGIONS} regions are registered, the most there may be; unregister some"
            )
        if not request.byte_size:
            raise bad_input("byte_size", "the region has no bytes; send at least 1")
        region = self._open(request.key)
        size = os.fstat(region.descriptor).st_size
        if size < request.offset + request.byte_size:
            why = f"{request.offset} + {request.byte_size} bytes are not in memory of {size} bytes"
            raise bad_input("byte_size", f"{why}; send a smaller region")
        region.offset, region.size = request.offset, request.byte_size
        self._regions[owned] = region

    def unregister(self, name: str) -> None:
        """Forget a region, or all of the caller (no `name`). Unknown ones are ignored, as in Triton."""
        self._check_on()
        owner = _owned("")[0]
        gone = [_owned(name)] if name else [owned for owned in self._regions if owned[0] == owner]
        for owned in gone:
            self._regions.pop(owned, None)

    def status(self, name: str) -> pb.SystemSharedMemoryStatusResponse:
        """
        Raises:
            ServingError: NOT_FOUND, there is no such region.
        """
        self._check_on()
        if name:
            self._find(name, "name")
        owner, found = _owned("")[0], pb.SystemSharedMemoryStatusResponse()
        for (other, region_name), region in self._regions.items():
            if other == owner and name in ("", region_name):
                status = found.regions[region_name]
                status.name, status.key = region_name, region.key
                status.offset, status.byte_size = region.offset, region.size
        return found

    # --- tensors ------------------------------------------------------------------------------------------

    async def read(self, request: pb.ModelInferRequest) -> dict[int, wire.Part]:
        """The contents of the inputs that are in shared memory, by their index in the request.

        Raises:
            ServingError: an unknown region, or a place outside it, of an input or an output.
        """
        tensors: tuple[Any, ...] = (*request.inputs, *request.outputs)
        used = [one.name for one in tensors if REGION in one.parameters]
        if not used:
            return {}
        if not self.on:
            raise bad_input(used[0], _OFF)
        for output in request.outputs:
            if REGION in output.parameters:
                self._place(f"outputs.{output.name}", output.parameters)
                if "classification" in output.parameters:
                    field = f"outputs.{output.name}.parameters.classification"
                    raise bad_input(field, "classes cannot be put into shared memory; omit one of them")
        places = {
            index: self._place(tensor.name, tensor.parameters)
            for index, tensor in enumerate(request.inputs)
            if REGION in tensor.parameters
        }
        total = sum(size for _, _, size in places.values())
        if total > self._max_bytes:
            why = f"{total} bytes in shared memory; send at most {self._max_bytes} (max_message_mb)"
            raise bad_input(f"inputs.{_SIZE}", why)
        if (no_room := self._admit(total)) is not None:
            raise no_room

        def copy() -> dict[int, wire.Part]:
            return {index: _read(*place) for index, place in places.items()}

        return await off_loop(_steps(total), copy)

    async def write(self, spec: ModelSpec, request: pb.ModelInferRequest, event: Event) -> dict[str, int]:
        """Write the outputs that are requested in shared memory. Returns their names and sizes in bytes.

        Raises:
            ServingError: BAD_INPUT, a place that is too small. NOT_FOUND, the region was unregistered.
        """
        if not self.on:
            return {}
        wanted = {one.name: one.parameters for one in request.outputs if REGION in one.parameters}
        written: dict[str, int] = {}
        for tensor in spec.outputs:
            array = (event.outputs or {}).get(tensor.name)
            if array is None or tensor.name not in wanted:
                continue
            place = self._place(f"outputs.{tensor.name}", wanted[tensor.name])
            written[tensor.name] = await off_loop(_steps(array.nbytes), _put, tensor, array, *place)
        return written

    def _place(self, field: str, parameters: Any) -> tuple[_Region, int, int]:
        """The region, offset and size of a tensor's place."""
        self._check_on()
        region = self._find(parameters[REGION].string_param, field)
        size = parameters[_SIZE].int64_param if _SIZE in parameters else 0
        offset = parameters[_OFFSET].int64_param if _OFFSET in parameters else 0
        if size < 0 or offset < 0 or offset + size > region.size:
            why = f"bytes {offset} to {offset + size} are not in the region of {region.size} bytes"
            raise bad_input(field, f"{why}; correct {_OFFSET} or {_SIZE}")
        return region, region.offset + offset, size

    def _find(self, name: str, field: str) -> _Region:
        region = self._regions.get(_owned(name))
        if region is None:
            why = f"shared memory region {quoted(name)} is not registered; call SystemSharedMemoryRegister"
            raise ServingError(ErrorCode.NOT_FOUND, f"{field}: {why}")
        return region

    def _open(self, key: str) -> _Region:
        name = key.removeprefix("/")
        allowed = name.startswith(self._prefix) and not {"/", "\0"} & set(name)
        if not allowed or name in ("", ".", ".."):
            why = f"use a key that begins with /{self._prefix} (shared_memory_keys)"
            raise bad_input("key", f"{quoted(key)} is not allowed; {why}")
        try:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            region = _Region(key, os.open(f"{_FOLDER}/{name}", flags))
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise bad_input("key", f"shared memory {quoted(key)} cannot be opened: {why}") from None
        if not stat.S_ISREG(os.fstat(region.descriptor).st_mode):
            raise bad_input("key", f"{quoted(key)} is no shared memory")
        return region

    def _check_on(self) -> None:
        if not self.on:
            raise ServingError(ErrorCode.UNIMPLEMENTED, _OFF)


def _owned(name: str) -> tuple[str, str]:
    caller = current.get()
    return (caller.name if caller.authenticated else "", name)


def _steps(size: int) -> int:
    """About how many microseconds it takes to copy so many bytes."""
    return size // _BYTES_PER_US


def _read(region: _Region, offset: int, size: int) -> wire.Part:
    content = bytearray(size)
    if os.preadv(region.descriptor, [content], offset) != size:
        raise _shrunk()
    return memoryview(content)


def _put(tensor: ModelTensor, array: Any, region: _Region, offset: int, size: int) -> int:
    """Write an output. Returns its size in bytes."""
    content = to_bytes(tensor.datatype, array)
    if len(content) > size:
        why = f"the output has {len(content)} bytes, and its place in shared memory {size}"
        raise bad_input(f"outputs.{tensor.name}", f"{why}; send a larger one")
    _write(region, offset, content)
    return len(content)


def _write(region: _Region, offset: int, content: bytes) -> None:
    if os.fstat(region.descriptor).st_size < offset + len(content):
        raise _shrunk()
    os.pwrite(region.descriptor, content, offset)


def _shrunk() -> ServingError:
    return bad_input(
        REGION, "the shared memory has become smaller since it was registered; register it again"
    )
