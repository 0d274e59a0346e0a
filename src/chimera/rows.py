"""Rows that are messages: maps a result set onto protobuf messages or dataclasses.

Columns are aliased to field names in SQL, so a row is its message. Rules, by column type and field:
text -> enum by its short lower-case name (draft -> CAMPAIGN_STATE_DRAFT), numeric -> decimal string
without trailing zeros, bytea -> sub-message by parsing (bytes fields take it as it is), jsonb ->
Struct or sub-message. NULL leaves the field unset. An unknown column is an error: a secret has no
field to leak into.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from psycopg import AsyncCursor
from psycopg.rows import RowMaker

Convert = Callable[[Any], Any]


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


def _converter(field: FieldDescriptor) -> Convert | None:
    if field.type == FieldDescriptor.TYPE_ENUM:
        numbers = enum_numbers(field.enum_type)
        if field.is_repeated:
            return lambda texts: [numbers[text] for text in texts]
        return numbers.__getitem__
    if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
        return lambda value: decimal_text(value) if isinstance(value, Decimal) else str(value)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if field.message_type.full_name in ("google.protobuf.Timestamp", "google.protobuf.Struct"):
            return None
        kind: type[Message] = field.message_type._concrete_class
        if field.is_repeated:
            return lambda values: [_message(kind, value) for value in values]
        return lambda value: _message(kind, value)
    return None


def _message(kind: type[Message], value: Any) -> Message:
    if isinstance(value, bytes):
        return kind.FromString(value)
    return ParseDict(value, kind())


@lru_cache(maxsize=1024)
def _converters(kind: type[Message], columns: tuple[str, ...]) -> tuple[Convert | None, ...]:
    fields = kind.DESCRIPTOR.fields_by_name
    unknown = [name for name in columns if name not in fields]
    if unknown:
        raise LookupError(f"{kind.DESCRIPTOR.full_name} has no field for column(s) {unknown}")
    return tuple(_converter(fields[name]) for name in columns)


def message_rows(kind: type[Message], cursor: AsyncCursor[Any]) -> RowMaker[Any]:
    columns = tuple(column.name for column in cursor.description or ())
    converters = _converters(kind, columns)

    def make(values: Sequence[Any]) -> Message:
        return kind(
            **{
                name: value if convert is None else convert(value)
                for name, convert, value in zip(columns, converters, values, strict=True)
                if value is not None
            }
        )

    return make


def row_maker(kind: type[Any]) -> Callable[[AsyncCursor[Any]], RowMaker[Any]]:
    """A psycopg row factory: messages, dataclasses by keyword, dicts, else the first column."""
    if issubclass(kind, Message):
        return lambda cursor: message_rows(kind, cursor)
    if is_dataclass(kind):

        def dataclass_rows(cursor: AsyncCursor[Any]) -> RowMaker[Any]:
            names = [column.name for column in cursor.description or ()]
            return lambda values: kind(**dict(zip(names, values, strict=True)))

        return dataclass_rows
    if kind is dict:

        def dict_rows(cursor: AsyncCursor[Any]) -> RowMaker[Any]:
            names = [column.name for column in cursor.description or ()]
            return lambda values: dict(zip(names, values, strict=True))

        return dict_rows
    return lambda cursor: lambda values: values[0]


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
