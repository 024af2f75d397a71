"""The reference of the Python packages: public names and their places. mkdocstrings reads the docstrings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import lockstep_client
import lockstep_export

if TYPE_CHECKING:
    from types import ModuleType

    from .pages import Pages

_GROUPS = {
    "Clients": ("client", "tls", "decoding", "sequences"),
    "Streams": ("streams", "many", "stream_results"),
    "Results": ("results",),
    "What a server serves and does": ("operations",),
    "Errors": ("errors",),
}
_OTHERS = "Results"
"""The group of the modules that none names."""


def python_pages() -> Pages:
    """A page for each package."""
    return {
        "reference/python-client.md": _client(),
        "reference/python-export.md": _export(),
    }


def _client() -> str:
    modules = _modules(lockstep_client)
    grouped = {file for files in _GROUPS.values() for file in files}
    lines = _head(lockstep_client, "Python client")
    for title, files in _GROUPS.items():
        lines += [f"## {title}", ""]
        for name in sorted(modules, key=_order):
            file = modules[name].rpartition(".")[2]
            if file in files or (title == _OTHERS and file not in grouped):
                # The methods of the clients are made when their module is imported.
                lines += [f"::: {modules[name]}.{name}", "    options:", "      force_inspection: true", ""]
    return "\n".join(lines)


def _order(name: str) -> tuple[bool, bool, str]:
    return name not in ("Client", "LockstepError"), name.startswith("Async"), name


def _export() -> str:
    modules = _modules(lockstep_export)
    lines = _head(lockstep_export, "Python exporter")
    for name in sorted(modules, key=lambda one: (not one.startswith("export"), one)):
        lines += [f"::: {modules[name]}.{name}", ""]
    return "\n".join(lines)


def _head(package: ModuleType, title: str) -> list[str]:
    return [f"# {title}", "", f"`{package.__name__}`: {(package.__doc__ or '').partition(chr(10))[0]}", ""]


def _modules(package: ModuleType) -> dict[str, str]:
    """The module that defines each public name."""
    found = {}
    for name in package.__all__:
        value = getattr(package, name)
        module = getattr(value, "__module__", None) or type(value).__module__
        found[name] = module if module in sys.modules else package.__name__
    return found
