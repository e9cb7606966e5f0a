r"""Steps and their labels, from the forms in which they are published.

- PRM800K (https://github.com/openai/prm800k): `question.problem`, and `label.steps`, each with
  rated alternatives; the steps are those that were chosen, up to the first that was not.
- Math-Shepherd: `input`, the question and steps that begin with "Step 1:" and end with a tag, and
  `label`, the same text with + or - for each tag.
- {prompt, steps, labels}; `completions` is another name of `steps` (TRL).

A label is true or false, a share from 0 to 1 of completions that succeed, a rating -1, 0 or 1
(wrong, neutral, right), or null: the step has none. In ratings 0 is neutral, in shares it is wrong:
all rows of a source have one kind. Not here: where a step ends (`steps.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlreason.data import messages
from rlreason.data.tasks.base import RowSource

Kind = Literal["ratings", "shares"]
Label = float | None

_TAG = "ки"  # ends a step of Math-Shepherd
_FIRST = "Step 1:"  # begins the first one
_SIGNS = {"+": 1.0, "-": 0.0}


def with_steps(raw: Any) -> Any:
  """A raw row of any of the forms as one of {prompt, steps, labels}; others as they are.

  Raises:
    ValueError: it is damaged.
  """
  if not isinstance(raw, Mapping) or "steps" in raw:
    return raw
  label = raw.get("label")
  if isinstance(label, str) and label.lstrip().startswith("{"):
    label = messages.parse(label)
  if isinstance(label, Mapping) and isinstance(raw.get("question"), Mapping):
    return _of_prm800k(raw["question"], label)
  if isinstance(label, str) and isinstance(raw.get("input"), str):
    return _of_math_shepherd(raw["input"], label)
  if "completions" in raw and "labels" in raw:
    return {("steps" if name == "completions" else name): value for name, value in raw.items()}
  return raw


def check_steps(steps: Any, labels: Any) -> tuple[list[str], list[Label]]:
  """The steps, and their labels as numbers, of a row.

  Raises:
    ValueError: they are not as many texts as labels, or a label is of no kind, or the labels are of
      several kinds.
  """
  if not isinstance(steps, list) or not steps or not all(
      isinstance(step, str) and step.strip() for step in steps):
    raise ValueError("steps: got none or one that is no text, allowed: a list of texts")
  if not isinstance(labels, list) or len(labels) != len(steps):
    count = len(labels) if isinstance(labels, list) else type(labels).__name__
    raise ValueError(f"labels: got {count}, allowed: a list of {len(steps)}, one for each step")
  for label in labels:
    if label is not None and not (
        isinstance(label, (bool, int, float)) and (0 <= label <= 1 or label == -1)):
      raise ValueError(f"labels: got {label!r}, allowed: true, false, 0 to 1, -1 or null")
  if all(label is None for label in labels):
    raise ValueError("labels: got none but null, allowed: one or more of another kind")
  labels = [None if label is None else float(label) for label in labels]
  kind_of_labels(labels)
  return steps, labels


def kind_of_labels(labels: Sequence[Label]) -> Kind | None:
  """The kind of the labels of a row; None for 0 and 1 alone, which may be of either.

  Raises:
    ValueError: -1 is beside a share.
  """
  shares = [label for label in labels if label is not None and label not in (-1, 0, 1)]
  if -1 in labels and shares:
    raise ValueError(f"labels: got -1 beside {shares[0]}, allowed: ratings -1, 0 and 1, or shares "
                     "from 0 to 1")
  return "ratings" if -1 in labels else "shares" if shares else None


def kind_of_rows(rows: RowSource) -> Kind:
  """The kind of the labels of all rows; shares where all are 0 or 1.

  Raises:
    ValueError: rows are of both kinds; names the first of each.
  """
  first = {}
  for i in range(len(rows)):
    kind = kind_of_labels(rows[i]["labels"])
    if kind is not None:
      first.setdefault(kind, i)
  if len(first) > 1:
    told = " and ".join(f"{kind} in {_origin(rows, i)}" for kind, i in first.items())
    raise ValueError(f"labels: got {told}, allowed: one kind in all rows")
  return next(iter(first), "shares")


def as_shares(
    labels: Sequence[Label], kind: Kind, neutral: Literal["right", "wrong", "none"]
) -> list[Label]:
  """Labels from 0 to 1; `neutral` says what the rating 0 becomes: 1, 0, or no label."""
  if kind == "shares":
    return list(labels)
  as_share = {-1: 0.0, 0: {"right": 1.0, "wrong": 0.0, "none": None}[neutral], 1: 1.0, None: None}
  return [as_share[label] for label in labels]


def as_ratings(labels: Sequence[Label], kind: Kind) -> list[Label]:
  """Labels -1, 0 or 1; the shares 0 and 1 become -1 and 1.

  Raises:
    ValueError: there is another share.
  """
  if kind == "ratings":
    return list(labels)
  between = [label for label in labels if label not in (0, 1, None)]
  if between:
    raise ValueError(f"labels: got the share {between[0]}, allowed: ratings -1, 0 and 1, for a "
                     "loss of ratings")
  return [None if label is None else 2 * label - 1 for label in labels]


def _of_prm800k(question: Mapping[str, Any], label: Mapping[str, Any]) -> dict[str, Any]:
  """The path that a labeller chose; of a last step without a choice the first alternative."""
  if not isinstance(label.get("steps"), list) or "problem" not in question:
    raise ValueError("label.steps, question.problem: got none, allowed: those of PRM800K")
  steps, labels = [], []
  for step in label["steps"]:
    alternatives, chosen = step.get("completions") or [], step.get("chosen_completion")
    if step.get("human_completion"):
      taken = step["human_completion"]
    elif chosen is not None and not 0 <= chosen < len(alternatives):
      raise ValueError(f"label.steps: chosen_completion: got {chosen}, allowed: 0 to "
                       f"{len(alternatives) - 1}")
    elif alternatives:
      taken = alternatives[chosen or 0]
    else:
      break
    steps.append(taken.get("text"))
    labels.append(taken.get("rating"))
    if chosen is None and not step.get("human_completion"):
      break
  return {"prompt": question["problem"], "steps": steps, "labels": labels,
          "answer": question.get("ground_truth_answer")}


def _of_math_shepherd(text: str, label: str) -> dict[str, Any]:
  pieces, position, labels = text.split(_TAG), 0, []
  for piece in pieces[:-1]:
    sign = label[position + len(piece):][:1]
    if label[position:position + len(piece)] != piece or sign not in _SIGNS:
      raise ValueError(f"label: got {label[position:][:40]!r}, allowed: the text of input, with + "
                       f"or - for each {_TAG!r}")
    labels.append(_SIGNS[sign])
    position += len(piece) + 1
  begin = pieces[0].find(_FIRST)
  if begin < 0 or not labels:
    raise ValueError(f"input: got {text[:40]!r}, allowed: a question and steps, from {_FIRST!r} "
                     f"on, which end with {_TAG!r}")
  steps = [pieces[0][begin:], *pieces[1:-1]]
  return {"prompt": pieces[0][:begin].strip(), "steps": [step.strip() for step in steps],
          "labels": labels}


def _origin(rows: RowSource, index: int) -> int | str:
  return rows.origin(index) if hasattr(rows, "origin") else index
