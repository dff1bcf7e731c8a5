"""A client of the workers for programs that want gRPC without the gateway, with the gateway's exact failover.

    async with MeshClient(etcd="http://127.0.0.1:12379") as mesh:
        async for event in mesh.generate("mesh-demo", [{"role": "user", "content": "Hello!"}], max_tokens=100):
            if isinstance(event, Delta):
                print(event.text, end="")

A worker that is killed, freezes or drains meanwhile is not seen: another one goes on at the same token.
`SyncMeshClient` is the same without asyncio. Events are the messages of `mesh.v1`; `inference.proto` documents their
fields.
"""

from mesh.answer import Event
from mesh.client.client import MeshClient
from mesh.client.placement import Limits
from mesh.client.request import Options, Prompt
from mesh.client.sync import SyncMeshClient
from mesh.errors import ErrorKind, MeshError
from mesh.v1.inference_pb2 import (
    ChatMessage,
    ChoiceFinished,
    Constraint,
    Delta,
    Finished,
    GenerateRequest,
    Started,
    Tool,
)
from mesh.v1.registry_pb2 import ServedModel
from mesh.wire import Tls

__all__ = [
    "ChatMessage",
    "ChoiceFinished",
    "Constraint",
    "Delta",
    "ErrorKind",
    "Event",
    "Finished",
    "GenerateRequest",
    "Limits",
    "MeshClient",
    "MeshError",
    "Options",
    "Prompt",
    "ServedModel",
    "Started",
    "SyncMeshClient",
    "Tls",
    "Tool",
]
