"""The two binary formats of model files, taken apart and put together again without any check."""

import json
import struct
from typing import Any, NamedTuple

# GGUF's types of values.
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 5, 6, 7, 8, 9, 10
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q",
            11: "<q", 12: "<d"}


class Typed(NamedTuple):
  """A value of GGUF metadata; of an array, `value` is (type of its items, items)."""

  kind: int
  value: Any


class Info(NamedTuple):
  """What GGUF says of a tensor."""

  name: bytes
  sizes: tuple[int, ...]
  kind: int
  offset: int


class Gguf(NamedTuple):
  """A GGUF file."""

  fields: list[tuple[bytes, Typed]]
  infos: list[Info]
  data: bytes  # of the tensors


def read_safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
  """The header and the data of a whole file."""
  (size,) = struct.unpack_from("<Q", content)
  return json.loads(content[8:8 + size]), content[8 + size:]


def write_safetensors(header: bytes, data: bytes, length: int | None = None) -> bytes:
  """A file that says its header is `length` bytes long, by default what it is."""
  return struct.pack("<Q", len(header) if length is None else length) + header + data


def read_gguf(content: bytes) -> Gguf:
  """Takes a whole file apart."""
  num_tensors, num_fields = struct.unpack_from("<QQ", content, 8)
  place, fields, infos = 24, [], []
  for _ in range(num_fields):
    name, place = _read_text(content, place)
    (kind,) = struct.unpack_from("<I", content, place)
    value, place = _read_value(content, place + 4, kind)
    fields.append((name, Typed(kind, value)))
  for _ in range(num_tensors):
    name, place = _read_text(content, place)
    (count,) = struct.unpack_from("<I", content, place)
    *sizes, kind, offset = struct.unpack_from(f"<{count}QIQ", content, place + 4)
    place += 16 + 8 * count
    infos.append(Info(name, tuple(sizes), kind, offset))
  return Gguf(fields, infos, content[-(-place // 32) * 32:])


def write_gguf(file: Gguf) -> bytes:
  """The file, whatever it holds; numbers that do not fit lose their upper bits."""
  parts = [b"GGUF", struct.pack("<IQQ", 3, len(file.infos), len(file.fields))]
  for name, (kind, value) in file.fields:
    parts += [_text(name), struct.pack("<I", kind), _value(kind, value)]
  for name, sizes, kind, offset in file.infos:
    parts += [_text(name), struct.pack("<I", len(sizes)), *(_value(UINT64, n) for n in sizes),
              _value(UINT32, kind), _value(UINT64, offset)]
  head = b"".join(parts)
  return head + b"\0" * (-len(head) % 32) + file.data


def nested_array(depth: int) -> bytes:
  """The bytes of an array within arrays, one number in the innermost."""
  return struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQI", UINT32, 1, 1)


def _read_text(content: bytes, place: int) -> tuple[bytes, int]:
  (size,) = struct.unpack_from("<Q", content, place)
  return content[place + 8:place + 8 + size], place + 8 + size


def _read_value(content: bytes, place: int, kind: int) -> tuple[Any, int]:
  if kind == STRING:
    return _read_text(content, place)
  if kind != ARRAY:
    (value,) = struct.unpack_from(_SCALARS[kind], content, place)
    return value, place + struct.calcsize(_SCALARS[kind])
  inner, count = struct.unpack_from("<IQ", content, place)
  place, items = place + 12, []
  for _ in range(count):
    item, place = _read_value(content, place, inner)
    items.append(item)
  return (inner, items), place


def _text(text: bytes) -> bytes:
  return struct.pack("<Q", len(text)) + text


def _value(kind: int, value: Any) -> bytes:
  if isinstance(value, bytes) and kind != STRING:
    return value  # spelled out already
  if kind == STRING:
    return _text(value)
  if kind == ARRAY:
    inner, items = value
    return struct.pack("<IQ", inner, len(items)) + b"".join(_value(inner, item) for item in items)
  code = _SCALARS[kind]
  if code[1] in "fd":
    return struct.pack(code, value)
  size = struct.calcsize(code)
  return (int(value) % 2**(8 * size)).to_bytes(size, "little")
