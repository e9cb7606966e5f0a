"""Compares our formulas with the released functions of other projects, on the same inputs.

Prints a Markdown table and exits with 1 if a line is unexpected. A line that should differ is next
to one in which our options reproduce the peer's numbers, if there are such options.

  bash benchmarks/formula_peers.sh                           # once
  JAX_PLATFORMS=cpu .venv/bin/python benchmarks/formulas.py
"""

import argparse
import sys

import formula_drift_rows
import formula_inputs
import formula_loss_rows
import formula_rows
import side_by_side

# Of `formula_inputs.difference`. f32 has 6e-8, but small gradients are differences of large terms.
TOLERANCE = 3e-5
CLEAR = 1e-4  # intended differences are larger

SECTIONS = {
    "Advantages of groups": formula_rows.advantage_rows,
    "Returns, whitening, rewards": formula_rows.return_rows,
    "KL estimates and controllers": formula_rows.kl_rows,
    "Policy losses, with gradients": formula_loss_rows.policy_rows,
    "Corrections for the sampler": formula_loss_rows.correction_rows,
    "Methods of 2025 and 2026": formula_drift_rows.rows,
    "Aggregation": formula_loss_rows.aggregation_rows,
    "Value losses, with gradients": formula_loss_rows.value_rows,
    "Preferences, with gradients": formula_loss_rows.preference_rows,
    "Reward models, with gradients": formula_loss_rows.reward_model_rows,
    "Distillation, with gradients": formula_loss_rows.distillation_rows,
}


def judge(row, difference):
  """(verdict, whether it is as expected)."""
  if difference <= TOLERANCE:
    return "same", row.is_same
  if difference >= CLEAR:
    return "differs", not row.is_same
  return "neither", False


def render(title, judged):
  """Markdown of [(row, difference)]."""
  lines = [f"## {title}", "", "| peer | its function | ours | inputs | difference | |",
           "| --- | --- | --- | --- | --- | --- |"]
  for row, difference in judged:
    verdict, is_right = judge(row, difference)
    mark = verdict if is_right else f"**{verdict}, WRONG**"
    lines.append(
        f"| {row.peer} | {row.theirs} | {row.ours} | {row.inputs} | {difference:.0e} | {mark} |")
  return "\n".join(lines) + "\n"


def ask(worker, row):
  function, options = row.call
  inputs = formula_inputs.make_inputs(row.inputs)
  theirs = worker.ask(
      function=function, options=options,
      arrays={name: value.tolist() for name, value in inputs.items()})["result"]
  return formula_inputs.difference(row.run(inputs), theirs)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.parse_args()
  worker = side_by_side.start_peer(
      "formulas", "formulas_worker.py", "0", log="formulas", made_by="formula_peers.sh")
  print(", ".join(f"{name} {version}" for name, version in worker.hello["versions"].items()))
  print()
  wrong, same, different = 0, 0, 0
  for title, make_rows in SECTIONS.items():
    judged = [(row, ask(worker, row)) for row in make_rows()]
    print(render(title, judged), flush=True)
    verdicts = [judge(*pair) for pair in judged]
    same += sum(verdict == "same" for verdict, _ in verdicts)
    different += sum(verdict == "differs" for verdict, _ in verdicts)
    wrong += sum(not is_right for _, is_right in verdicts)
  worker.close()
  print(f"{same} same, {different} different, {wrong} unexpected")
  sys.exit(1 if wrong else 0)


if __name__ == "__main__":
  main()
