"""Rows as a stage that samples writes them, with what a test does not say filled in."""


def completion(question, ids, is_right, **columns):
  """A completion of a question (its prompt is `q` and the question's number)."""
  return dict(
      prompt=f"q{question}", answer=str(question), prompt_ids=[100 + question],
      completion=" ".join(map(str, ids)), completion_ids=list(ids), is_right=is_right,
      reward=None if is_right is None else float(is_right), rewards={}, tokens=len(ids),
      truncated=False, stage="sample", step=0, policy="sft") | columns
