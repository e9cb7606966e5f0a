"""Reads the text of a compiled program (optimised HLO) and counts what it does on one device.

A program is a set of computations, each a list of instructions; loops, branches and fusions name
the computations that they run. `count` walks them from the entry: a loop counts as often as it
turns, a branch as its dearest side. Not here: seconds, which need a chip (costs.py).
"""

from collections.abc import Callable, Iterator, Mapping
import math
import re
from typing import NamedTuple

_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "f16": 2,
    "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "s4": 0.5,
    "u4": 0.5}
_NO_ESTIMATE = 2.0**62  # the largest integer stands for it, e.g. of work for another core
_COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all",
    "ragged-all-to-all")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)|"
    r"(?:branch_computations|called_computations)=\{([^}]*)\}")


class Array(NamedTuple):
  """An array type."""

  dtype: str
  shape: tuple[int, ...]

  @property
  def bytes(self) -> float:
    return _BYTES[self.dtype] * math.prod(self.shape)


class Instruction(NamedTuple):
  """A line of a computation: `name = type op(rest`."""

  name: str
  type: str
  op: str
  rest: str  # operands and attributes
  is_root: bool

  @property
  def arrays(self) -> list[Array]:
    """Of the result, a tuple's elements in their order."""
    return [Array(dtype, tuple(int(size) for size in sizes.split(",") if size))
            for dtype, sizes in _ARRAY.findall(self.type) if dtype in _BYTES]

  @property
  def operands(self) -> list[str]:
    depth = 1
    for end, letter in enumerate(self.rest):
      depth += (letter in "([{") - (letter in ")]}")
      if not depth:
        return _NAME.findall(self.rest[:end])
    return _NAME.findall(self.rest)

  @property
  def called(self) -> list[str]:
    """The computations that it runs, without a loop's condition."""
    return [name for one, several in _CALLED.findall(self.rest)
            for name in ([one] if one else re.findall(r"[\w.\-]+", several))]

  @property
  def op_name(self) -> str:
    """The path of the function that it comes from, such as `jit(f)/while/body/dot_general`."""
    return self.attribute(r'op_name="([^"]*)"') or ""

  def attribute(self, pattern: str) -> str | None:
    found = re.search(pattern, self.rest)
    return None if found is None else found[1]


Computation = dict[str, Instruction]


class Module(NamedTuple):
  computations: dict[str, Computation]
  entry: str


def parse(text: str) -> Module:
  """Reads the text of a program.

  Raises:
    ValueError: it has no entry.
  """
  computations, entry, current = {}, "", None
  for line in text.splitlines():
    if line[:1].isspace():
      found = None if current is None else _INSTRUCTION.match(line)
      if found:
        current[found[2]] = Instruction(found[2], found[3], found[4], found[5], bool(found[1]))
      continue
    found = None if line.startswith("HloModule") else _COMPUTATION.match(line)
    if found:
      current = computations[found[2]] = {}
      entry = found[2] if found[1] else entry
  if not entry:
    raise ValueError(f"program: got {text[:60]!r}, allowed: the text of a compiled program")
  return Module(computations, entry)


class Collective(NamedTuple):
  """Collectives of one kind among as many devices: how often, and the bytes of their arrays."""

  count: float
  bytes: float  # of the whole array: the result, of a reduce-scatter the operand

  def __add__(self, other):
    return Collective(self.count + other.count, self.bytes + other.bytes)


class Counts(NamedTuple):
  """The work of a program on one device."""

  flops: dict[str, float]  # of products, by the type of their operands
  cycles: float  # as estimated by the compiler, of all other work too; 0 where it gives none
  collectives: dict[tuple[str, int], Collective]  # (kind, devices) -> these
  kernels: dict[str, tuple[float, float]]  # custom kernels: name -> (calls, FLOPs)
  unknown_loops: frozenset[str]  # counted once, because nothing says how often they turn

  def __add__(self, other: "Counts") -> "Counts":
    add = lambda one, two: tuple(x + y for x, y in zip(one, two, strict=True))
    return Counts(
        _merged(self.flops, other.flops, float.__add__), self.cycles + other.cycles,
        _merged(self.collectives, other.collectives, Collective.__add__),
        _merged(self.kernels, other.kernels, add), self.unknown_loops | other.unknown_loops)

  def times(self, count: float) -> "Counts":
    scaled = lambda values: tuple(value * count for value in values)
    return Counts(
        {name: value * count for name, value in self.flops.items()}, self.cycles * count,
        {name: Collective(*scaled(value)) for name, value in self.collectives.items()},
        {name: scaled(value) for name, value in self.kernels.items()}, self.unknown_loops)

  @property
  def total_flops(self) -> float:
    return sum(self.flops.values()) + sum(flops for _, flops in self.kernels.values())


def _merged(one: Mapping, two: Mapping, add: Callable) -> dict:
  return {**one, **{name: add(one[name], value) if name in one else value
                    for name, value in two.items()}}


NOTHING = Counts({}, 0.0, {}, {}, frozenset())


def count(module: Module, trips: Mapping[str, float] | None = None) -> Counts:
  """The work of one run of a program.

  Args:
    module: of `parse`.
    trips: how often loops turn that end when the data say so, by the scope that they are in
      (`jax.named_scope`): the average, if a loop is entered several times.
  """
  return _Walk(module, trips or {}).computation(module.entry, (), is_fused=False)


class _Walk:
  """The pieces of a collective that is spread over several fusions count once for each loop."""

  def __init__(self, module: Module, trips: Mapping[str, float]):
    self._module, self._trips = module, trips
    self._seen: set[tuple] = set()

  def computation(self, name: str, path: tuple[str, ...], is_fused: bool) -> Counts:
    """The work of a computation; within a fusion only that of products and collectives."""
    found, lines = NOTHING, self._module.computations.get(name, {})
    for line in lines.values():
      more = self._line(lines, line, path, is_fused)
      found = found if more is NOTHING else found + more
    return found

  def _line(self, lines: Computation, line: Instruction, path, is_fused: bool) -> Counts:
    if line.op == "while":
      body = line.attribute(r"body=%?([\w.\-]+)")
      turns = self._turns(lines, line)
      inner = self.computation(body, (*path, line.name), is_fused)
      if turns is None:
        return inner._replace(unknown_loops=inner.unknown_loops | {line.op_name or line.name})
      return inner.times(turns)
    if line.op == "conditional":
      sides = [self.computation(name, (*path, name), is_fused) for name in line.called]
      return max(sides, key=lambda side: (side.cycles, side.total_flops), default=NOTHING)
    found = NOTHING
    if line.op in ("fusion", "call") or line.op.startswith("async") or line.op.endswith("-start"):
      is_inner_fused = is_fused or line.op != "call"
      for name in line.called:
        found = found + self.computation(name, path, is_inner_fused)
    own = self._own(lines, line, path, is_fused)
    return found if own is NOTHING else found + own

  def _own(self, lines: Computation, line: Instruction, path, is_fused: bool) -> Counts:
    """The work of the instruction itself."""
    cycles = 0.0 if is_fused else float(line.attribute(r'"estimated_cycles":"(\d+)"') or 0)
    cycles = cycles if cycles < _NO_ESTIMATE else 0.0
    found = NOTHING._replace(cycles=cycles) if cycles else NOTHING
    if line.op in ("dot", "convolution"):
      dtype, flops = _product(lines, line)
      return found._replace(flops={dtype: flops})
    if line.op == "custom-call":
      return found._replace(kernels=_kernel(lines, line))
    kind = line.op.removesuffix("-start")
    if kind not in _COLLECTIVES:
      return found
    channel = line.attribute(r"channel_id=(\d+)")
    if channel is not None:
      if (kind, channel, path) in self._seen:
        return found
      self._seen.add((kind, channel, path))
    devices = _group_size(line)
    return found._replace(collectives={
        (kind, devices): Collective(1.0, _collective_bytes(kind, line, devices))})

  def _turns(self, lines: Computation, line: Instruction) -> float | None:
    """How often a loop turns; None: unknown."""
    known = line.attribute(r'"known_trip_count":\{"n":"(\d+)"')
    if known is not None:
      return float(known)
    counted = _turns_of_counter(self._module, lines, line)
    scope = line.op_name.removesuffix("/while").rpartition("/")[2]
    return self._trips.get(scope) if counted is None else counted


def _turns_of_counter(
    module: Module, lines: Computation, line: Instruction) -> float | None:
  """Of a loop whose condition only compares a counter with a constant; else None."""
  condition = module.computations.get(line.attribute(r"condition=%?([\w.\-]+)"), {})
  inside = list(_everything(module, condition))
  compared = [other for other in inside if other.op == "compare"]
  ends = {int(value) for other in inside if other.op == "constant"
          and other.type.startswith(("s32[]", "u32[]"))
          and (value := other.attribute(r"^(-?\d+)\)")) is not None}
  plain = {"compare", "constant", "parameter", "get-tuple-element", "fusion", "bitcast", "copy"}
  if len(compared) != 1 or len(ends) != 1 or {other.op for other in inside} - plain or (
      "direction=LT" not in compared[0].rest):
    return None
  (end,) = ends
  start = _start_of_counter(lines, line, inside)
  # The loop over the parts of a windowed product is unrolled by two, and counts by two.
  return (end - start) // 2 if "wide.windowed" in line.rest else end - start


def _start_of_counter(lines: Computation, line: Instruction, condition: list[Instruction]) -> int:
  """The constant from which it counts; 0 where the program computes it."""
  index = next((other.attribute(r"index=(\d+)") for other in condition
                if other.op == "get-tuple-element"), None)
  state = lines.get((line.operands or [""])[0])
  if index is None or state is None or state.op != "tuple":
    return 0
  initial = lines.get(state.operands[int(index)])
  while initial is not None and initial.op in ("copy", "bitcast"):
    initial = lines.get(initial.operands[0])
  value = None if initial is None or initial.op != "constant" else (
      initial.attribute(r"^(-?\d+)\)"))
  return int(value or 0)


def _everything(module: Module, computation: Computation) -> Iterator[Instruction]:
  """The instructions of a computation, and of those that it calls."""
  for line in computation.values():
    yield line
    for name in line.called:
      yield from _everything(module, module.computations.get(name, {}))


def _product(lines: Computation, line: Instruction) -> tuple[str, float]:
  """The type of the operands of a product, and its FLOPs: 2 for each multiplication."""
  left, right = (lines[name].arrays[0] for name in line.operands[:2])
  result = math.prod(line.arrays[0].shape)
  if line.op == "dot":
    axes = line.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
    summed = math.prod(left.shape[int(axis)] for axis in axes.split(",") if axis)
    return left.dtype, 2.0 * result * summed
  labels = line.attribute(r"dim_labels=\w+_(\w+)->")
  summed = right.shape[labels.index("i")]
  sizes = line.attribute(r"window=\{[^}]*?size=([\dx]+)")
  pads = line.attribute(r"window=\{[^}]*?pad=([\d_x\-]+)")
  for number, size in enumerate(sizes.split("x") if sizes else ()):
    # A window that is padded is a batch axis in disguise: one position of it contributes.
    low = int(pads.split("x")[number].split("_")[0]) if pads else 0
    summed *= int(size) if not low else 1
  return left.dtype, 2.0 * result * summed


def _kernel(lines: Computation, line: Instruction) -> dict[str, tuple[float, float]]:
  """A kernel of Pallas and its FLOPs; other custom calls are the compiler's own.

  Those of attention ([.., heads, queries, h] and [.., keys, h]) are worked out from the shapes: 2
  products forward, 3 for the gradient of the queries, 4 for that of keys and values, each of half
  of the pairs of tokens, because attention is causal.
  """
  if line.attribute(r'custom_call_target="([^"]*)"') != "tpu_custom_call":
    return {}
  name = line.name.rstrip(".0123456789")
  given = line.attribute(r'"flops":"?(\d+)')
  if given is not None:
    return {name: (1.0, float(given))}
  shapes = [array.shape for operand in line.operands if operand in lines
            for array in lines[operand].arrays
            if len(array.shape) >= 3 and array.dtype in ("bf16", "f32", "f16")]
  if len(shapes) < 2 or "splash" not in name:
    return {name: (1.0, 0.0)}
  queries, keys = shapes[0], shapes[1]
  products = 4 if "dkv" in name else 3 if "dq" in name else 2
  return {name: (1.0, float(products * math.prod(queries) * keys[-2]))}


def _group_size(line: Instruction) -> int:
  """The number of devices that take part in a collective together; 0: not stated."""
  listed = line.attribute(r"replica_groups=\{\{([\d,]*)\}")
  if listed is not None:
    return listed.count(",") + 1
  shape = line.attribute(r"replica_groups=\[[\d,]*?(\d+)\]")
  if shape is not None:
    return int(shape)
  sizes = line.attribute(r"replica_groups=mesh\[([^\]]*)\]")
  if sizes is None:
    pairs = line.attribute(r"source_target_pairs=\{(.*?)\}\}")
    return 0 if pairs is None else pairs.count("{")
  of_axis = dict(re.findall(r"'(\w+)'=(\d+)", sizes))
  axes = line.attribute(r"replica_groups=mesh\[[^\]]*\] *\{([^}]*)\}")
  named = re.findall(r"'(\w+)'", axes) if axes else list(of_axis)
  return math.prod(int(of_axis[axis]) for axis in named if axis in of_axis)


def _collective_bytes(kind: str, line: Instruction, devices: int) -> float:
  sizes = [array.bytes for array in line.arrays]
  if line.op.endswith("-start") and kind != "all-reduce":  # (operand, result, and flags)
    return max(sizes, default=0.0)
  return sum(sizes) * (max(devices, 1) if kind == "reduce-scatter" else 1)
