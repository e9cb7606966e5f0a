"""Damages model files: values, names, sizes and nesting where a format is known, and raw bytes."""

import json
import os
import pathlib
import random
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from tests.fuzz import formats
from tests.fuzz.formats import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32, UINT64, Typed

_DEEP = "\u0000deep {}"  # stands for arrays within arrays, which json cannot write
_HOSTILE = (
    None, True, False, 0, 1, -1, 2, 3, 7, 1000, 10**6, 10**9, 2**31 - 1, 2**31, 2**32, 2**63, 2**64,
    10**100, 10**400, 10**4000, 0.5, -0.5, 1e-320, 1e38, 1e300, float("nan"), float("inf"),
    -float("inf"), "", "x", "0", "\ud800", "a\nb", "\0", "x" * 100_000, "../x", "/etc/passwd", [],
    {}, [[]], [None], [0], [10**6], ["x"], {"x": 1}, {"": {}}, [0] * 5000,
    {str(i): i for i in range(5000)}, _DEEP.format(3000), _DEEP.format(100_000))
_DTYPES = ("BOOL", "F4", "F6_E2M3", "F8_E4M3", "F8_E5M2", "F8_E8M0", "U8", "I8", "I16", "U16",
           "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64", "C64", "F33", "", "f32")
_SIZES = (0, 1, 2, 3, 2**16, 2**31, 2**32 - 1, 2**32, 2**53, 2**60, 2**63 - 1, 2**63, 2**64 - 1)
TEMPLATES = (
    "{% for i in range(10**12) %}x{% endfor %}", "{{ 'x' * 10**11 }}",
    "{% for i in range(10**5) %}{% for j in range(10**5) %}{% endfor %}{% endfor %}",
    "{{ 'x'.ljust(10**11) }}", "{{ '%99999999999d' | format(1) }}", "{{ 10**10**10 }}",
    "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "{{ " + "[" * 5000 + "]" * 5000 + " }}", "{{ messages[0].content.__class__.__mro__ }}",
    "{% set x = namespace(a='x') %}{% for i in range(60) %}{% set x.a = x.a + x.a %}{% endfor %}"
    "{{ x.a }}", "{{ raise_exception('no') }}", "{{ messages | tojson(indent=10**9) }}",
    "{{ 'x' | center(10**11) }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ messages[5]['role'] }}", "{{ '\ud800' }}", "{{ lipsum(10**7) }}", "{% include 'x' %}",
    "{{ ['x'] * 10**10 }}", "{{ messages.append(1) }}", "{{ strftime_now('%999999999d') }}",
    "{{ strftime_now(3) }}", "{{ 1 / 0 }}", "{{ x.y.z }}", "{{ range(10**12) | list }}",
    "{{ 'ab' | replace('', 'x' * 10**6) | replace('', 'x' * 10**6) }}", "{% break %}", "{%", "")


def mutate_folder(folder: pathlib.Path, chance: random.Random) -> str:
  """Damages one file of a folder, up to three times; says which and how."""
  files = sorted(path for path in folder.iterdir() if path.is_file())
  # config.json says the most, and in the fewest bytes.
  path = chance.choices(files, [3 if path.name == "config.json" else 1 for path in files])[0]
  if chance.random() < 0.03:
    return f"{path.name}: {_mutate_entry(path, chance)}"
  names = [mutate(path, chance) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
  return f"{path.name}: {', '.join(names)}"


def _mutate_entry(path: pathlib.Path, chance: random.Random) -> str:
  """Replaces a file by something else, or by a sparse file."""
  kind = chance.choice(("gone", "folder", "link", "loop", "pipe", "device", "holes"))
  if kind == "holes":
    os.truncate(path, 10**10)
    return kind
  path.unlink()
  if kind == "folder":
    path.mkdir()
  elif kind == "pipe":
    os.mkfifo(path)
  elif kind != "gone":
    path.symlink_to({"link": "/etc/passwd", "loop": path.name, "device": "/dev/zero"}[kind])
  return kind


def mutate(path: pathlib.Path, chance: random.Random) -> str:
  """Damages a file; where its format is not to be seen any more, its bytes."""
  kinds = {".json": _mutate_json, ".jinja": _mutate_template, ".gguf": _mutate_gguf,
           ".safetensors": _mutate_safetensors, ".model": _mutate_model}
  content = path.read_bytes()
  if path.suffix in kinds and chance.random() < 0.8:
    try:
      damaged, name = kinds[path.suffix](content, chance)
      path.write_bytes(damaged)
      return name
    except Exception:  # its format is not to be seen any more
      pass
  damaged, name = _mutate_bytes(content, chance)
  path.write_bytes(damaged)
  return name


def _mutate_bytes(content: bytes, chance: random.Random) -> tuple[bytes, str]:
  place = chance.randrange(len(content) + 1)
  # The head says what the rest is.
  place = min(place, chance.choice((10**9, 10**9, 64, 4096)))
  size = chance.choice((1, 2, 8, 64, 1000))
  noise = chance.randbytes(size)
  damaged = {
      "cut": content[:place],
      "overwrite": content[:place] + noise + content[place + size:],
      "zeros": content[:place] + b"\0" * size + content[place + size:],
      "ones": content[:place] + b"\xff" * size + content[place + size:],
      "insert": content[:place] + noise + content[place:],
      "remove": content[:place] + content[place + size:],
      "repeat": content[:place + size] * 2 + content[place:],
      "flip": content[:place] + bytes(
          [byte ^ 1 << chance.randrange(8) for byte in content[place:place + 1]])
              + content[place + 1:]}
  name = chance.choice(list(damaged))
  return damaged[name], f"{name} {size} at {place}"


def _mutate_json(content: bytes, chance: random.Random) -> tuple[bytes, str]:
  value, name = _mutate_value(json.loads(content), chance)
  return _to_json(value), name


def _to_json(value: Any) -> bytes:
  text = json.dumps(value)  # of surrogates "\ud800", which is JSON
  for depth in (3000, 100_000):
    text = text.replace(json.dumps(_DEEP.format(depth)), "[" * depth + "]" * depth)
  return text.encode()


def _mutate_value(root: Any, chance: random.Random) -> tuple[Any, str]:
  """Another value, or name, at a random position in objects and lists."""
  holder, key, path = {"": root}, "", ""
  while isinstance(holder[key], (dict, list)) and holder[key] and chance.random() < 0.9:
    holder = holder[key]
    key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    path += f"/{key}"[:40]
  kind = chance.choice(("replace",) * 6 + ("remove", "wrap", "grow", "rename"))
  old = holder[key]
  if kind == "replace":
    old = chance.choice(_HOSTILE)
    if old == "\ud800" and chance.random() < 0.3:
      old = chance.choice(TEMPLATES)
    holder[key] = old
  elif kind == "remove" and path:
    del holder[key]
  elif kind == "wrap":
    holder[key] = chance.choice(([old], {"x": old}, [old] * 3, {"default": old}))
  elif kind == "grow" and isinstance(old, (int, float)):
    holder[key] = chance.choice((old + 1, old - 1, old * 2, -old, old * 10**6, float(old)))
  elif kind == "rename" and isinstance(holder, dict) and path:
    holder[chance.choice(("x", "", "\ud800", "a\nb", key + "x", "x" * 10_000))] = holder.pop(key)
  root = holder[""] if not path else root
  if "chat_template" in path and chance.random() < 0.7:
    holder[key] = chance.choice(TEMPLATES)
  return root, f"{kind} {path} {str(old)[:30]!r}"


def _mutate_template(content: bytes, chance: random.Random) -> tuple[bytes, str]:
  if chance.random() < 0.7:
    number = chance.randrange(len(TEMPLATES))
    return TEMPLATES[number].encode(errors="surrogatepass"), f"template {number}"
  pieces = content.split(b"{")
  chance.shuffle(pieces)
  return b"{".join(pieces), "shuffled"


def _mutate_model(content: bytes, chance: random.Random) -> tuple[bytes, str]:
  proto = sentencepiece_model_pb2.ModelProto.FromString(content)
  kind = chance.choice(("long", "long", "same", "piece", "score", "type", "special", "flag"))
  piece = proto.pieces[chance.randrange(len(proto.pieces))]
  if kind == "long":
    piece.piece = chance.choice(("a", "ab", "\u2581", "\u0301")) * 300_000
  elif kind == "same":
    piece.piece = proto.pieces[chance.randrange(len(proto.pieces))].piece
  elif kind == "piece":
    piece.piece = chance.choice(("", "\0", " ", "a\nb", "\U0010ffff", "(" * 5000))
  elif kind == "score":
    piece.score = chance.choice((float("nan"), float("inf"), -float("inf"), 1e38, -1e-45))
  elif kind == "type":
    piece.type = chance.choice((1, 2, 3, 4, 5, 6))
  elif kind == "special":
    name = chance.choice(("unk_id", "bos_id", "eos_id", "pad_id"))
    setattr(proto.trainer_spec, name, chance.choice((-1, 0, 1, 10**6, 2**31 - 1, -2**31)))
  else:
    proto.trainer_spec.model_type = chance.choice((1, 2, 3, 4))
    proto.normalizer_spec.precompiled_charsmap = chance.randbytes(chance.choice((0, 8, 5000)))
  return proto.SerializeToString(), kind


def _mutate_safetensors(content: bytes, chance: random.Random) -> tuple[bytes, str]:
  header, data = formats.read_safetensors(content)
  name = chance.choice([name for name in header if name != "__metadata__"])
  tensor = header[name]
  kind = chance.choice(("dtype", "size", "axes", "offset", "name", "value", "length", "numbers"))
  length = None
  if kind == "dtype":
    tensor["dtype"] = chance.choice(_DTYPES)
    if chance.random() < 0.5:  # as large as its bytes
      tensor["shape"] = [tensor["data_offsets"][1] - tensor["data_offsets"][0]]
  elif kind == "size" and tensor["shape"]:
    tensor["shape"][chance.randrange(len(tensor["shape"]))] = chance.choice(_SIZES)
  elif kind == "axes":
    tensor["shape"] = chance.choice(
        ([], [0], [2**32, 2**32], [2**63, 2], [1] * 100, tensor["shape"] + [1], [0, 2**63],
         tensor["shape"][::-1], [1] * 5000))
  elif kind == "offset":
    tensor["data_offsets"][chance.randrange(2)] = chance.choice(_SIZES)
  elif kind == "name":
    header[chance.choice(("", "\ud800", "a\nb", "x" * 10**5, name + "x", "__metadata__"))] = (
        header.pop(name))
  elif kind == "value":
    header, kind = _mutate_value(header, chance)
  elif kind == "length":
    length = chance.choice(_SIZES)
  elif kind == "numbers":
    place = chance.randrange(len(data) // 4) * 4
    bits = chance.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f"))
    data = data[:place] + bits + data[place + 4:]
  return formats.write_safetensors(_to_json(header), data, length), f"{kind} {name[:60]}"


def _mutate_gguf(content: bytes, chance: random.Random) -> tuple[bytes, str]:
  file = formats.read_gguf(content)
  if chance.random() < 0.7:
    number = chance.randrange(len(file.fields))
    name, old = file.fields[number]
    kind = chance.choice(("value",) * 5 + ("number",) * 3 + ("remove", "twice", "name", "items"))
    if kind == "value":
      file.fields[number] = (name, _hostile_typed(chance))
    elif kind == "number" and old.kind in (UINT32, INT32, UINT64):
      file.fields[number] = (name, Typed(old.kind, chance.choice(_SIZES + (10**6, 10**9))))
    elif kind == "remove":
      del file.fields[number]
    elif kind == "twice":
      file.fields.append((name, old))
    elif kind == "name":
      file.fields[number] = (chance.choice((b"", b"\xff", b"a\nb", name + b"x")), old)
    elif kind == "items" and old.kind == ARRAY:
      inner, items = old.value
      items = chance.choice((items[:-1], items * 2, items[::-1], [], items[:1] * len(items)))
      file.fields[number] = (name, Typed(ARRAY, (inner, items)))
  else:
    number = chance.randrange(len(file.infos))
    info, name = file.infos[number], file.infos[number].name
    kind = chance.choice(("size", "axes", "kind", "offset", "name", "twice", "remove", "numbers"))
    changes = {
        "size": {"sizes": (chance.choice(_SIZES), *info.sizes[1:])},
        "axes": {"sizes": chance.choice(((), (0,), (2**32,) * 2, (1,) * 100, info.sizes[::-1],
                                         (*info.sizes, 1), (2**63,) * 3))},
        "kind": {"kind": chance.choice((*range(45), 2**32 - 1))},
        "offset": {"offset": chance.choice((*_SIZES, info.offset + 1, info.offset + 32))},
        "name": {"name": chance.choice((b"", b"\xff", b"a\nb", b"rope_freqs.weight", name + b"x"))},
    }
    if kind in changes:
      file.infos[number] = info._replace(**changes[kind])
    elif kind == "twice":
      file.infos.append(info)
    elif kind == "remove":
      del file.infos[number]
    else:
      place = chance.randrange(len(file.data) // 4) * 4
      file = file._replace(data=file.data[:place] + b"\0\0\xc0\x7f" + file.data[place + 4:])
  return formats.write_gguf(file), f"{kind} {name.decode(errors='replace')}"


def _hostile_typed(chance: random.Random) -> Typed:
  return chance.choice((
      Typed(UINT32, 0), Typed(UINT32, 10**6), Typed(UINT32, 2**32 - 1), Typed(INT32, 2**32 - 1),
      Typed(UINT64, 2**64 - 1), Typed(FLOAT32, float("nan")), Typed(FLOAT32, float("inf")),
      Typed(FLOAT32, 0.0), Typed(FLOAT32, 1e-40), Typed(BOOL, 1), Typed(BOOL, 7),
      Typed(STRING, b""), Typed(STRING, b"x"), Typed(STRING, b"\xed\xa0\x80"),
      Typed(STRING, b"a\nb"), Typed(STRING, b"x" * 10**5),
      Typed(STRING, chance.choice(TEMPLATES).encode(errors="surrogatepass")),
      Typed(ARRAY, (UINT32, [])), Typed(ARRAY, (UINT32, [0] * 5000)),
      Typed(ARRAY, (STRING, [b"x"] * 9)), Typed(ARRAY, (STRING, [b"x"] * 5000)),
      Typed(ARRAY, (FLOAT32, [float("nan")] * 9)), Typed(ARRAY, formats.nested_array(3)),
      Typed(ARRAY, formats.nested_array(3000)), Typed(ARRAY, formats.nested_array(100_000)),
      Typed(99, b"")))
