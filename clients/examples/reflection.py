"""What a worker serves, and a call by its name, without generated code: reflection.py ADDRESS [METHOD [JSON]]

The descriptions of services and messages come from the worker itself, by gRPC's server reflection, as grpcurl has them:

    reflection.py 127.0.0.1:50051
    reflection.py 127.0.0.1:50051 mesh.v1.InferenceService/DescribeModel '{"model": "mesh-demo"}'
"""

import sys
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

LIMIT = 60.0  # seconds that a call may take


def methods(database: Any, pool: Any) -> Iterable[str]:
    """Each method with what it takes and what it answers."""
    for service in database.get_services():
        for method in pool.FindServiceByName(service).methods:
            ways = ["stream " if streams else "" for streams in (method.client_streaming, method.server_streaming)]
            takes, answers = method.input_type.full_name, method.output_type.full_name
            yield f"{service}/{method.name}({ways[0]}{takes}) returns ({ways[1]}{answers})"


def answers(channel: Any, pool: Any, path: str, text: str) -> Iterable[str]:
    """Those of a call, each as JSON."""
    service, name = path.split("/")
    method = pool.FindServiceByName(service).methods_by_name[name]
    if method.client_streaming:
        sys.exit(f"{name} takes a stream of requests")
    request: Any = json_format.Parse(text, message_factory.GetMessageClass(method.input_type)())
    answer: Any = message_factory.GetMessageClass(method.output_type)
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(f"/{path}", type(request).SerializeToString, answer.FromString)
    replies = call(request, timeout=LIMIT)
    for reply in replies if method.server_streaming else [replies]:
        yield json_format.MessageToJson(reply, preserving_proto_field_name=True, indent=None)


if __name__ == "__main__":
    address, *rest = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool: Any = descriptor_pool.DescriptorPool(database)
        lines = answers(channel, pool, rest[0], "".join(rest[1:]) or "{}") if rest else methods(database, pool)
        try:
            for line in lines:
                print(line)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")
        except json_format.ParseError as error:
            sys.exit(f"not a request of {rest[0]}: {error}")
