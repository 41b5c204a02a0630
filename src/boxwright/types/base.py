"""The base of the Docker API's request bodies, and the few scalar types that they share.

Attributes are the snake_case of the JSON name; a field whose JSON name pascal-casing would get wrong names it.
A default is what Docker takes an absent field for: null for lists, maps and optional values, zero for the rest.
Data only: decoding is `lenient.decode`, the way out is `lenient.dump`.
"""

from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec
from msgspec import Meta


class Model(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="pascal"):
    """A JSON object of the Docker API.

    Unknown fields are refused by the plain decoder, which sends `lenient.decode` to its slow path: there keys match
    without regard to case and what is still unknown is ignored, as Docker ignores it.
    """

    omitempty: ClassVar[frozenset[str]] = frozenset()
    """Attributes that Docker leaves out of its answers when they are null, zero or empty."""


Int64: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, extra={"go": "int64"})]
# msgspec's bounds end at int64; no field counts further than that in practice.
Uint64: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1, extra={"go": "uint64"})]
Uint32: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1, extra={"go": "uint32"})]
Uint16: TypeAlias = Annotated[int, Meta(ge=0, le=2**16 - 1, extra={"go": "uint16"})]
# A command: a JSON string stands for a list of one.
StrSlice: TypeAlias = Annotated[list[str], Meta(extra={"go": "strslice.StrSlice"})]
# Height and width; Go's fixed arrays drop what is too much and zero what is missing.
ConsoleSize: TypeAlias = tuple[Uint64, Uint64]
# The value of a set in JSON, `{"80/tcp": {}}`.
Empty: TypeAlias = dict[str, Any]
