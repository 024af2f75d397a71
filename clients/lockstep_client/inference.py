"""The messages of package `inference`, in a private descriptor pool.

tritonclient defines the same package, and one pool cannot hold it twice. These classes are built from the
committed descriptor set in a private pool, so a process can use both clients. They have the same wire format
as the classes of `lockstep_proto.open_inference_pb2`, but are different types.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from lockstep_proto.open_inference_pb2 import (
        InferParameter,
        InferTensorContents,
        ModelInferRequest,
        ModelInferResponse,
        ModelMetadataRequest,
        ModelMetadataResponse,
        ModelStatistics,
        ModelStatisticsRequest,
        ModelStatisticsResponse,
        ModelStreamInferResponse,
        RepositoryIndexRequest,
        RepositoryIndexResponse,
        RepositoryModelLoadRequest,
        RepositoryModelLoadResponse,
        RepositoryModelUnloadRequest,
        RepositoryModelUnloadResponse,
        ServerMetadataRequest,
        ServerMetadataResponse,
        StatisticDuration,
    )

__all__ = [
    "InferParameter",
    "InferTensorContents",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelMetadataRequest",
    "ModelMetadataResponse",
    "ModelStatistics",
    "ModelStatisticsRequest",
    "ModelStatisticsResponse",
    "ModelStreamInferResponse",
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "RepositoryModelLoadRequest",
    "RepositoryModelLoadResponse",
    "RepositoryModelUnloadRequest",
    "RepositoryModelUnloadResponse",
    "ServerMetadataRequest",
    "ServerMetadataResponse",
    "StatisticDuration",
]


def _private_pool() -> descriptor_pool.DescriptorPool:
    committed = files("lockstep_proto").joinpath("open_inference.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(committed).file:
        pool.Add(file)
    return pool


if not TYPE_CHECKING:
    _POOL = _private_pool()

    @cache
    def __getattr__(name: str) -> type[Message]:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))
