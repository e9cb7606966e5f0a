"""Which steps are traced, and the times of programs in traces of a CPU, a GPU and a TPU."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from rlreason.training import profiling
from rlreason.training.profiling import Steps

RECIPE = SimpleNamespace(stages=(
    SimpleNamespace(name="sft", steps=20), SimpleNamespace(name="pick"),
    SimpleNamespace(name="rl", steps=10)))


@pytest.mark.parametrize("text, expected", [
    ("3", Steps(None, None, 3)), ("10:13", Steps(None, 10, 3)), ("30:31", Steps(None, 30, 1)),
    ("rl:2", Steps("rl", None, 2)), ("rl:10:99", Steps("rl", 10, 89)), ("1:2", Steps(None, 1, 1))])
def test_steps_are_read(text, expected):
  assert profiling.read_steps(text, RECIPE) == expected


@pytest.mark.parametrize("text, message", [
    ("", "allowed: a number of steps"), ("-3", "got '-3', allowed"), ("3.5", "allowed"),
    ("a:b", "allowed"), ("3:", "allowed"), ("rl", "allowed"), ("0", "one step or more of the 30"),
    ("13:10", "one step or more"), ("10:10", "one step or more"), ("31:32", "of the 30 there are"),
    ("0:3", "of the 30"), ("rl:11:12", "of the 10"), ("ppo:3", "got the stage 'ppo', allowed: sft"),
    ("pick:3", "allowed: sft, rl")])
def test_other_steps_are_refused(text, message):
  with pytest.raises(ValueError, match=f"--profile: .*{message}"):
    profiling.read_steps(text, RECIPE)


@pytest.mark.parametrize("steps, traced, ends", [
    (Steps(None, None, 2), [2, 3], 4),  # the first compiles
    (Steps(None, 3, 1), [3], 4), (Steps(None, 5, 9), [5], "a"),  # a stage ends it
    (Steps("b", None, 2), [7, 8], 9), (Steps("b", 1, 2), [6, 7], 8), (Steps("b", 4, 2), [9], "b"),
    (Steps(None, 8, 1), [8], 9), (None, [], None)])
def test_the_trace_is_of_the_steps_asked_for(tmp_path, monkeypatch, steps, traced, ends):
  """Of two stages: `a` with the steps 1 to 5 of the run, `b` with 6 to 9."""
  calls = []
  monkeypatch.setattr(profiling, "_start_trace", lambda folder: calls.append(folder))
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: None)
  monkeypatch.setattr(
      jax.profiler.ProfileData, "from_file", lambda file: SimpleNamespace(planes=()))
  file = tmp_path / profiling.FOLDER / "plugins" / "profile" / "now" / "vm.xplane.pb"
  file.parent.mkdir(parents=True)
  file.touch()
  profiler, under_way, ended = profiling.Profiler(steps, tmp_path), [], None
  for stage, numbers in (("a", range(1, 6)), ("b", range(6, 10))):
    for step, number in enumerate(numbers):
      if profiler.before_step(stage, step, number, ()):
        ended = number
      if len(calls) == 1 and ended is None:
        under_way.append(number)
    if profiler.end(()):
      ended = stage
  assert (under_way, ended) == (traced, ends)
  assert calls == [tmp_path / "profile"] * bool(traced)
  assert profiler.close() == []


def test_a_trace_that_never_began_or_never_ended(tmp_path, monkeypatch):
  unused = profiling.Profiler(Steps("rl", 3, 1), tmp_path)
  assert unused.before_step("rl", 0, 1, ()) == []
  assert unused.close() == ["profile: none of its steps was done here, and nothing traced"]
  stops = []
  monkeypatch.setattr(profiling, "_start_trace", lambda folder: None)
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: stops.append(1))
  broken_off = profiling.Profiler(Steps(None, 1, 5), tmp_path)
  broken_off.before_step("rl", 0, 1, ())
  broken_off.close()
  broken_off.close()
  assert stops == [1]


def test_a_real_trace_names_its_programs(tmp_path):
  @jax.jit
  def long_program(x):
    return jax.lax.fori_loop(0, 50, lambda i, x: jnp.tanh(x @ x), x)

  @jax.jit
  def short_program(x):
    return (2 * x).sum()

  x = jnp.ones((200, 200))
  profiler = profiling.Profiler(Steps(None, None, 3), tmp_path)
  out, lines = (), []
  for number in range(1, 6):
    lines += profiler.before_step("rl", number - 1, number, out)
    out = short_program(long_program(x))
  assert lines[0].startswith("profile: ") and str(tmp_path / "profile") in lines[0]
  assert "  long_program in 3 runs" in lines[1]
  assert not any("long_program" in line for line in lines[2:])
  assert profiler.end(out) == []  # it has ended, and there is one


def plane(name, lines):
  return SimpleNamespace(name=name, lines=[
      SimpleNamespace(name=line, events=[
          SimpleNamespace(name=event, start_ns=start, duration_ns=duration, stats=stats.items())
          for event, start, duration, stats in events]) for line, events in lines.items()])


def of(module, run=None, device=0):
  run = {} if run is None else {"run_id": run, "device_ordinal": device}
  return {"hlo_module": module, "hlo_op": "x", **run}


HOST = plane("/host:CPU", {"python": [("PjitFunction(f)", 0, 9e9, {})]})
CPU = plane("/host:CPU", {
    "a": [("while", 0, 2e9, of("jit_f", 1)), ("dot", 1e9, 1e9, of("jit_f", 1)),  # one in the other
          ("dot", 5e9, 1e9, of("jit_f", 2)), ("other", 0, 9e9, {}),
          ("dot", 0, 1e8, of("jit_f", 1, device=1))],
    "b": [("add", 1.5e9, 1e9, of("jit_f", 1)), ("add", 7e9, 5e8, of("jit_g", 3))]})
GPU = plane("/device:GPU:0", {"Stream #1": [
    ("gemm", 0, 1e9, of("jit_f")), ("gemm", 2e9, 1e9, of("jit_f")), ("add", 4e9, 5e8, of("jit_g")),
    ("MemcpyH2D", 5e9, 1e9, {})]})
TPU = [plane(f"/device:TPU:{i}", {
    "XLA Modules": [("jit_f(123)", 0, 1e9, {}), ("jit_f(123)", 2e9, 1e9, {}),
                    ("jit_g(4)", 4e9, (i + 1) * 1e9, {})],
    "XLA Ops": [("fusion", 0, 1e9, of("jit_f"))]}) for i in range(2)]


@pytest.mark.parametrize("planes, expected", [
    ([CPU], {"jit_f": (3.5, 2), "jit_g": (0.5, 1)}),
    ([HOST, GPU], {"jit_f": (2, 0), "jit_g": (0.5, 0)}),
    ([HOST, *TPU], {"jit_f": (2, 2), "jit_g": (2, 1)}), ([HOST], {}), ([], {}),
    ([plane("/device:CUSTOM", {}), CPU], {"jit_f": (3.5, 2), "jit_g": (0.5, 1)})])
def test_times_are_those_of_the_busiest_device(planes, expected):
  assert profiling.program_times(SimpleNamespace(planes=planes)) == expected


def test_the_table_leaves_out_what_takes_no_time():
  programs = {"jit_f": (6.0, 2), "jit_g": (2.0, 0), "jit_a": (0.01, 7), "jit_b": (0.02, 1)}
  assert profiling.table(programs, 10.0) == [
      "profile:    6.000 s   60%  f in 2 runs", "profile:    2.000 s   20%  g",
      "profile:    0.030 s    0%  2 other programs",
      "profile:    1.970 s   20%  no program: rewards, data, files, waiting"]
