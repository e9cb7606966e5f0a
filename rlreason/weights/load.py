"""Loads and saves complete models: configuration, parameters and tokenizer."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from rlreason import files, hub, tracking
from rlreason.models import families, init_value_head
from rlreason.models.config import ModelConfig
from rlreason.models.fields import short, show
from rlreason.tokenizers.base import Tokenizer
from rlreason.tokenizers.gguf import open_gguf, read_metadata, tokenizer_from_gguf
from rlreason.tokenizers.hf import HFTokenizer, read_json
from rlreason.tokenizers.load import check_texts, load_tokenizer
from rlreason.types import Params
from rlreason.weights import gguf, names, safetensors, stream

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# As in models of transformers; for sequence classification they have no bias, and ignore ours.
_SCORE, _SCORE_BIAS = "score.weight", "score.bias"
STEP_LABELS = (1, 2, 3)  # that the head of a process reward model may have
_COMPUTED = ".rotary_emb.inv_freq"  # unneeded buffers of old checkpoints
MAX_SHARD_BYTES = 5_000_000_000
_MOST_NAMED = 5  # tensors in a warning


def load_model(
    path: str | os.PathLike, *, dtype: str | None = "float32", compute_dtype: str | None = None,
    sharding: Any = None, end_tokens: Iterable[str] = (), quantize: str | None = None,
) -> tuple[ModelConfig, Params, Tokenizer]:
  """Loads a Hugging Face folder (safetensors) or a `.gguf` file.

  Args:
    path: the folder or file.
    dtype: of the parameters, float32 or bfloat16. None: bfloat16 if the file has its embedding in
      bfloat16, else float32.
    compute_dtype: of the computation, float32 or bfloat16; None: as `dtype`.
    sharding: where the parameters go: a device, a sharding, a tree of shardings, or a function
      from the configuration to one of these; None: the default device. Tensors are transferred one
      by one, so that the host never holds more than one besides those that stay on it.
    end_tokens: further tokens that end a completion, put first (a base model whose chat template
      ends a turn with another token than its texts).
    quantize: int8 or nf4 to quantise the kernels of the layers (`models.quantize`); they are
      quantised piece by piece, so that no full float kernel exists.

  Returns:
    The configuration, the parameters (a plain nested dict of arrays), the tokenizer.

  Raises:
    FileNotFoundError: the path does not exist, or a file of the folder is missing.
    ValueError: a pickled checkpoint, a damaged file, missing or unknown tensors, wrong shapes, or a
      model that is not supported. Names the file and what is allowed.
  """
  with contextlib.ExitStack() as stack:
    opened = _open(path, dtype, stack, end_tokens=end_tokens)
    config, params = _load_params(
        opened, dtype or _stored_dtype(opened.source), compute_dtype, sharding, quantize)
  return config, params, opened.tokenizer


def load_scalar_model(
    path: str | os.PathLike, *, dtype: str = "float32", compute_dtype: str | None = None,
    sharding: Any = None, quantize: str | None = None, labels: Collection[int] = (1,),
) -> tuple[ModelConfig, Params, Tokenizer]:
  """Loads a backbone with a scalar head: a reward model, or the start of a critic.

  Args:
    path: a folder that transformers wrote for sequence classification with one label, which has the
      head; or a language model, as for `load_model`, which gets a head of zeros.
    dtype: of the backbone, float32 or bfloat16; the head is f32.
    compute_dtype: of the computation, float32 or bfloat16; None: as `dtype`.
    sharding: that of the backbone, as for `load_model`.
    quantize: int8 or nf4 for the kernels of the backbone's layers.
    labels: numbers of labels that the head may have. `STEP_LABELS` are those of process reward
      models, which transformers writes for token classification: the score is the log-odds of the
      second of two labels, and three (wrong, neutral, right) stay a head of three classes.

  Returns:
    The configuration of the backbone, {"trunk", "value_head"}, the tokenizer. The backbone has no
    output matrix.

  Raises:
    FileNotFoundError, ValueError: as `load_model`; or the head has several labels.
  """
  with contextlib.ExitStack() as stack:
    opened, head = _open_scalar(path, dtype, stack, labels)
    config, trunk = _load_params(opened, dtype, compute_dtype, sharding, quantize)
  return config, {"trunk": trunk, "value_head": head}, opened.tokenizer


def open_scalar_model(
    path: str | os.PathLike, labels: Collection[int] = (1,)) -> tuple[ModelConfig, Tokenizer]:
  """The configuration and tokenizer that `load_scalar_model` would load, checked likewise."""
  with contextlib.ExitStack() as stack:
    opened, _ = _open_scalar(path, None, stack, labels)
  return opened.config, opened.tokenizer


def is_process_model(path: str | os.PathLike) -> bool:
  """Whether a folder says that its model classifies tokens, and not whole texts."""
  file = pathlib.Path(path) / "config.json"
  names = (read_json(file).get("architectures") or ()) if file.is_file() else ()
  return any(name.endswith("ForTokenClassification") for name in names)


def open_model(path: str | os.PathLike) -> tuple[ModelConfig, Tokenizer]:
  """The configuration and tokenizer that `load_model` would load, checked likewise."""
  with contextlib.ExitStack() as stack:
    opened = _open(path, None, stack)
  return opened.config, opened.tokenizer


class _Opened(NamedTuple):
  """A model whose files are checked, before any parameter is made."""

  path: pathlib.Path
  config: ModelConfig
  entries: dict[str, names.Entry]
  read: Callable[[str, slice], np.ndarray]
  tokenizer: Tokenizer
  source: safetensors.Checkpoint | None  # None for a GGUF file


def _open(
    path: str | os.PathLike, dtype: str | None, stack: contextlib.ExitStack, *,
    end_tokens: Iterable[str] = (), labels: Collection[int] = (),
) -> _Opened:
  """Opens a folder or a GGUF file until `stack` closes."""
  path = pathlib.Path(path)
  if dtype not in ("float32", "bfloat16", None):
    raise ValueError(f"dtype: got {dtype!r}, allowed: float32, bfloat16, None")
  if path.suffix in _PICKLES:
    raise ValueError(_pickle_message(path))
  if path.suffix == ".gguf":
    return _Opened(path, *_open_gguf(path, end_tokens), None)
  config, entries, source, tokenizer = open_folder(
      path, end_tokens=end_tokens, labels=labels)
  return _Opened(path, config, entries, stack.enter_context(source).read, tokenizer, source)


def _open_scalar(
    path: str | os.PathLike, dtype: str | None, stack: contextlib.ExitStack,
    labels: Collection[int],
) -> tuple[_Opened, Params]:
  """A backbone without its output matrix, and its head: that of the folder, or zeros."""
  opened = _open(path, dtype, stack, labels=labels)
  head = init_value_head(opened.config.width)
  if opened.source is not None and _SCORE in opened.source.names:
    kernel = opened.read(_SCORE, slice(None)).astype(np.float32)
    bias = (opened.read(_SCORE_BIAS, slice(None)).astype(np.float32)
            if _SCORE_BIAS in opened.source.names else np.zeros(len(kernel), np.float32))
    if len(kernel) == 2:  # log-odds of the second label
      kernel, bias = kernel[1:] - kernel[:1], bias[1:] - bias[:1]
    head = {"kernel": jnp.asarray(kernel[0] if len(kernel) == 1 else kernel.T),
            "bias": jnp.asarray(bias[0] if len(bias) == 1 else bias)}
  entries = {name: entry for name, entry in opened.entries.items() if entry.path[0] != "lm_head"}
  config = dataclasses.replace(opened.config, tie_embeddings=True)
  return opened._replace(config=config, entries=entries), head


def _load_params(
    opened: _Opened, dtype: str, compute_dtype: str | None, sharding: Any, quantize: str | None
) -> tuple[ModelConfig, Params]:
  config = dataclasses.replace(opened.config, param_dtype=dtype, dtype=compute_dtype or dtype)
  shardings = sharding(config) if callable(sharding) else sharding
  broken = {}  # an ordered set: names of tensors
  size = jnp.dtype(dtype).itemsize
  total = size * sum(math.prod(entry.file_shape) for entry in opened.entries.values())

  with tracking.work(f"loading {opened.path.name}", total, "B") as done:

    def read(name, rows):
      array = opened.read(name, rows)
      if not safetensors.is_finite(array):
        broken[name] = None
      done(array.size * size)
      return array

    params = stream.load_params(
        config, opened.entries, read, jnp.dtype(dtype), shardings, quantize=quantize)
  if broken:
    logging.warning(
        "%s: NaN or infinite values in %d of %d tensors, so that what the model says means "
        "nothing: %s", opened.path, len(broken), len(opened.entries), show([*broken][:_MOST_NAMED]))
  return config, params


def save_model(
    folder: str | os.PathLike, config: ModelConfig, params: Params, tokenizer: Tokenizer, *,
    dtype: str | None = None, max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
  """Writes a complete Hugging Face folder, which transformers and `load_model` read.

  config.json is written last: a folder without it is incomplete. At most one tensor besides the
  parameters is on the host.

  Args:
    folder: made if missing; weights in it are replaced.
    config: the model.
    params: its parameters.
    tokenizer: its tokenizer.
    dtype: the stored type: float32, bfloat16 or float16; None: unchanged.
    max_shard_bytes: most bytes of tensors in one file.

  Raises:
    ValueError: `params` are not those of `config`: missing or unknown entries, wrong shapes; or a
      value does not fit float16.
  """
  fields = _model_fields(config, tokenizer)
  _write_folder(folder, params, names.hf_entries(config), tokenizer, fields, dtype, max_shard_bytes)


def save_scalar_model(
    folder: str | os.PathLike, config: ModelConfig, params: Params, tokenizer: Tokenizer, *,
    dtype: str | None = None, max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
  """Writes a reward model in transformers' format: sequence classification with one label.

  Such a model has no bias in its head, so that ours is a separate tensor, which `load_scalar_model`
  reads and transformers ignores: all rewards there are lower by the bias.

  Args:
    folder: as for `save_model`.
    config: of the backbone.
    params: {"trunk", "value_head"}; an output matrix of the backbone is not written.
    tokenizer, dtype, max_shard_bytes: as for `save_model`.

  Raises:
    ValueError: as `save_model`.
  """
  head = params["value_head"]
  score = {"kernel": head["kernel"][:, None], "bias": head["bias"][None]}
  fields = _model_fields(config, tokenizer) | _label_fields(("reward",))
  fields["architectures"] = _architectures(fields, "ForSequenceClassification")
  tree, entries = _with_score(config, params["trunk"], score)
  _write_folder(folder, tree, entries, tokenizer, fields, dtype, max_shard_bytes)


def save_process_model(
    folder: str | os.PathLike, config: ModelConfig, params: Params, tokenizer: Tokenizer, *,
    dtype: str | None = None, max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
  """Writes a process reward model in transformers' format: token classification.

  A scalar head becomes one of the labels wrong and right, whose softmax is the sigmoid of the
  score; one of three classes has the labels wrong, neutral and right. Arguments as for
  `save_scalar_model`, which has one label.

  Raises:
    ValueError: as `save_model`.
  """
  kernel, bias = params["value_head"]["kernel"], params["value_head"]["bias"]
  labels = ("wrong", "neutral", "right")
  if kernel.ndim == 1:
    labels = ("wrong", "right")
    kernel, bias = (jnp.stack([jnp.zeros_like(x), x], axis=-1) for x in (kernel, bias))
  fields = _model_fields(config, tokenizer) | _label_fields(labels)
  fields["architectures"] = _architectures(fields, "ForTokenClassification")
  tree, entries = _with_score(config, params["trunk"], {"kernel": kernel, "bias": bias})
  _write_folder(folder, tree, entries, tokenizer, fields, dtype, max_shard_bytes)


def _with_score(
    config: ModelConfig, trunk: Params, score: Params
) -> tuple[Params, dict[str, names.Entry]]:
  """A backbone with a head {"kernel" [D, L], "bias" [L]} in place of its output matrix."""
  count = score["bias"].shape[0]
  tree = {name: part for name, part in trunk.items() if name != "lm_head"} | {"score": score}
  entries = {name: entry for name, entry in names.hf_entries(config).items() if name != _HEAD}
  return tree, entries | {
      _SCORE: names.Entry(("score", "kernel"), (config.width, count), in_axes=1),
      _SCORE_BIAS: names.Entry(("score", "bias"), (count,))}


def _architectures(fields: dict[str, Any], task: str) -> list[str]:
  return [name.replace("ForCausalLM", task) for name in fields["architectures"]]


def _label_fields(labels: Sequence[str]) -> dict[str, Any]:
  return {"id2label": {str(i): label for i, label in enumerate(labels)},
          "label2id": {label: i for i, label in enumerate(labels)}}


def _model_fields(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
  """config.json of a model with this tokenizer."""
  return families.config_to_hf(
      config, eos_ids=tokenizer.eos_ids, bos_id=tokenizer.bos_id, pad_id=tokenizer.pad_id)


def _write_folder(
    folder: str | os.PathLike, params: Params, entries: dict[str, names.Entry],
    tokenizer: Tokenizer, fields: dict[str, Any], dtype: str | None, max_shard_bytes: int,
):
  """Writes a folder with the tensors of `entries`; arguments as for `save_model`."""
  folder = pathlib.Path(folder)
  check_stored_dtype(dtype)
  _check_tree(params, entries)
  kinds = {name: safetensors.KINDS[dtype or str(names.check_leaf(params, name, entry).dtype)]
           for name, entry in entries.items()}
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").unlink(missing_ok=True)
  tensors = {name: safetensors.Stored(kinds[name], entry.file_shape)
             for name, entry in entries.items()}
  with writing(folder, tensors) as counted:
    safetensors.write(
        folder, tensors,
        lambda name: counted(name, names.read_pieces(
            params, name, entries[name], max_elements=stream.PIECE_ELEMENTS)),
        max_shard_bytes=max_shard_bytes)
  save_tokenizer(folder, tokenizer)
  fields["torch_dtype"] = dtype or str(params["embed"]["embedding"].dtype)
  write_json(folder / "config.json", fields)


@contextlib.contextmanager
def writing(
    folder: pathlib.Path, tensors: Mapping[str, safetensors.Stored]
) -> Iterator[Callable[[str, Iterable[np.ndarray]], Iterator[np.ndarray]]]:
  """Reports the progress of writing tensors: yields a function that passes on the pieces of one."""
  sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
  with tracking.work(f"writing {folder.name}", sum(sizes.values()), "B") as done:

    def counted(name, pieces):
      yield from pieces
      done(sizes[name])

    yield counted


def save_tokenizer(folder: pathlib.Path, tokenizer: Tokenizer) -> None:
  """Writes the tokenizer, and generation_config.json with its special tokens."""
  tokenizer.save(folder)
  write_json(folder / "generation_config.json", {
      "eos_token_id": families.one_or_list(tokenizer.eos_ids), "bos_token_id": tokenizer.bos_id,
      "pad_token_id": tokenizer.pad_id})


def check_stored_dtype(dtype: str | None) -> None:
  """Raises ValueError unless a folder can hold weights of this type."""
  if dtype is not None and dtype not in safetensors.KINDS:
    raise ValueError(f"dtype: got {dtype!r}, allowed: {', '.join(safetensors.KINDS)}, None")


def _open_gguf(
    path: pathlib.Path, end_tokens: Iterable[str]
) -> tuple[ModelConfig, dict[str, names.Entry], gguf.Read, Tokenizer]:
  """Configuration, entries, tensors and tokenizer of a GGUF file, all checked."""
  reader = open_gguf(path)
  try:
    metadata = read_metadata(reader)
    tokenizer = tokenizer_from_gguf(metadata, end_tokens=end_tokens)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  config, entries, read = gguf.open_model(reader, metadata, path)
  return config, entries, read, _fitting(path, config, tokenizer)


def open_folder(
    folder: pathlib.Path, *, end_tokens: Iterable[str] = (), labels: Collection[int] = ()
) -> tuple[ModelConfig, dict[str, names.Entry], safetensors.Checkpoint, Tokenizer]:
  """Configuration, entries, tensors and tokenizer of a Hugging Face folder.

  Everything is checked before any parameter is made. It may have a head of one of these numbers of
  `labels`, if there are any, and then no output matrix.

  Raises:
    FileNotFoundError, ValueError: as `load_model`.
  """
  if not folder.is_dir():
    raise FileNotFoundError(
        f"no model at {folder}; expected a folder with config.json, model.safetensors and "
        f"tokenizer.json, or a .gguf file{hub.hint(folder)}")
  if not (folder / "config.json").is_file():
    raise FileNotFoundError(f"{folder / 'config.json'} not found; expected a Hugging Face folder")
  pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
  if pickles and not safetensors.has_checkpoint(folder):
    raise ValueError(_pickle_message(folder / pickles[0]))
  check_texts(folder)
  fields = read_json(folder / "config.json")
  with contextlib.ExitStack() as stack:
    checkpoint = stack.enter_context(safetensors.Checkpoint(folder))
    try:
      _check_counts(fields, len(checkpoint.names))
      config = families.config_from_hf(fields)
    except ValueError as error:
      raise ValueError(f"{folder}: {error}") from error
    tokenizer = _fitting(folder, config, load_tokenizer(folder, end_tokens=end_tokens))
    ignored = _check_score(checkpoint, config, labels) if labels else set()
    entries = {name: entry for name, entry in names.hf_entries(config).items()
               if name not in ignored}
    _check_tensors(checkpoint, config, entries, ignored)
    stack.pop_all()
  return config, entries, checkpoint, tokenizer


def _check_counts(fields: dict[str, Any], num_tensors: int) -> None:
  """Raises ValueError if config.json states more layers and experts than there are tensors.

  It is called before any work per layer or expert: a file can state a million.
  """
  layers = fields.get("num_hidden_layers")
  experts = [fields.get(name) for name in ("num_experts", "num_local_experts")]
  counts = [count for count in (layers, *experts) if isinstance(count, int) and count > 0]
  if math.prod(counts) > num_tensors:
    raise ValueError(f"config.json num_hidden_layers, num_experts: got {short(counts)}, allowed: "
                     f"a product of at most {num_tensors}, the tensors of the files")


def _fitting(path: pathlib.Path, config: ModelConfig, tokenizer: HFTokenizer) -> HFTokenizer:
  """The tokenizer; if it has more tokens than the model has embeddings, it refuses the others."""
  if tokenizer.vocab_size <= config.vocab_size:
    return tokenizer
  logging.warning(
      "%s: the tokenizer has %d tokens, the model %d embeddings: texts with the other tokens are "
      "refused", path, tokenizer.vocab_size, config.vocab_size)
  try:
    return tokenizer.with_rows(config.vocab_size)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _check_tensors(
    checkpoint: safetensors.Checkpoint, config: ModelConfig, entries: dict[str, names.Entry],
    ignored: Collection[str],
) -> None:
  """Raises ValueError unless a folder has the tensors of `entries`, and no other relevant ones."""
  folder = checkpoint.folder
  found = {name for name in checkpoint.names
           if not name.endswith(_COMPUTED) and name not in ignored}
  if config.tie_embeddings and _HEAD in found:
    _check_tied(checkpoint, folder)
    found.remove(_HEAD)
  names.check_names(found, entries, str(folder))
  for name, entry in entries.items():
    names.check_shape(checkpoint.shape(name), name, entry, str(folder))
    safetensors.check_kind(checkpoint.stored_type(name), name, str(folder))


def _check_score(
    checkpoint: safetensors.Checkpoint, config: ModelConfig, labels: Collection[int]
) -> set[str]:
  """Tensors that a folder may have or lack: a head and, with one, the output matrix."""
  if _SCORE not in checkpoint.names:
    return set()
  shape = checkpoint.shape(_SCORE)
  count = shape[0] if shape and shape[0] in labels else min(labels)
  for name, expected in ((_SCORE, (count, config.width)), (_SCORE_BIAS, (count,))):
    if name not in checkpoint.names:
      continue
    safetensors.check_kind(checkpoint.stored_type(name), name, str(checkpoint.folder))
    if checkpoint.shape(name) != expected:
      what = "one label" if tuple(labels) == (1,) else f"{', '.join(map(str, labels))} labels"
      raise ValueError(f"{checkpoint.folder}: {name}: got the shape {checkpoint.shape(name)}, "
                       f"allowed: {expected}, a head of {what}")
  return {_SCORE, _SCORE_BIAS, _HEAD}


def _stored_dtype(checkpoint: safetensors.Checkpoint | None) -> str:
  is_bf16 = checkpoint is not None and checkpoint.stored_type(_EMBEDDING) == "BF16"
  return "bfloat16" if is_bf16 else "float32"


def _check_tied(checkpoint: safetensors.Checkpoint, folder: pathlib.Path) -> None:
  """A tied checkpoint may store its output matrix as well, if it is the embedding."""
  if _EMBEDDING in checkpoint.names and not np.array_equal(
      checkpoint.read(_HEAD), checkpoint.read(_EMBEDDING)):
    raise ValueError(
        f"{folder}: config.json ties the embeddings, but {_HEAD} differs from {_EMBEDDING}; "
        "set tie_word_embeddings to false there if the matrix is meant to be used")


def _check_tree(params: Params, entries: dict[str, names.Entry]) -> None:
  """Raises ValueError for entries of `params` that would not be written."""
  known = {entry.path for entry in entries.values()}
  leaves = jax.tree_util.tree_leaves_with_path(params)
  found = {tuple(part.key for part in path) for path, _ in leaves}
  if found != known:
    show = lambda paths: sorted("/".join(path) for path in paths)
    raise ValueError(f"params: missing {show(known - found)}; unknown {show(found - known)}")


def _pickle_message(path: pathlib.Path) -> str:
  return (f"{path} is a pickled checkpoint, which can run code when it is read; convert it to "
          "safetensors where you trust it, and load the folder with model.safetensors")


def write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
  files.write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
