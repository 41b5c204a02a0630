"""Decoding request bodies as forgivingly as Go's encoding/json, on which clients rely; and the way out.

Go takes null for "leave the zero value", matches keys without regard to case, ignores unknown ones, and lets a plain
string stand for a one-word command.  msgspec does none of that but is 50 times faster than a walk in Python: most
bodies are exact, so the strict decoder goes first and only what it refuses is walked.  Error texts name the field and
the value in the manner of Go's, which is what people find when they search for them.
"""

import functools
import operator
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as shapes

from boxwright.errdefs import InvalidParameter

from .base import Model

T = TypeVar("T", bound=Model)

# A converter takes a decoded JSON value and where it stands ("HostConfig.Memory").
Converter = Callable[[Any, str], Any]

# `\u0000` that is an escape itself, not the tail of an escaped backslash.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# What a document may nest; Python's own limit for it was a thousand calls, and since 3.14 is the size of the stack.
_DEEPEST = 1000
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def decode(body: bytes, model: type[T]) -> T:
    """Decode a request body; raises `InvalidParameter` with Docker's texts."""
    if b"\\u0000" in body and _NUL.search(body):
        raise InvalidParameter("invalid JSON: invalid character '\\x00' in string literal")
    _check_depth(body)
    try:
        exact: T = _strict(model).decode(body)
    except msgspec.ValidationError:
        return convert(_parse(body), model)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise _malformed(body, error) from None
    return exact


def parse(body: bytes | str) -> Any:
    """Decode any JSON value; raises `InvalidParameter` with Docker's texts."""
    data = body.encode(errors="surrogatepass") if isinstance(body, str) else body
    _check_depth(data)
    return _parse(data)


def convert(value: Any, model: type[T]) -> T:
    """Make a `model` out of a decoded JSON value, by Go's rules; raises `InvalidParameter`."""
    result: T = _converter(model)(value, "")
    return result


def dump(value: Any) -> Any:
    """JSON-ready form of a model, or of lists and dicts of models, with the keys that Docker would send.

    Null and empty stay apart; what Docker leaves out when it is empty (`omitempty`) is left out.
    """
    if isinstance(value, Model):
        fields = ((key, getattr(value, name), omit) for name, key, omit in _keys(type(value)))
        return {key: dump(field) for key, field, omit in fields if not omit(field)}
    if isinstance(value, dict):
        return {key: dump(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [dump(item) for item in value]
    return value


@functools.cache
def _keys(model: type[Model]) -> list[tuple[str, str, Callable[[Any], bool]]]:
    """Attribute, JSON key and "is this value left out" of each field."""
    names = zip(model.__struct_fields__, model.__struct_encode_fields__, model.__struct_defaults__, strict=True)
    return [(name, key, _omission(default) if name in model.omitempty else _never) for name, key, default in names]


def _omission(default: Any) -> Callable[[Any], bool]:
    # A number or bool that may be null is a pointer in Go: a pointer to zero is not empty.
    return _empty_pointer if default is None else operator.not_


def _empty_pointer(value: Any) -> bool:
    return not value and not isinstance(value, int)


def _never(value: Any) -> bool:
    return False


@functools.cache
def _strict(model: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(model)


def _parse(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise _malformed(body, error) from None


def _check_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= _DEEPEST:
        return
    depth = 0
    for token in _TOKENS.finditer(body):
        match body[token.start()]:
            case 0x5B | 0x7B:
                depth += 1
                if depth > _DEEPEST:
                    raise InvalidParameter("invalid JSON: exceeded max depth")
            case 0x5D | 0x7D:
                depth -= 1


def _malformed(body: bytes, error: Exception) -> InvalidParameter:
    if isinstance(error, RecursionError):
        return InvalidParameter("invalid JSON: exceeded max depth")
    if not body.strip():
        return InvalidParameter("invalid JSON: got EOF while reading request body")
    text = str(error)
    at = re.search(r"\(byte (\d+)\)", text)
    if "trailing characters" in text:
        return InvalidParameter("unexpected content after JSON")
    if "truncated" in text:
        return InvalidParameter("invalid JSON: unexpected EOF")
    if at and int(at[1]) < len(body):
        character = body[int(at[1]) : int(at[1]) + 1].decode("latin-1")
        return InvalidParameter(f"invalid JSON: invalid character {character!r} at byte {at[1]}")
    return InvalidParameter(f"invalid JSON: {text[:200]}")


@functools.cache
def _converter(model: type[Model]) -> Converter:
    return _compile(shapes.type_info(model), model.__name__)


def _compile(shape: shapes.Type, root: str) -> Converter:
    """The converter for one type; `root` is the name of the whole body, for error texts."""
    go = _go_name(shape)
    if isinstance(shape, shapes.Metadata):
        if go == "strslice.StrSlice":
            return _str_slice(_compile(shape.type, root))
        shape = shape.type
    match shape:
        case shapes.UnionType():
            return _optional(_compile(next(t for t in shape.types if not isinstance(t, shapes.NoneType)), root))
        case shapes.StructType():
            return _struct(shape, root)
        case shapes.ListType():
            return _list(_compile(shape.item_type, root), go, root)
        case shapes.TupleType():
            return _fixed_array([_compile(item, root) for item in shape.item_types], go, root)
        case shapes.DictType():
            return _map(_compile(shape.value_type, root), go, root)
        case shapes.IntType():
            return _integer(shape, go, root)
        case shapes.StrType():
            return _scalar(str, go, root)
        case shapes.BoolType():
            return _scalar(bool, go, root)
    return lambda value, path: value


def _go_name(shape: shapes.Type) -> str:
    match shape:
        case shapes.Metadata(type=inner, extra=extra):
            return str((extra or {}).get("go") or _go_name(inner))
        case shapes.UnionType(types=types):
            return _go_name(types[0])
        case shapes.StructType(cls=cls):
            return cls.__name__
        case shapes.ListType(item_type=item):
            return f"[]{_go_name(item)}"
        case shapes.TupleType(item_types=items):
            return f"[{len(items)}]{_go_name(items[0])}"
        case shapes.DictType(value_type=shapes.AnyType()):
            return "struct {}"
        case shapes.DictType(value_type=value):
            return f"map[string]{_go_name(value)}"
        case shapes.StrType():
            return "string"
        case shapes.BoolType():
            return "bool"
    return "int"


def _refuse(value: Any, path: str, go: str, root: str) -> InvalidParameter:
    match value:
        case bool():
            what = f"bool {str(value).lower()}"
        case int() | float():
            what = f"number {str(value)[:40]}"
        case str():
            what = f'string "{value[:60]}"'
        case list():
            what = "array"
        case _:
            what = "object"
    where = f"Go struct field {root}.{path}" if path else "Go value"
    return InvalidParameter(f"invalid JSON: json: cannot unmarshal {what} into {where} of type {go}")


def _optional(inner: Converter) -> Converter:
    return lambda value, path: None if value is None else inner(value, path)


def _scalar(kind: type, go: str, root: str) -> Converter:
    def scalar(value: Any, path: str) -> Any:
        if value is None:
            return kind()
        if type(value) is not kind:
            raise _refuse(value, path, go, root)
        return value

    return scalar


def _integer(shape: shapes.IntType, go: str, root: str) -> Converter:
    low = -(2**63) if shape.ge is None else shape.ge
    high = 2**63 - 1 if shape.le is None else shape.le

    def integer(value: Any, path: str) -> int:
        if value is None:
            return 0
        if type(value) is not int or not low <= value <= high:
            raise _refuse(value, path, go, root)
        return value

    return integer


def _list(inner: Converter, go: str, root: str) -> Converter:
    def array(value: Any, path: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            raise _refuse(value, path, go, root)
        return [inner(item, path) for item in value]

    return array


def _fixed_array(inner: list[Converter], go: str, root: str) -> Converter:
    def array(value: Any, path: str) -> tuple[Any, ...]:
        if value is None:
            value = []
        if not isinstance(value, list):
            raise _refuse(value, path, go, root)
        padded = value + [None] * len(inner)
        return tuple(convert(item, path) for convert, item in zip(inner, padded, strict=False))

    return array


def _str_slice(inner: Converter) -> Converter:
    return lambda value, path: [value] if isinstance(value, str) else inner(value, path)


def _map(inner: Converter, go: str, root: str) -> Converter:
    def mapping(value: Any, path: str) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise _refuse(value, path, go, root)
        return {key: inner(item, path) for key, item in value.items()}

    return mapping


def _struct(shape: shapes.StructType, root: str) -> Converter:
    model = shape.cls
    fields = {field.encode_name: (field.name, _compile(field.type, root)) for field in shape.fields}
    folded = {key.casefold(): key for key in fields}

    def struct(value: Any, path: str) -> Any:
        if value is None:
            return model()
        if not isinstance(value, dict):
            raise _refuse(value, path, model.__name__, root)
        found: dict[str, Any] = {}
        for given, item in value.items():
            key = given if given in fields else folded.get(given.casefold())
            # Null leaves the zero value, whatever the type: absent and null are one to Go.
            if key is None or item is None:
                continue
            name, inner = fields[key]
            found[name] = inner(item, f"{path}.{key}" if path else key)
        return model(**found)

    return struct
