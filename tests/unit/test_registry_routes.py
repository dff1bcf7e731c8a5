"""What operators write about a model, and what counts as a mistake in it."""

from __future__ import annotations

import pytest

from mesh.errors import MeshError
from mesh.registry import decode_route, encode_value
from mesh.v1.registry_pb2 import Route


def test_a_route_reads_as_people_would_write_it() -> None:
    route = Route(policy="round_robin", load_factor=1.5, any_zone=True)
    assert encode_value(route) == b'{"policy": "round_robin", "load_factor": 1.5, "any_zone": true}'
    assert decode_route(encode_value(route)) == route
    assert decode_route(b'{"of_tomorrow": 1}') == Route()


@pytest.mark.parametrize(
    "value", [b"", b"[1]", b'{"policy": "fastest"}', b'{"load_factor": 0.9}', b'{"load_factor": "NaN"}', b"\xff"]
)
def test_what_is_no_route_is_refused(value: bytes) -> None:
    with pytest.raises(MeshError):
        decode_route(value)
