"""Imports modules of a project without all of its requirements, and makes tensors for them.

The formulas need none of the engines that their packages import. Those imports get an empty module;
if a formula ever used one, the call would fail.
"""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import pathlib
import sys
import types

import numpy as np
import torch


class _Absent(types.ModuleType):
  """A module in which every name is a class that does nothing, or a decorator."""

  __path__ = []

  def __getattr__(self, name):
    if name.startswith("__"):
      raise AttributeError(name)
    pass_on = lambda self, *args, **options: args[0] if args else None
    return type(name, (), {"__init__": lambda self, *args, **options: None, "__call__": pass_on})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):

  def __init__(self, names):
    self._names = names

  def find_spec(self, fullname, path=None, target=None):
    if not any(f"{fullname}.".startswith(f"{name}.") for name in self._names):
      return None
    return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

  def create_module(self, spec):
    return _Absent(spec.name)

  def exec_module(self, module):
    pass


@contextlib.contextmanager
def without(absent, *, bare=()):
  """Imports within find `absent` modules empty and run no `__init__` of the `bare` packages."""
  finder = _Finder(set(absent))
  for name in bare:
    package = types.ModuleType(name)
    top = importlib.util.find_spec(name.split(".", maxsplit=1)[0])
    root = pathlib.Path(top.submodule_search_locations[0]).parent
    package.__path__ = [str(root.joinpath(*name.split(".")))]
    package.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    package.__spec__.submodule_search_locations = package.__path__
    sys.modules[name] = package
  sys.meta_path.insert(0, finder)
  try:
    yield
  finally:
    sys.meta_path.remove(finder)


def differentiate(loss, log_probs):
  """Calls `loss` with log-probs [B, T] that record gradients; returns value and gradient, flat."""
  log_probs = log_probs.clone().requires_grad_()
  value = loss(log_probs)
  value.backward()
  return flat(value, log_probs.grad)


def flat(*tensors):
  return np.concatenate([np.asarray(x.detach(), np.float64).reshape(-1) for x in tensors])


def pay_last(scores, mask):
  """f32[B, T]: the scores [B] on the last tokens."""
  last = (mask * torch.arange(1, mask.shape[1] + 1)).argmax(dim=1)
  return torch.zeros(mask.shape).scatter_(1, last[:, None], scores.reshape(-1, 1))
