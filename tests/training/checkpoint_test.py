"""Tests of rlreason.training.checkpoint."""

import errno
import gc
import json
import os
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason.training import checkpoint as checkpoint_lib
from rlreason.training import optimizer as optimizer_lib
from rlreason.training.settings.recipe import from_config
from tests import waiting
from tests.files_test import file_limit
from tests.training import tiny_run

ROOT = pathlib.Path(__file__).parents[2]

# In a process for each folder: saves one checkpoint, then one of 80 MB, and is killed as soon as so
# many bytes of it are in files.
KILLED = """
import os, signal, sys
import numpy as np
from rlreason.training import checkpoint as checkpoint_lib

def kill(*unused):
  os.kill(os.getpid(), signal.SIGKILL)

create = checkpoint_lib._SealedPath.create

async def create_then_kill(self):
  await create(self)
  kill()

# When the folder of the save has just been made, and when all is written but not renamed.
for folder, (place, name, function) in zip(sys.argv[1:], (
    (checkpoint_lib._SealedPath, "create", create_then_kill), (checkpoint_lib, "_seal", kill))):
  child = os.fork()
  if not child:
    checkpointer = checkpoint_lib.Checkpointer(folder)
    big = np.random.default_rng(0).normal(size=(100_000,))
    checkpointer.save(1, {"w": big[:10], "step": np.asarray(1)}, {"step": 1})
    checkpointer.wait()
    setattr(place, name, function)
    checkpointer.save(2, {"w": big, "step": np.asarray(2)}, {"step": 2})
    checkpointer.wait()
    os._exit(3)
  assert os.waitpid(child, 0)[1] == signal.SIGKILL
print("done")
"""

# Saves on 4 devices and restores: on the same, with another sharding, and on one device.
SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rlreason.training import checkpoint as checkpoint_lib
assert jax.device_count() == 4
mesh = jax.make_mesh((4,), ("data",))
split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
w = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
state = {"w": jax.device_put(w, split), "b": jax.device_put(w[0], whole)}
abstract = jax.eval_shape(lambda: {"w": jnp.zeros((8, 3)), "b": jnp.zeros((3,))})
with checkpoint_lib.Checkpointer(sys.argv[1]) as checkpointer:
  checkpointer.save(3, state, {})
  checkpointer.wait()
  placed = lambda sharding: jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
  for target, expected in (
      (state, {"w": split, "b": whole}), (placed(whole), {"w": whole, "b": whole}),
      (abstract, None)):
    restored, host = checkpointer.restore(3, target)
    assert host == {}
    np.testing.assert_array_equal(restored["w"], w)
    np.testing.assert_array_equal(restored["b"], w[0])
    if expected:
      for name, sharding in expected.items():
        assert restored[name].sharding.is_equivalent_to(sharding, restored[name].ndim)
print("done")
"""


def _run(program, *arguments, **variables):
  environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT), **variables)
  ended = waiting.run(
      [sys.executable, "-c", program, *map(str, arguments)], env=environment)
  assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr


def _state(seed=0):
  keys = jax.random.split(jax.random.key(seed), 3)
  params = {
      "policy": {
          "kernel": jax.random.normal(keys[0], (5, 7)),
          "scale": jax.random.normal(keys[1], (7,)).astype(jnp.bfloat16),
      },
      "critic": {"kernel": jnp.asarray([[jnp.pi, -0.0], [1e-40, 3e38]])},
  }
  tx = optimizer_lib.make_optimizer(optimizer_lib.OptimizerConfig(learning_rate=0.1), 10)
  updates, opt_state = tx.update(params, tx.init(params), params)
  return {
      "params": optax.apply_updates(params, updates),
      "opt_state": opt_state,
      "step": jnp.asarray(seed, jnp.int32),
      "key": jax.random.key_data(keys[2]),
      "kl_coef": np.float32(0.1),
  }


def _bits(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_restores_to_the_bit(tmp_path):
  state = _state()
  host_state = {"cursor": {"metrics": 17}, "position": [1, 2], "kl_coef": 0.1 + 0.2, "none": None}
  with checkpoint_lib.Checkpointer(tmp_path) as checkpointer:
    assert checkpointer.latest_step() is None
    assert checkpointer.save(4, state, host_state)
  with checkpoint_lib.Checkpointer(tmp_path) as checkpointer:
    for target in (state, jax.eval_shape(_state)):
      assert checkpointer.latest_step() == 4
      restored, host = checkpointer.restore(4, target)
      assert host == host_state
      assert jax.tree.structure(restored) == jax.tree.structure(state)
      assert _bits(restored) == _bits(state)
      assert [x.dtype for x in jax.tree.leaves(restored)] == [
          x.dtype for x in jax.tree.leaves(state)
      ]


def test_typed_keys_are_restored(tmp_path):
  state = {"key": jax.random.key(7)}
  with checkpoint_lib.Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, state, {})
    checkpointer.wait()
    restored, _ = checkpointer.restore(1, jax.eval_shape(lambda: state))
  assert jax.random.key_data(restored["key"]).tolist() == [0, 7]


def test_numpy_trees_stay_on_the_host(tmp_path):
  state = {"a": np.arange(6.0).reshape(2, 3), "b": [np.asarray(3, np.int64)], "number": 2.5}
  with checkpoint_lib.Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, state, {})
    checkpointer.wait()
    restored, _ = checkpointer.restore(1, state)
  assert isinstance(restored["a"], np.ndarray)
  np.testing.assert_array_equal(restored["a"], state["a"])
  assert restored["a"].dtype == np.float64
  assert restored["b"][0] == 3
  assert float(restored["number"]) == 2.5


def test_what_is_saved_may_be_donated_and_changed_at_once(tmp_path):
  step = jax.jit(lambda w: w * -1.0, donate_argnums=0)
  numbers, host = np.ones(1_000_000), {"list": [1]}
  with checkpoint_lib.Checkpointer(tmp_path) as checkpointer:
    w = jnp.arange(2_000_000.0)
    checkpointer.save(1, {"w": w, "numbers": numbers}, host)
    for _ in range(5):
      w = step(w)
    numbers[:] = 7
    host["list"].append(2)
    checkpointer.wait()
    abstract = {"w": jax.ShapeDtypeStruct((2_000_000,), jnp.float32), "numbers": numbers}
    restored, restored_host = checkpointer.restore(1, abstract)
  np.testing.assert_array_equal(restored["w"], np.arange(2_000_000, dtype=np.float32))
  np.testing.assert_array_equal(restored["numbers"], np.ones(1_000_000))
  assert restored_host == {"list": [1]}


def test_keeps_the_latest(tmp_path):
  with checkpoint_lib.Checkpointer(tmp_path, max_to_keep=2) as checkpointer:
    for step in range(4):
      assert checkpointer.save(step, {"w": np.asarray(step)}, {})
    assert not checkpointer.save(3, {"w": np.asarray(9)}, {})  # there already
    checkpointer.wait()
    assert checkpointer.all_steps() == [2, 3]
    state, _ = checkpointer.restore(3, {"w": np.asarray(0)})
    assert state["w"] == 3
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 1 .* there are: \[2, 3"):
      checkpointer.restore(1, {"w": np.asarray(0)})


def test_another_layout_is_named(tmp_path):
  with checkpoint_lib.Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, {"a": {"w": np.zeros((2, 3), np.float32)}, "b": np.zeros(1)}, {})
    checkpointer.wait()
    with pytest.raises(ValueError) as error:
      checkpointer.restore(1, {"a": {"w": np.zeros((2, 4), np.float32)}, "c": np.zeros(1)})
  message = str(error.value)
  assert "another config" in message and str(tmp_path) in message and "\n" not in message
  assert "a/w: checkpoint float32[2, 3], this run float32[2, 4]" in message
  assert "b: checkpoint float64[1], this run nothing" in message
  assert "c: checkpoint nothing, this run float64[1]" in message


def test_errors(tmp_path):
  with pytest.raises(ValueError, match="max_to_keep: got 0, allowed: >= 1"):
    checkpoint_lib.Checkpointer(tmp_path, max_to_keep=0)
  with pytest.raises(FileNotFoundError, match="no checkpoints in"):
    checkpoint_lib.Checkpointer(tmp_path / "nowhere", read_only=True)
  with checkpoint_lib.Checkpointer(tmp_path) as checkpointer:
    with pytest.raises(ValueError, match="host_state: got what JSON cannot hold .*, allowed: JSON"):
      checkpointer.save(1, {"w": np.zeros(1)}, {"x": np.zeros(1)})
    with pytest.raises(ValueError, match="host_state"):
      checkpointer.save(1, {"w": np.zeros(1)}, {"x": float("nan")})
    assert checkpointer.all_steps() == []


def test_sigkill_while_saving_leaves_the_one_before(tmp_path):
  begun, written = tmp_path / "begun", tmp_path / "written"
  _run(KILLED, begun, written)
  for workdir in (begun, written):
    names = {file.name for file in (workdir / "checkpoints").iterdir()}
    assert "1" in names and "2" not in names, names
    assert any(name.startswith("2.") for name in names), names  # the save had begun
    target = {"w": np.zeros(10), "step": np.asarray(0)}
    with checkpoint_lib.Checkpointer(workdir, read_only=True) as reader:
      assert reader.latest_step() == 1  # and it left the other's files alone
      assert {file.name for file in (workdir / "checkpoints").iterdir()} == names
    with checkpoint_lib.Checkpointer(workdir) as checkpointer:
      state, host = checkpointer.restore(checkpointer.latest_step(), target)
      assert (int(state["step"]), host) == (1, {"step": 1})
      expected = np.random.default_rng(0).normal(size=(10,))
      np.testing.assert_array_equal(state["w"], expected)
      checkpointer.save(2, {"w": np.zeros(10), "step": np.asarray(2)}, {"step": 2})
      checkpointer.wait()
      assert checkpointer.all_steps() == [1, 2]
    names = {file.name for file in (workdir / "checkpoints").iterdir()}
    assert names == {"1", "2"}


def test_several_devices(tmp_path):
  _run(SHARDED, tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=4")


def test_check_config(tmp_path):
  config = {"seed": 0, "model": {"width": 8}, "stages": [{"steps": 1}], "betas": (0.9, 0.95)}
  checkpoint_lib.check_config(tmp_path / "run", config)
  assert json.loads((tmp_path / "run" / "config.json").read_text())["model"] == {"width": 8}
  checkpoint_lib.check_config(tmp_path / "run", config)
  changed = {**config, "model": {"width": 9}, "stages": [{"steps": 2}], "seed": 1}
  (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
  with pytest.raises(ValueError, match=r"another config \(config.seed: 0 -> 1; config.model.width"):
    checkpoint_lib.check_config(tmp_path / "run", changed)
  checkpoint_lib.check_config(
      tmp_path / "run", changed, free=("config.model", "config.seed", "config.stages")
  )


def older(record):
  """The record as runs wrote it that knew fewer fields, and no options but those given."""
  record["evaluation"] |= {"which_box": "last"}  # the default then
  del record["evaluation"]["verifier_options"], record["task"]["verifier"]
  del record["stages"][1]["algorithm"]["kl_clamp"], record["parallel"]["cpu_devices"]
  record["stages"][1]["algorithm"]["policy_loss"]["options"] = {}
  for reward in record["stages"][1]["rewards"]:
    reward["options"] = {
        name: value for name, value in reward["options"].items() if name in ("c", "unit")}
  return record


def test_a_config_is_recorded_with_what_is_left_at_its_default(tmp_path):
  """The clip range of a slot, options of rewards; each may be named later, or be missing."""
  config = tiny_run.make_config().to_dict()
  config["rl"]["rewards"]["verifier"] = dict(weight=1.0)
  file = tmp_path / "config.json"
  check = lambda config: checkpoint_lib.check_config(tmp_path, from_config(config))
  check(config)
  record = json.loads(file.read_text())
  rl = record["stages"][1]
  assert rl["algorithm"]["policy_loss"] == {
      "function": "rlreason.losses.policy:clipped_surrogate", "options": {
          "clip_low": 0.2, "clip_high": 0.2, "dual_clip": None, "max_log_ratio": 80.0}}
  options = {reward["name"]: reward["options"] for reward in rl["rewards"]}
  verifier = {"which_box": "last", "no_box_score": 0.0}
  assert options == {
      "verifier": verifier, "random": {"probability": 0.5, "seed": 0},
      "exploration": {"c": 1.0, "unit": "tokens", "min_length": 1}}
  assert record["evaluation"]["verifier_options"] == verifier
  assert record["evaluation"]["which_box"] == "last" and record["task"]["verifier"] == "countdown"

  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  config["rl"]["algorithm"]["policy_loss"] = dict(
      function="rlreason.losses:clipped_surrogate", options=dict(clip_high=0.2))
  config["rl"]["rewards"]["verifier"]["options"] = dict(which_box="last", no_box_score=0)
  config["rl"]["rewards"]["exploration"]["options"]["min_length"] = 1
  config["evaluation"] |= dict(which_box="last", verifier_options=dict(no_box_score=0.0))
  config["task"]["verifier"] = "countdown"
  check(config)
  file.write_text(json.dumps(older(record)))
  check(config)
  config["rl"]["algorithm"]["policy_loss"]["options"]["clip_high"] = 0.3
  with pytest.raises(ValueError, match=(
      r"\(config.stages\[1\].algorithm.policy_loss.options.clip_high: 0.2 -> 0.3\); resume")):
    check(config)


def test_options_of_functions_are_recorded(tmp_path):
  config = tiny_run.make_config().to_dict() | dict(stages=("sample",))
  config["sample"] = dict(
      kind="sample", steps=1, num_prompts=8, group_size=1, sampling=dict(max_new_tokens=4),
      rewards=dict(mine=dict(function=half_of)))
  checkpoint_lib.check_config(tmp_path, from_config(config))
  record = json.loads((tmp_path / "config.json").read_text())
  assert record["stages"][0]["rewards"][0]["options"] == {"share": 0.5, "column": None}


def half_of(prompts, completions, *, share=0.5, column=None, made=object(), **columns):
  """A reward function, one of whose defaults JSON does not hold."""
  del prompts, column, made, columns
  return [share for _ in completions]


def test_a_run_without_a_checkpoint_takes_a_corrected_config(tmp_path):
  checkpoint_lib.check_config(tmp_path, {"seed": 0})
  checkpoint_lib.check_config(tmp_path, {"seed": 1})
  assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}


# Damage.


def _checkpoints(folder, steps=(1, 2)):
  with checkpoint_lib.Checkpointer(folder, max_to_keep=5) as checkpointer:
    for step in steps:
      checkpointer.save(step, {"w": np.arange(300.0) + step, "n": [np.asarray(step)]},
                        {"step": step})
  return sorted(path for path in (folder / "checkpoints" / "2").rglob("*") if path.is_file())


def _restore(folder):
  """The step gone on from and what was damaged; checks that the state is that of the step."""
  with checkpoint_lib.Checkpointer(folder, max_to_keep=5) as checkpointer:
    step = checkpointer.latest_step()
    state, host = checkpointer.restore(step, {"w": np.zeros(300), "n": [np.asarray(0)]})
    np.testing.assert_array_equal(state["w"], np.arange(300.0) + step)
    assert state["n"][0] == step and host == {"step": step}
    return step, checkpointer.damaged


def _flip(file, seed):
  data = bytearray(file.read_bytes())
  place = np.random.default_rng(seed).integers(8 * len(data))
  data[place // 8] ^= 1 << (place % 8)
  file.write_bytes(data)


DAMAGES = {
    "flipped": lambda file: _flip(file, 0), "flipped elsewhere": lambda file: _flip(file, 1),
    "emptied": lambda file: file.write_bytes(b""), "gone": lambda file: file.unlink(),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "other JSON": lambda file: file.write_bytes(b"[1]")}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_any_file_is_found(tmp_path, damage):
  files = [file.relative_to(tmp_path / "a") for file in _checkpoints(tmp_path / "a")]
  assert len(files) > 10
  found = 0
  for number, name in enumerate(files):
    copy = tmp_path / str(number)
    shutil.copytree(tmp_path / "a", copy)
    DAMAGES[damage](copy / name)
    step, damaged = _restore(copy)
    if step == 1:
      found += 1
      ((of, reason),) = damaged
      assert of == 2 and reason and "\n" not in reason
      assert (copy / "checkpoints" / "2.damaged").is_dir()
      assert _restore(copy) == (1, [])  # and the next time nothing is said
    else:  # in what a resume does not read
      assert step == 2 and not damaged
      assert name.name in ("commit_success.txt", "_CHECKPOINT_METADATA")
  assert found >= len(files) - 6


def test_an_emptied_folder_is_no_checkpoint(tmp_path):
  _checkpoints(tmp_path)
  (tmp_path / "checkpoints" / "999").mkdir()
  assert _restore(tmp_path) == (2, [(999, "state, host, layout missing")])


def _unseal(folder):
  """Makes of a checkpoint one of an older version, without checksums."""
  (folder / "checksums.json").unlink()
  layout = folder / "layout" / "metadata"
  saved = json.loads(layout.read_bytes())
  assert saved.pop("checksums") == "sha256"
  layout.write_text(json.dumps(saved))


def test_a_checkpoint_of_an_older_version_is_taken_as_it_is(tmp_path):
  _checkpoints(tmp_path)
  _unseal(tmp_path / "checkpoints" / "2")
  assert _restore(tmp_path) == (2, [])


@pytest.mark.parametrize("text, reason", [
    (None, "checksums.json is missing"), ("{}", "checksums.json: of no file")])
def test_missing_checksums_are_damage(tmp_path, text, reason):
  _checkpoints(tmp_path)
  file = tmp_path / "checkpoints" / "2" / "checksums.json"
  file.unlink() if text is None else file.write_text(text)
  assert _restore(tmp_path) == (1, [(2, reason)])


def test_a_run_without_an_intact_checkpoint_is_refused(tmp_path):
  _checkpoints(tmp_path)
  for step in (1, 2):
    _flip(tmp_path / "checkpoints" / str(step) / "host" / "metadata", step)
  for _ in range(2):  # nothing was renamed
    with pytest.raises(ValueError, match=r"no checkpoint in .* is intact \(2: metadata is not what"
                                         r" was written; 1: metadata is not .*put one back"):
      checkpoint_lib.Checkpointer(tmp_path)
  with checkpoint_lib.Checkpointer(tmp_path, read_only=True) as reader:
    with pytest.raises(ValueError, match="the checkpoint of step 2 in .* is damaged .metadata is"):
      reader.restore_host(2)


def test_damage_without_checksums_is_one_line(tmp_path):
  _checkpoints(tmp_path)
  folder = tmp_path / "checkpoints" / "2"
  _unseal(folder)
  (folder / "host" / "metadata").write_text("{")
  (folder / "state" / "manifest.ocdbt").write_bytes(b"")
  with checkpoint_lib.Checkpointer(tmp_path, read_only=True) as reader:
    for read in (reader.restore_host, lambda step: reader.restore(
        step, {"w": np.zeros(300), "n": [np.asarray(0)]})):
      with pytest.raises(ValueError, match="the checkpoint of step 2 in .* is damaged") as error:
        read(2)
      assert "\n" not in str(error.value)


def test_a_damaged_config_is_named(tmp_path):
  (tmp_path / "checkpoints" / "1").mkdir(parents=True)
  for text in ("", "{", "[]", "\xff"):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json' is damaged"):
      checkpoint_lib.check_config(tmp_path, {"seed": 0})


def test_checkpoints_without_their_config_are_not_gone_on_with(tmp_path):
  (tmp_path / "checkpoints" / "100").mkdir(parents=True)  # of a run, or of another program
  with pytest.raises(ValueError, match="config.json' is missing.* put it back from a copy, or"):
    checkpoint_lib.check_config(tmp_path, {"seed": 0})
  assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_folders_whose_names_are_no_steps(tmp_path):
  for name in ("²", "١٢", "007", "1.damaged"):
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
  assert not checkpoint_lib.has_checkpoints(tmp_path)


# A full disk.


def test_a_save_on_a_full_disk_names_the_folder_and_leaves_the_one_before(tmp_path, capfd):
  with checkpoint_lib.Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, {"w": np.ones(10)}, {"step": 1})
    checkpointer.wait()
    noise = {f"w{i}": np.random.default_rng(i).normal(size=(40_000,)) for i in range(9)}
    with file_limit(100_000), pytest.raises(OSError) as error:
      checkpointer.save(2, noise, {"step": 2})
      checkpointer.wait()
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(tmp_path / "checkpoints")
  gc.collect()
  assert capfd.readouterr().err == ""  # one line, which is for whoever catches the error
  with checkpoint_lib.Checkpointer(tmp_path) as checkpointer:
    assert checkpointer.all_steps() == [1] and not checkpointer.damaged
    assert checkpointer.save(2, noise, {"step": 2})  # when there is space again
    checkpointer.wait()
    assert checkpointer.latest_step() == 2


def test_a_disk_without_room_for_a_checkpoint_is_found_before_it_is_begun(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)
  with checkpoint_lib.Checkpointer(tmp_path) as checkpointer:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    assert checkpointer.save(1, {"w": np.ones(10)}, {})
    with pytest.raises(OSError, match="No space left on device: .*checkpoints'"):
      checkpointer.save(2, {"w": np.ones(100_000)}, {})
    checkpointer.wait()
    assert sorted(path.name for path in checkpointer.folder.iterdir()) == ["1"]


def test_files_are_synced_before_a_checkpoint_has_its_name(tmp_path, monkeypatch):
  synced, sync = [], checkpoint_lib.files.sync
  monkeypatch.setattr(checkpoint_lib.files, "sync", lambda path: synced.append(path) or sync(path))
  names = {path.name for path in _checkpoints(tmp_path, steps=(2,))}
  assert {path.name for path in synced} >= names - {
      "commit_success.txt", "_CHECKPOINT_METADATA", "checksums.json"}
  # The folder of checkpoints last: with the new name in it.
  assert synced[-1] == tmp_path / "checkpoints"
  assert all(".orbax-checkpoint-tmp" in str(path) for path in synced[:-1])
