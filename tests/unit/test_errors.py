"""The one table of errors."""

from __future__ import annotations

import grpc
import pytest

import mesh.errors
from mesh.errors import ErrorKind, MeshError, invalid, out_of_range, unsupported


def test_codes_are_unique_and_statuses_exist():
    assert len({kind.value.code for kind in ErrorKind}) == len(ErrorKind)
    for kind in ErrorKind:
        assert grpc.StatusCode[kind.value.grpc_status]
        assert 400 <= kind.value.http_status < 600


def test_the_table_in_the_text_is_the_table_in_the_code():
    rows = [line.split() for line in (mesh.errors.__doc__ or "").splitlines() if line.startswith("    ")][1:]
    stated = {(code, status, int(http), elsewhere == "yes") for code, status, http, elsewhere in rows}
    actual = {
        (kind.value.code, kind.value.grpc_status, kind.value.http_status, kind.value.retry_elsewhere)
        for kind in ErrorKind
    }
    assert stated == actual


@pytest.mark.parametrize("kind", ErrorKind)
def test_an_error_is_rebuilt_from_its_code(kind: ErrorKind):
    error = MeshError.from_code(kind.value.code, "why", param="p", retry_after=2)
    assert (error.kind, error.message, error.param, error.retry_after) == (kind, "why", "p", 2)
    assert str(error) == "why"


def test_the_code_of_a_newer_version_is_engine_failed():
    assert MeshError.from_code("invented_later", "why").kind is ErrorKind.ENGINE_FAILED


def test_helpers_name_field_limit_and_value():
    assert out_of_range("n", 200, 1, 128).message == "'n' must be between 1 and 128, not 200"
    assert invalid("n", "m").param == "n"
    assert unsupported("tools").kind is ErrorKind.UNSUPPORTED
    assert "tools" in unsupported("tools").message
