"""Hypothesis strategies from types that exist: JSON bodies from the structs of the API, messages from the protos."""

from __future__ import annotations

import types
import typing
from typing import Any, TypeVar, cast

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

# Ordinary values, values at a limit, and values far beyond.
_INTEGERS = st.sampled_from([0, 1, 2, 5, 20, -1, -2, 128, 129, 255, 2**31, 2**32, 2**63, -(2**63), 10**30])
_NUMBERS = st.sampled_from([0.0, 0.5, 1.0, 2.0, -0.1, 2.1, -100.0, 1e-300, 1e300]) | _INTEGERS
_TEXTS = st.sampled_from(["", "m", "hi", "user", "text", "json_object", "auto", "é\u2028\x00", "x" * 2000]) | st.text(
    max_size=5
)
_DEEP = 3

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)


def bodies(struct: type[msgspec.Struct], **given: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects with some of the struct's fields, of the right types; now and then one field is any JSON value.

    `given` fields are always there, and drawn from their own strategies.
    """
    fields = {name: _values(hint) for name, hint in typing.get_type_hints(struct).items() if name not in given}
    right = st.fixed_dictionaries(given, optional=fields)
    few = st.tuples(st.fixed_dictionaries(given), st.sets(st.sampled_from(sorted(fields)), max_size=3)).flatmap(
        lambda pair: st.fixed_dictionaries({name: fields[name] for name in sorted(pair[1])}).map(pair[0].__or__)
    )
    mistaken = st.tuples(few, st.sampled_from([*fields, *given, "unheard_of"]), json_values).map(
        lambda parts: {**parts[0], parts[1]: parts[2]}
    )
    return few | few | mistaken | right


def _values(hint: Any) -> st.SearchStrategy[Any]:
    """JSON values of a type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([_values(each) for each in arguments])
    if origin is list:
        return st.lists(_values(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(_TEXTS | _INTEGERS.map(str), _values(arguments[1]), max_size=3)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return st.fixed_dictionaries({}, optional={n: _values(h) for n, h in typing.get_type_hints(hint).items()})
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: _TEXTS,
        int: _INTEGERS,
        float: _NUMBERS,
        bool: st.booleans(),
        type(None): st.none(),
    }
    return plain.get(hint, json_values)


M = TypeVar("M", bound=Message)


def messages(kind: type[M], most: int = 4) -> st.SearchStrategy[M]:
    """Messages of a type with so many of their fields, at most, set to anything that the types allow."""
    return cast("st.SearchStrategy[M]", _messages(cast("Descriptor", kind.DESCRIPTOR), 0, most))


def _messages(descriptor: Descriptor, depth: int, most: int = 4) -> st.SearchStrategy[Message]:
    fields = [field for field in descriptor.fields if depth < _DEEP or field.message_type is None]
    if not fields:
        return st.builds(GetMessageClass(descriptor))
    chosen = st.lists(st.sampled_from(fields).flatmap(lambda field: _one(field, depth)), max_size=most)
    return chosen.map(lambda parts: _merged(descriptor, parts))


def _one(field: FieldDescriptor, depth: int) -> st.SearchStrategy[tuple[FieldDescriptor, Any]]:
    return st.tuples(st.just(field), _field_values(field, depth))


def _field_values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return _messages(field.message_type, depth + 1)
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return st.binary(max_size=5) if field.type == FieldDescriptor.TYPE_BYTES else _TEXTS
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return st.sampled_from([0.0, 0.5, 1.0, -1.0, 1e30, float("nan"), float("inf")])
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return st.integers(0, 5)
    bits = 31 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 63
    signed = kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
    return st.sampled_from([0, 1, 2, 3, 7, 100, 2**bits - 1, *([-1, -(2**bits)] if signed else [2 ** (bits + 1) - 1])])


def _merged(descriptor: Descriptor, parts: list[tuple[FieldDescriptor, Any]]) -> Message:
    message = GetMessageClass(descriptor)()
    for field, value in parts:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            message.MergeFrom(GetMessageClass(descriptor)(**{field.name: {value.key: value.value}}))
        elif field.is_repeated:
            getattr(message, field.name).extend([value])
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message
