"""Rows that are messages: maps a result set onto protobuf messages or dataclasses.

Columns are aliased to field names in SQL, so a row is its message. Rules, by column type and field:
text -> enum by its short lower-case name (draft -> CAMPAIGN_STATE_DRAFT), numeric -> decimal string
without trailing zeros, bytea -> sub-message by parsing (bytes fields take it as it is), jsonb ->
Struct or sub-message. NULL leaves the field unset. An unknown column is an error: a secret has no
field to leak into.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from psycopg import AsyncCursor
from psycopg.rows import RowMaker

Convert = Callable[[Any], Any]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def enum_prefix(enum: EnumDescriptor) -> str:
    """The part every value name begins with, e.g. CAMPAIGN_STATE_."""
    zero = enum.values_by_number[0].name
    return zero.removesuffix("UNSPECIFIED")


@lru_cache(maxsize=256)
def enum_numbers(enum: EnumDescriptor) -> dict[str, int]:
    """Short lower-case name, as stored -> number."""
    prefix = enum_prefix(enum)
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values}


@lru_cache(maxsize=256)
def _enum_names(enum: EnumDescriptor) -> dict[int, str]:
    return {number: name for name, number in enum_numbers(enum).items()}


def enum_text(message: Message | type[Message], field: str, number: int) -> str | None:
    """How the database stores an enum field's value; None for unspecified."""
    if number == 0:
        return None
    return _enum_names(message.DESCRIPTOR.fields_by_name[field].enum_type)[number]


def decimal_text(value: Decimal) -> str:
    """Plain decimal notation without trailing zeros, at least "0"."""
    text = format(value, "f")
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text


NUMERIC_OID = 1700


def _converter(field: FieldDescriptor, oid: int) -> Convert | None:
    if field.type == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None
        numbers = enum_numbers(field.enum_type)
        if field.is_repeated:
            return lambda texts: [numbers[text] for text in texts]
        return numbers.__getitem__
    if oid == NUMERIC_OID and field.type == FieldDescriptor.TYPE_STRING:
        return decimal_text
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        assert field.message_type is not None
        if field.message_type.full_name == "google.protobuf.Struct":
            return None
        kind: type[Message] = GetMessageClass(field.message_type)
        if field.is_repeated:
            return lambda values: [_message(kind, value) for value in values]
        return lambda value: _message(kind, value)
    return None


def _message(kind: type[Message], value: Any) -> Message:
    if isinstance(value, bytes):
        return kind.FromString(value)
    return ParseDict(value, kind())


def message_rows(kind: type[Message], cursor: AsyncCursor[Any]) -> RowMaker[Any]:
    """How a result set becomes messages. Raises LookupError for a column without a field.

    The function is written out for these columns, one assignment a field: fifty listed campaigns
    take 110 us that way, 160 us by a loop over the fields and 180 us by keyword arguments. It makes
    its messages with `new`, which may also be the `add` of a repeated field.
    """
    described = cursor.description or ()
    fields: Any = kind.DESCRIPTOR.fields_by_name  # one type to the checker, another at run time
    unknown = [column.name for column in described if column.name not in fields]
    if unknown:
        raise LookupError(f"{kind.DESCRIPTOR.full_name} has no field for column(s) {unknown}")
    names: dict[str, Any] = {"kind": kind, "EPOCH": EPOCH}
    given, lines = [], []
    for place, column in enumerate(described):
        field, value = fields[column.name], f"v{place}"
        converter = names[f"c{place}"] = _converter(field, column.type_code)
        converted = f"c{place}({value})" if converter else value
        if _is_timestamp(field):
            # Half of what timestamp() and rounding cost; exact, also before 1970.
            lines += [
                f" if {value} is not None:",
                f"  stamp = message.{column.name}",
                f"  since = {value} - EPOCH",
                "  stamp.seconds = since.days * 86400 + since.seconds",
                "  stamp.nanos = since.microseconds * 1000",
            ]
        elif field.is_repeated or field.message_type:
            given.append(f"{column.name}=None if {value} is None else {converted}")
        elif field.has_presence or converter:
            lines.append(f" if {value} is not None: message.{column.name} = {converted}")
        else:  # what is empty, zero or false is so without being told
            lines.append(f" if {value}: message.{column.name} = {value}")
    places = "".join(f"v{place}, " for place in range(len(described)))
    head = [
        "def make(values, new=kind):",
        f" {places}= values",
        f" message = new({', '.join(given)})",
    ]
    # The names are those of fields, so nothing but our own protos and numbers is in this text.
    exec("\n".join([*head, *lines, " return message"]), names)
    maker: RowMaker[Any] = names["make"]
    return maker


def _is_timestamp(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return (
        kind is not None and kind.full_name == "google.protobuf.Timestamp" and not field.is_repeated
    )


def row_maker(kind: type[Any]) -> Callable[[AsyncCursor[Any]], RowMaker[Any]]:
    """A psycopg row factory: messages, dataclasses by keyword, dicts, else the first column.

    One statement always has the same columns, so what was found out at its first result is kept:
    describing fourteen columns anew costs as much as reading fifty rows.
    """
    if issubclass(kind, Message):
        return _kept(lambda cursor: message_rows(kind, cursor))
    if is_dataclass(kind):
        return _kept(lambda cursor: _keyword_rows(kind, cursor))
    if kind is dict:
        return _kept(lambda cursor: _keyword_rows(dict, cursor))
    return lambda cursor: lambda values: values[0]


def _kept(
    build: Callable[[AsyncCursor[Any]], RowMaker[Any]],
) -> Callable[[AsyncCursor[Any]], RowMaker[Any]]:
    kept: list[RowMaker[Any]] = []

    def rows(cursor: AsyncCursor[Any]) -> RowMaker[Any]:
        if kept:
            return kept[0]
        maker = build(cursor)
        if cursor.description:
            kept.append(maker)
        return maker

    return rows


def _keyword_rows(kind: type[Any], cursor: AsyncCursor[Any]) -> RowMaker[Any]:
    names = [column.name for column in cursor.description or ()]
    return lambda values: kind(**dict(zip(names, values, strict=True)))


def struct_dict(struct: Struct) -> dict[str, Any]:
    """A Struct as plain data; whole numbers come back as int."""
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return struct_dict(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return None if kind in (None, "null_value") else getattr(value, kind)
