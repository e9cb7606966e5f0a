"""Tests of rlreason.training.report."""

import html.parser
import json
import re

from matplotlib import image
import numpy as np
import pytest

from rlreason.training import metrics as metrics_lib
from rlreason.training import report as report_lib

SUMMARY = {
    "stages": [
        {
            "name": "start", "steps": 0, "seconds": 0.0, "tokens": 0,
            "evaluation": {
                "countdown": {"greedy": {"value": 0.02, "low": 0.01, "high": 0.036, "n": 500}}
            },
        },
        {
            "name": "rl", "steps": 100, "seconds": 125.4, "tokens": 1234567,
            "evaluation": {
                "countdown": {
                    "greedy": {"value": 0.42, "low": 0.3772, "high": 0.4637, "n": 500},
                    "backtracks": {"value": 1.9, "low": 1.75, "high": 2.05, "n": 500},
                    "length_right": {"value": None, "low": None, "high": None, "n": 0},
                },
            },
        },
    ]
}  # fmt: skip
ATTACK = "</pre><script>alert(1)</script>"


class _Page(html.parser.HTMLParser):
  """Collects tags, images and text, and checks that what opens is closed."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.images, self.text, self.open = [], [], "", []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    if tag == "img":
      self.images.append(dict(attrs))
    elif tag != "meta":
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


def _write_run(workdir, rl_steps=30):
  metrics, samples = metrics_lib.MetricsWriter(workdir), metrics_lib.SamplesWriter(workdir)
  for step in range(1, 4):
    metrics.write(step, "sft", {"loss/sft": 1.0 / step, "optim/grad_norm": np.nan})
  for step in range(4, 4 + rl_steps):
    values = {
        "reward/total/mean": step / 10, "reward/verifier/mean": step / 20, "policy/kl": 0.01,
        "policy/entropy": 1.0, "rollout/length_right/mean": 40.0, "new/thing": 2.0,
        "policy/clip_fraction_low": 0.1, "policy/clip_fraction_high": 0.2, "time/step": 0.5,
    }  # fmt: skip
    if step == 5:
      del values["rollout/length_right/mean"]
    metrics.write(step, "rl", values)
    rows = [
        {
            "prompt": f"{ATTACK} problem {i}", "completion": f"{ATTACK} try {i} of step {step}",
            "answer": str(i), "rewards": {"total": i / 2, "judge": None},
        }
        for i in range(6)
    ]  # fmt: skip
    samples.write(step, "rl", rows)
  metrics.close()
  samples.close()


def test_report_of_a_whole_run(tmp_path):
  _write_run(tmp_path)
  (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
  (tmp_path / "config.json").write_text(json.dumps({"name": "<b>bold</b>", "seed": 3}))
  path = report_lib.make_report(tmp_path)
  assert path == tmp_path / "report.html"
  text = path.read_text()
  page = _Page(text)
  # It is self-contained and shows text of the model as text.
  assert "script" not in page.tags and "b" not in page.tags and "link" not in page.tags
  assert all(entry["src"].startswith("data:image/png;base64,") for entry in page.images)
  assert not re.search(r"(src|href)=.?https?:", text)
  assert f"{ATTACK} try 5 of step 33" in page.text
  assert "42.0% [37.7, 46.4]" in page.text and "countdown (500 problems)" in page.text
  assert '"name": "<b>bold</b>"' in page.text
  assert "judge not scored" in page.text
  names = {entry["alt"] for entry in page.images}
  assert names == {
      "evaluation_countdown", "behaviour_countdown", "reward", "kl", "entropy", "length",
      "clip_fraction", "loss", "grad_norm", "time", "new_other",
  }  # fmt: skip
  assert names == {file.stem for file in (tmp_path / "plots").iterdir()}


def test_report_of_an_unfinished_run(tmp_path):
  _write_run(tmp_path, rl_steps=0)
  (tmp_path / "samples.jsonl").unlink()
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 4, "st')
  page = _Page(report_lib.make_report(tmp_path).read_text())
  assert [entry["alt"] for entry in page.images] == ["loss", "grad_norm"]
  assert "Summary" not in page.text and "Samples" not in page.text


def test_samples_of_other_forms_are_shown(tmp_path):
  _write_run(tmp_path)
  samples = metrics_lib.SamplesWriter(tmp_path)
  messages = [{"role": "user", "content": "What is 1 + 1?\ud800"}]
  samples.write(99, "rl", [{"prompt": messages, "completion": "2"}])
  samples.close()
  page = _Page(report_lib.make_report(tmp_path).read_text())
  assert '"role": "user"' in page.text and "What is 1 + 1?" in page.text


def test_the_page_says_how_the_run_was_made(tmp_path):
  _write_run(tmp_path)
  process = {"command": "rlreason train <b>", "commit": "abc-dirty"}
  made = {"seed": 3, "grader": {"verifier": "math"},
          "processes": [{"from_step": 0, **process}, {"from_step": 7, **process}]}
  (tmp_path / "summary.json").write_text(json.dumps(SUMMARY | {"provenance": made}))
  page = _Page(report_lib.make_report(tmp_path).read_text())
  text = page.text.partition("How it was made")[2]
  for shown in ("seed", '"verifier": "math"', "rlreason train <b>", "abc-dirty",
                "from step 7: command"):
    assert shown in text
  assert "b" not in page.tags


def test_a_summary_of_an_older_version_is_read(tmp_path):
  _write_run(tmp_path)
  old = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 500}
  stage = SUMMARY["stages"][0] | {"evaluation": {"countdown": {"mean": old, "pass@8": old}}}
  (tmp_path / "summary.json").write_text(json.dumps({"stages": [stage]}))
  page = _Page(report_lib.make_report(tmp_path).read_text())
  assert "avg@8" in page.text and "25.0% [20.0, 30.0]" in page.text


def test_missing_run_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="no metrics.jsonl in .*--workdir"):
    report_lib.make_report(tmp_path)


def test_plots_have_ink_of_each_curve(tmp_path):
  _write_run(tmp_path, rl_steps=100)
  paths = {path.stem: path for path in report_lib.make_plots(tmp_path)}
  pixels = image.imread(paths["reward"])[..., :3]
  for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
    distance = np.abs(pixels - np.asarray(colour) / 255).max(axis=-1)
    assert (distance < 0.02).sum() > 200
  assert not (np.abs(pixels - np.asarray((0x00, 0x9E, 0x73)) / 255).max(axis=-1) < 0.02).any()


def test_a_figure_shows_one_of_each_kind_of_accuracy():
  names = ["greedy", "avg@8", "pass@1", "pass@2", "pass@8", "maj@4", "maj@8", "boxed_fraction"]
  assert report_lib._largest_counts(names) == [
      "greedy", "avg@8", "pass@8", "maj@8", "boxed_fraction"]


def test_running_mean_by_hand():
  values = np.asarray([1.0, 3.0, np.nan, 5.0, np.nan, np.nan])
  np.testing.assert_allclose(report_lib._running_mean(values, 2), [1.0, 2.0, 3.0, 5.0, 5.0, np.nan])
  np.testing.assert_array_equal(report_lib._running_mean(values, 1), values)


def test_every_metric_goes_to_one_panel():
  names = [
      "reward/total/mean", "reward/verifier/mean", "reward/verifier/unscored", "policy/kl",
      "policy/kl_coef", "policy/ratio_error", "eval/countdown/greedy", "eval/countdown/pass@8",
      "eval/countdown/backtracks", "time/tokens_per_second", "time/rollout", "optim/lr",
  ]  # fmt: skip
  lines = [{"step": 1, "stage": "rl", **dict.fromkeys(names[i::2], 1.0)} for i in range(2)]
  panels = report_lib._assign_panels(lines)
  assert {panel.name: assigned for panel, assigned in panels} == {
      "reward": ["reward/total/mean", "reward/verifier/mean"],
      "evaluation_steps": ["eval/countdown/greedy", "eval/countdown/pass@8"],
      "kl": ["policy/kl"],
      "kl_coef": ["policy/kl_coef"],
      "learning_rate": ["optim/lr"],
      "tokens_per_second": ["time/tokens_per_second"],
      "time": ["time/rollout"],
      "eval_other": ["eval/countdown/backtracks"],
      "policy_other": ["policy/ratio_error"],
      "reward_other": ["reward/verifier/unscored"],
  }
  assert sorted(name for _, assigned in panels for name in assigned) == sorted(names)


def test_samples_are_a_handful_from_the_first_and_the_last_step():
  def line(step, prompt, total, stage="rl"):
    return {"step": step, "stage": stage, "prompt": prompt, "rewards": {"total": total}}

  lines = [line(1, "old", 0.0, "sft")]
  lines += [line(step, f"p{i % 8}", i) for step in (2, 3, 4) for i in range(16)]
  chosen = report_lib._pick_samples(lines)
  # Best and worst in turns; of equal prompts the later row.
  assert [(sample["step"], sample["rewards"]["total"]) for sample in chosen] == [
      (2, 15), (2, 8), (4, 15), (4, 8), (4, 14), (4, 9),
  ]  # fmt: skip
  assert report_lib._pick_samples([]) == []
  parts = {"step": 1, "stage": "rl", "rewards": {"a": 1.0, "b": None, "c": 0.5}}
  assert report_lib._total_reward(parts) == 1.5
