"""Tests of rlreason.config."""

from collections.abc import Callable
import dataclasses
import json
import math
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st
from absl import logging
import ml_collections
import pytest

from rlreason import config as config_lib, config_files, records
from rlreason.algorithms import presets


@dataclasses.dataclass(frozen=True)
class Optimizer:
  learning_rate: float
  warmup_steps: int = 0
  schedule: Literal["constant", "cosine"] = "constant"

  def __post_init__(self):
    if self.learning_rate <= 0:
      raise ValueError(f"learning_rate: got {self.learning_rate}, allowed: above 0")


@dataclasses.dataclass(frozen=True)
class SFTStage:
  kind: Literal["sft"]
  steps: int


@dataclasses.dataclass(frozen=True)
class RLStage:
  kind: Literal["ppo", "grpo"]
  steps: int
  optimizer: Optimizer


@dataclasses.dataclass(frozen=True)
class Config:
  optimizer: Optimizer
  name: str = "run"
  path: str | None = None
  use_critic: bool = False
  sizes: tuple[int, ...] = ()
  betas: tuple[float, float] = (0.9, 0.95)
  stages: tuple[SFTStage | RLStage, ...] = ()
  extra: dict[str, float] = dataclasses.field(default_factory=dict)
  limit: int | float = 1
  reward: Callable[..., Any] | None = None
  anything: Any = None


def _mapping(**fields):
  return ml_collections.ConfigDict({"optimizer": {"learning_rate": 1e-3}, **fields})


def test_builds_nested_dataclasses():
  config = config_lib.build(
      Config,
      _mapping(
          sizes=[1, 2],
          betas=[0, 1],
          path="model",
          extra={"a": 1},
          reward=len,
          anything=[3],
          stages=[
              {"kind": "sft", "steps": 3},
              {"kind": "grpo", "steps": 4, "optimizer": {"learning_rate": 1}},
          ],
      ),
  )
  assert config == Config(
      optimizer=Optimizer(learning_rate=1e-3),
      path="model",
      sizes=(1, 2),
      betas=(0.0, 1.0),
      stages=(SFTStage(kind="sft", steps=3), RLStage("grpo", 4, Optimizer(learning_rate=1.0))),
      extra={"a": 1.0},
      reward=len,
      anything=[3],
  )
  assert isinstance(config.betas[0], float) and isinstance(config.optimizer.learning_rate, float)


def test_an_instance_is_kept():
  optimizer = Optimizer(learning_rate=1.0)
  assert config_lib.build(Config, {"optimizer": optimizer}).optimizer is optimizer


def test_a_union_of_numbers_keeps_the_type_given():
  assert isinstance(config_lib.build(Config, _mapping(limit=2)).limit, int)
  assert isinstance(config_lib.build(Config, _mapping(limit=2.0)).limit, float)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"optimiser": 1}, ["config.optimiser", "did you mean 'optimizer'?", "use_critic"]),
        ({"optimizer": {}}, ["config.optimizer.learning_rate: missing", "float"]),
        (
            {"optimizer": {"learning_rate": "1e-3"}},
            ["config.optimizer.learning_rate", "'1e-3'", "float"],
        ),
        ({"optimizer": {"learning_rate": True}}, ["True", "float"]),
        ({"optimizer": {"learning_rate": -1}},
         ["config.optimizer.learning_rate: got -1.0, allowed: above 0"]),
        ({"optimizer": 3}, ["config.optimizer", "3 (int)", "Optimizer"]),
        (
            {"optimizer": {"learning_rate": 1, "schedule": "cosin"}},
            [
                "config.optimizer.schedule",
                "'cosin'",
                "'constant', 'cosine'",
                "did you mean 'cosine'?",
            ],
        ),
        ({"optimizer": {"learning_rate": 1, "warmup_steps": 1.0}}, ["warmup_steps", "1.0", "int"]),
        ({"use_critic": 1}, ["config.use_critic", "1 (int)", "bool"]),
        ({"name": None}, ["config.name", "None", "str"]),
        ({"path": 1}, ["config.path", "1 (int)", "str or None"]),
        ({"sizes": [1, "2"]}, ["config.sizes[1]", "'2'", "int"]),
        ({"sizes": 3}, ["config.sizes", "3 (int)", "tuple[int, ...]"]),
        ({"betas": [0.9]}, ["config.betas", "2 values"]),
        ({"extra": {"a": "b"}}, ["config.extra.a", "'b'", "float"]),
        ({"extra": 1}, ["config.extra", "1 (int)"]),
        ({"limit": "1"}, ["config.limit", "'1'", "int or float"]),
        ({"stages": [{"kind": "sft", "steps": "3"}]}, ["config.stages[0].steps", "'3'", "int"]),
        ({"stages": [{"kind": "pppo"}]}, ["config.stages[0]", "'pppo'", "did you mean 'ppo'?"]),
        ({"stages": [{"steps": 1}]}, ["config.stages[0]", "SFTStage, RLStage", "'grpo'"]),
        ({"stages": [3]}, ["config.stages[0]", "3 (int)"]),
    ],
)
def test_errors_name_field_got_and_allowed(fields, parts):
  with pytest.raises(ValueError) as error:
    config_lib.build(Config, {"optimizer": {"learning_rate": 1e-3}, **fields})
  message = str(error.value)
  assert "\n" not in message
  for part in parts:
    assert part in message


@dataclasses.dataclass(frozen=True)
class Renamed:
  max_resample_rounds: int = 1
  min_reasoning: int = 1  # another class, in which the old name is the name


def test_an_old_name_is_taken_with_a_warning(caplog):
  logging.use_absl_handler()
  fields = ml_collections.ConfigDict(dict(max_rounds=3, min_reasoning=2))
  for _ in range(2):
    assert config_lib.build(Renamed, fields, "config.x") == Renamed(3, 2)
  (line,) = [record.getMessage() for record in caplog.records]
  assert line.startswith("config.x.max_rounds is now max_resample_rounds;")
  record = {"max_rounds": 3, "min_reasoning": 2}
  assert records.with_defaults(record, Renamed()) == dataclasses.asdict(Renamed(3, 2))
  with pytest.raises(ValueError, match=r"config.max_rounds: got 3 \(int\) beside max_resample_ro"):
    config_lib.build(Renamed, dict(max_rounds=3, max_resample_rounds=4))


def test_a_mapping_holds_a_field_by_either_name():
  assert config_lib.held_name({"max_rounds": 1}, "max_resample_rounds") == "max_rounds"
  assert config_lib.held_name({"max_resample_rounds": 1}, "max_rounds") == "max_resample_rounds"
  assert config_lib.held_name({}, "max_rounds") == "max_rounds"


def test_a_preset_takes_old_names():
  assert presets.dash(drop_threshold=0.3).advantage_threshold == 0.3


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
)
def test_any_value_is_built_or_refused_with_a_path(value):
  try:
    config = config_lib.build(Config, {"optimizer": {"learning_rate": 1.0}, "sizes": value})
  except ValueError as error:
    assert str(error).startswith("config.sizes")
  else:
    assert config.sizes == tuple(value)


def test_to_dict_of_dataclass_and_mapping_agree():
  mapping = _mapping(sizes=(1, 2), reward=math.gcd)
  built = config_lib.to_dict(config_lib.build(Config, mapping))
  plain = config_lib.to_dict(mapping)
  assert plain == {
      "optimizer": {"learning_rate": 1e-3},
      "sizes": [1, 2],
      "reward": "math:gcd",
  }
  assert built["sizes"] == [1, 2]
  assert built["optimizer"] == {"learning_rate": 1e-3, "warmup_steps": 0, "schedule": "constant"}
  assert json.loads(json.dumps(built)) == built
  with pytest.raises(ValueError, match="plain values"):
    config_lib.to_dict({"a": object()})


def test_a_written_config_builds_the_same_again():
  config = config_lib.build(Config, _mapping(stages=[{"kind": "sft", "steps": 3}], sizes=[4]))
  assert config_lib.build(Config, json.loads(json.dumps(config_lib.to_dict(config)))) == config


def test_differences_name_the_fields():
  old = {"a": {"b": 1, "c": 2}, "d": [1, {"e": 0}], "same": 0}
  new = {"a": {"b": 3, "c": 2}, "d": [1, {"e": 5}], "same": 0, "f": None}
  assert records.differences(old, new) == [
      "config.a.b: 1 -> 3",
      "config.d[1].e: 0 -> 5",
      "config.f: (absent) -> None",
  ]
  assert records.differences(old, old) == []
  assert records.differences([1], [1, 2], "x") == ["x: [1] -> [1, 2]"]


def test_load_config_file(tmp_path):
  file = tmp_path / "experiment.py"
  file.write_text(
      "import ml_collections\n"
      "def get_config(size='small'):\n"
      "  return ml_collections.ConfigDict({'size': size})\n"
  )
  assert config_files.load_config_file(str(file)).size == "small"
  assert config_files.load_config_file(f"{file}:large").size == "large"


def test_load_config_file_errors(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"missing.py' not found.*get_config"):
    config_files.load_config_file(str(tmp_path / "missing.py"))
  file = tmp_path / "experiment.py"
  file.write_text("x = 1\n")
  with pytest.raises(ValueError, match="has no function get_config"):
    config_files.load_config_file(str(file))
  file.write_text("def get_config():\n  return 3\n")
  with pytest.raises(ValueError, match="got 3 .int., allowed: a ConfigDict"):
    config_files.load_config_file(str(file))
  with pytest.raises(ValueError, match="config: got 'large' after the colon of .*, allowed: no"):
    config_files.load_config_file(f"{file}:large")
  text = tmp_path / "config.yaml"
  text.write_text("a: 1\n")
  with pytest.raises(ValueError, match="config: got .*, allowed: a Python file"):
    config_files.load_config_file(str(text))


def test_an_error_of_a_class_of_the_users_has_the_path_of_its_field():
  at = lambda message: config_lib.at("config.task", ValueError(message), ["size"])
  assert at("size must be positive") == "config.task.size must be positive"
  assert at("size: got 0, allowed: above 0") == "config.task.size: got 0, allowed: above 0"
  assert at("nothing works") == "config.task: nothing works"


def test_fields_in_the_place_of_a_number_are_refused():
  @dataclasses.dataclass(frozen=True)
  class Numbers:
    count: int = 1
    share: float = 0.5
    text: str = ""

  for name in ("count", "share", "text"):
    for value in ({}, {"a": 1}):
      with pytest.raises(ValueError, match=rf"config\.{name}: got {{.*, allowed: "):
        config_lib.build(Numbers, {name: value})
