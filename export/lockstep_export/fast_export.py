"""Makes torch.onnx.export faster. Its graphs stay the same, or have fewer nodes.

registry of ONNX functions   made once per process, not once per export
composite operators          listed once per export, not once per namespace
cache of fake results        off: most results are needed once, and an entry costs more than its result
type promotion               by the values that tracing recorded, not by running the program once more
decomposition                only if an operator of the program needs it: torch would trace the program twice
                             more, which takes over half of the time. Common operators that torch only
                             decomposes get ONNX functions here
"""

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._ops import OperatorBase, OpOverload

_registries: dict[int, Any] = {}
"""Registries of ONNX functions, by opset."""

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_KNOWN = {
    *("aten::_assert_scalar", "aten::_assert_tensor_metadata"),  # removed before the others are converted
    *("aten::to.dtype", "aten::to.dtype_layout", "aten::movedim.int", "aten::numpy_T"),
    *("aten::chunk", "aten::flatten.using_ints", "aten::reshape"),
}
"""Operators that need no decomposition, although the registry lacks them or they may return views."""


@contextmanager
def fast_export() -> Iterator[None]:
    """Replaces four functions of torch.onnx while the block runs."""
    from torch._dynamo import config
    from torch._export import utils
    from torch.onnx._internal.exporter import _fx_passes as passes
    from torch.onnx._internal.exporter import _registration
    from torch.onnx._internal.fx.passes import type_promotion

    kind: Any = _registration.ONNXRegistry
    promotion: Any = type_promotion._TypePromotionInterpreter
    names = {
        kind: "from_torchlib",
        utils: "_materialize_cpp_cia_ops",
        passes: "decompose_with_registry",
        promotion: "run_node",
    }
    kept: list[tuple[Any, str, Any]] = [(owner, name, vars(owner)[name]) for owner, name in names.items()]
    (_, _, from_torchlib), (_, _, list_composites), (_, _, decompose), _ = kept

    def shared_registry(opset_version: int) -> Any:
        if opset_version not in _registries:
            _registries[opset_version] = _completed(from_torchlib.__get__(None, kind)(opset_version))
        return _registries[opset_version]

    def decompose_if_needed(program: Any, registry: Any) -> Any:
        return program if _is_convertible(program, registry) else decompose(program, registry)

    def promote_if_needed(interpreter: Any, node: Any) -> Any:
        with interpreter._set_current_node(node):
            rule = type_promotion.get_type_promotion_rule(node, interpreter.type_promotion_table)
            if rule is not None:
                interpreter._maybe_promote_node(node, rule)  # runs what it changes
        if node.op == "call_function" and "val" in node.meta:
            return node.meta["val"]
        return torch.fx.Interpreter.run_node(interpreter, node)

    faster = (
        staticmethod(shared_registry),
        functools.cache(list_composites),
        decompose_if_needed,
        promote_if_needed,
    )
    for (owner, name, _), replacement in zip(kept, faster, strict=True):
        setattr(owner, name, replacement)
    try:
        with config.patch(fake_tensor_cache_enabled=False):
            yield
    finally:
        for owner, name, original in kept:
            setattr(owner, name, original)


def _is_convertible(program: Any, registry: Any) -> bool:
    """Whether no operator of a program needs decomposition."""
    called = (node.target for node in program.graph.nodes if node.op == "call_function")
    operators = [target for target in called if isinstance(target, OperatorBase)]
    return all(isinstance(one, OpOverload) and _has_function(one, registry) for one in operators)


def _has_function(operator: Any, registry: Any) -> bool:
    """Whether torch leaves an operator to its ONNX function. It decomposes those that may return views."""
    if operator.name() in _KNOWN:
        return True
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), _COMPOSITE)
    views = any(argument.alias_info for argument in operator._schema.arguments)
    return registry.is_registered(operator) and not (composite and views)


def _completed(registry: Any) -> Any:
    """The registry with functions of common operators that torch only decomposes."""
    from onnxscript.function_libs.torch_lib.ops import core
    from onnxscript.function_libs.torch_lib.tensor_typing import TReal
    from onnxscript.onnx_opset import opset18

    op: Any = opset18

    def movedim(self: Any, source: int, destination: int) -> Any:
        order = list(range(len(self.shape)))
        order.insert(destination, order.pop(source))
        return op.Transpose(self, perm=order)

    def flatten(self: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
        shape = [size if isinstance(size, int) else 0 for size in self.shape]  # 0: as in the input
        first, last = start_dim % len(shape), end_dim % len(shape)
        before, joined, after = shape[:first], shape[first : last + 1], shape[last + 1 :]
        if all(after) and all(joined):
            return op.Reshape(self, [*before, math.prod(joined), *after])
        if all(after) and all(before):
            return op.Reshape(self, [*before, -1, *after])
        return core.aten_flatten(self, start_dim, end_dim)

    def reverse_axes(self: Any) -> Any:
        return op.Transpose(self)

    def subtract_from(self: TReal, other: TReal, alpha: float = 1.0) -> Any:
        return core.aten_sub(other, self, alpha)

    aten = torch.ops.aten
    registry.register_op(aten.to.dtype, core.aten__to_copy)
    registry.register_op(aten.to.dtype_layout, core.aten__to_copy)
    registry.register_op(aten.movedim.int, movedim)
    registry.register_op(aten.flatten.using_ints, flatten)
    registry.register_op(aten.numpy_T.default, reverse_axes)
    registry.register_op(aten.rsub.Scalar, subtract_from)
    return registry
