"""The reference of the RPCs, from the `.proto` files and their comments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from .pages import ROOT, page_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pages import Pages

TITLES = {
    "lockstep/v1/sequences.proto": "Sequences",
    "lockstep/v1/operations.proto": "Operations",
    "lockstep/open_inference.proto": "Open Inference Protocol",
    "lockstep/model_config.proto": "Model configuration",
}
# Numbers of the fields of FileDescriptorProto, DescriptorProto, ... in paths of SourceCodeInfo.
_MESSAGES, _ENUMS, _SERVICES, _FIELDS, _NESTED, _NESTED_ENUMS, _VALUES, _METHODS, _SYNTAX = (
    4, 5, 6, 2, 3, 4, 2, 2, 12,
)  # fmt: skip


def rpc_pages() -> Pages:
    """A page for each file."""
    files = _described().file
    types = {
        f".{file.package}.{name}": str(page_of(f"proto/{file.name}"))
        for file in files
        for name in [*(one.name for one in file.message_type), *(one.name for one in file.enum_type)]
    }
    return {str(page_of(f"proto/{file.name}")): "\n".join(_Page(file, types).lines()) for file in files}


def _described() -> FileDescriptorSet:
    with TemporaryDirectory() as folder:
        target = Path(folder) / "described.binpb"
        protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto", "--include_source_info"]
        files = [f"proto/{file}" for file in TITLES]
        subprocess.run([*protoc, f"--descriptor_set_out={target}", *files], cwd=ROOT, check=True)
        described = FileDescriptorSet()
        described.ParseFromString(target.read_bytes())
        return described


class _Comments:
    """Comments by the path of what they describe."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._found = {tuple(one.path): one for one in file.source_code_info.location}

    def __call__(self, *path: int) -> str:
        found = self._found.get(path)
        text = found.leading_comments or found.trailing_comments if found else ""
        return " ".join(text.split()).replace("<", "\\<").replace("|", "\\|").replace("_", "\\_")

    def head(self) -> list[str]:
        """The paragraphs before the line `syntax`."""
        found = self._found.get((_SYNTAX,))
        blocks = [*found.leading_detached_comments, found.leading_comments] if found else []
        return [" ".join(part.split()) for block in blocks for part in block.split("\n\n") if part.strip()]


class _Page:
    """The page of one file. `types` says on which page each message and enumeration is."""

    def __init__(self, file: FileDescriptorProto, types: dict[str, str]) -> None:
        self._file, self._types = file, types
        self._comments = _Comments(file)

    def lines(self) -> Iterator[str]:
        file, comments = self._file, self._comments
        yield from [f"# {TITLES[file.name]}", ""]
        for paragraph in comments.head():
            yield from [paragraph, ""]
        yield from [f"`proto/{file.name}`, package `{file.package}`.", ""]
        for index, service in enumerate(file.service):
            yield from [f"## {service.name}", "", comments(_SERVICES, index), ""]
            yield from ["| RPC | request | reply | |", "|---|---|---|---|"]
            for number, method in enumerate(service.method):
                request = "stream of " * method.client_streaming + self._link(method.input_type)
                reply = "stream of " * method.server_streaming + self._link(method.output_type)
                about = comments(_SERVICES, index, _METHODS, number)
                yield f"| `{method.name}` | {request} | {reply} | {about} |"
            yield ""
        yield from ["## Messages", ""]
        for index, message in enumerate(file.message_type):
            yield from self._message(message, message.name, (_MESSAGES, index))
        if file.enum_type:
            yield from ["## Enumerations", ""]
        for index, one in enumerate(file.enum_type):
            yield from self._enum(one, one.name, (_ENUMS, index))

    def _message(self, message: Any, name: str, path: tuple[int, ...]) -> Iterator[str]:
        maps = {one.name: one for one in message.nested_type if one.options.map_entry}
        yield from [f"### {name}", "", self._comments(*path), ""]
        if message.field:
            yield from ["| number | field | type | |", "|---|---|---|---|"]
            for index, one in enumerate(message.field):
                about = self._comments(*path, _FIELDS, index)
                if one.HasField("oneof_index") and not one.proto3_optional:
                    about = f"One of `{message.oneof_decl[one.oneof_index].name}`. {about}"
                yield f"| {one.number} | `{one.name}` | {self._field_type(one, maps)} | {about} |"
            yield ""
        for index, nested in enumerate(message.nested_type):
            if nested.name not in maps:
                yield from self._message(nested, f"{name}.{nested.name}", (*path, _NESTED, index))
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, f"{name}.{enum.name}", (*path, _NESTED_ENUMS, index))

    def _enum(self, enum: Any, name: str, path: tuple[int, ...]) -> Iterator[str]:
        yield from [f"### {name}", "", self._comments(*path), "", "| number | value | |", "|---|---|---|"]
        for index, value in enumerate(enum.value):
            yield f"| {value.number} | `{value.name}` | {self._comments(*path, _VALUES, index)} |"
        yield ""

    def _field_type(self, one: FieldDescriptorProto, maps: dict[str, Any]) -> str:
        if entry := maps.get(one.type_name.rpartition(".")[2]):
            key, value = (self._field_type(part, {}) for part in entry.field)
            return f"map of {key} to {value}"
        repeated = one.label == FieldDescriptorProto.LABEL_REPEATED
        prefix = "repeated " if repeated else "optional " * one.proto3_optional
        if one.type_name:
            return prefix + self._link(one.type_name)
        return f"{prefix}`{FieldDescriptorProto.Type.Name(one.type).removeprefix('TYPE_').lower()}`"

    def _link(self, name: str) -> str:
        """A type, and a link to where it is described. `.lockstep.v1.Ids` → `Ids`."""
        outer = next(one for one in self._types if name == one or name.startswith(f"{one}."))
        short = name.removeprefix(f"{outer.rpartition('.')[0]}.")
        return f"[`{short}`]({Path(self._types[outer]).name}#{short.lower().replace('.', '')})"
