"""Grades by a language model, from a small service on loopback that answers, stalls, fails and
lies."""

import contextlib
from http import server
import json
import threading
import time

import pytest

from rlreason.rewards import RewardSpec, combine_rewards, judge, service
from rlreason.workers import Reply

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def reply_of(text):
  return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


class Handler(server.BaseHTTPRequestHandler):
  """Answers by `self.server.answer(content, number of the request)`: text, a status, or bytes."""

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    with self.server.lock:
      self.server.seen.append((self.path, dict(self.headers), body))
      self.server.open += 1
      self.server.most = max(self.server.most, self.server.open)
      number = len(self.server.seen)
    try:
      answer = self.server.answer(body["messages"][-1]["content"], number)
      if isinstance(answer, int):
        self.send_response(answer)
        self.end_headers()
        self.wfile.write(b"no")
      elif isinstance(answer, bytes):
        self.wfile.write(answer)
      elif answer is None:  # drips forever, each piece in time
        self.wfile.write(_HEAD + b"Content-Length: 100000\r\n\r\n")
        while not self.server.is_over.wait(0.05):
          self.wfile.write(b" ")
          self.wfile.flush()
      else:
        content = reply_of(answer)
        self.wfile.write(_HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content)
    except OSError:
      pass  # the client has gone
    finally:
      with self.server.lock:
        self.server.open -= 1

  def log_message(self, *unused_args):
    pass


@contextlib.contextmanager
def serving(answer):
  """A service whose replies are `answer(content, number)`; gives it and the settings to ask it."""
  found = server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  found.daemon_threads, found.answer = True, answer
  found.seen, found.open, found.most = [], 0, 0
  found.lock, found.is_over = threading.Lock(), threading.Event()
  thread = threading.Thread(target=found.serve_forever, daemon=True)
  thread.start()
  try:
    yield found, dict(url=f"http://127.0.0.1:{found.server_port}/v1", retries=0, timeout=30.0)
  finally:
    found.is_over.set()
    found.shutdown()
    found.server_close()


def grade(settings, completions=("text",), prompts=None, **options):
  prompts = prompts or ["problem"] * len(completions)
  return judge.judge_reward(prompts, list(completions), service=settings, **options)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
  monkeypatch.setattr(service, "_PAUSE", 0.01)


@pytest.mark.parametrize("reply, score", [
    ("Score: 0.7", 0.7), ("**Score:** 1", 1.0), ("score = .25.", 0.25), ("Score: 7/10", 0.7),
    ("First Score: 0.2, no:\nScore: 0.9", 0.9), ("SCORE: 0", 0.0),
    ("I cannot say.", None), ("Score: 7", None), ("Score: -0.5", None), ("Score: 1/0", None),
    ("Score: high", None), ("", None)])
def test_scores_of_replies(reply, score):
  with serving(lambda *_: reply) as (_, settings):
    found, = grade(settings)
  if score is None:
    assert isinstance(found, Reply) and "no verdict in the reply" in found.message
  else:
    assert found == pytest.approx(score)


def test_what_is_asked(monkeypatch):
  monkeypatch.setenv("MY_KEY", "secret")
  with serving(lambda *_: "Score: 1") as (found, settings):
    chat = [{"role": "user", "content": "What is {completion}?"}]
    settings |= dict(model="big", api_key_env="MY_KEY", max_tokens=7)
    assert grade(settings, ["an {answer} in {braces}"], [chat], answer=["5"]) == [1.0]
  (path, headers, body), = found.seen
  assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
  assert body["model"] == "big" and body["max_tokens"] == 7 and body["temperature"] == 0
  content = body["messages"][0]["content"]
  assert "What is {completion}?" in content and "an {answer} in {braces}" in content
  assert "does not matter" in content  # the effort of RLSP is the default


def test_a_question_of_ones_own():
  with serving(lambda content, _: f"Score: {content.count('x') / 10}") as (found, settings):
    assert grade(settings, ["xx", "xxx"], grade="{completion} {answer}", answer=["-", "x"]) == [
        0.2, 0.4]


def test_columns_of_a_data_set_may_have_any_name():
  with serving(lambda *_: "Score: 1") as (_, settings):
    spec = RewardSpec(name="judge", options=dict(service=settings))
    columns = dict(ask=["x"], grade=["y"], template=["z"], completion=["other"], prompt=["other"])
    assert combine_rewards([spec])(["p"], ["c"], **columns).total == [1.0]


def test_rubrics():
  rubrics = [["Is short.", "Is right."],
             [{"criterion": "Is right.", "weight": 3}, {"criterion": "Rude.", "weight": -1},
              {"criterion": "Shows work."}],
             json.dumps([{"criterion": "Rude.", "weight": -5}, "Is right."])]
  replies = {"a": "1: yes\n2: no", "b": "1. **yes**\n2) Yes\n3: no", "c": "1: yes\n2: no"}
  answer = lambda content, _: replies[content.split("<response>\n")[1][0]]
  with serving(answer) as (found, settings):
    assert grade(settings, "abc", grade="rubric", rubric=rubrics) == [0.5, 0.5, 0.0]
    asked = next(body for _, _, body in found.seen if "Rude" in str(body) and "Shows" in str(body))
    assert "1: Is right.\n2: Rude.\n3: Shows work." in asked["messages"][0]["content"]
  with serving(lambda *_: "1: yes") as (_, settings):
    found, = grade(settings, "a", grade="rubric", rubric=rubrics[:1])
    assert isinstance(found, Reply)


@pytest.mark.parametrize("rubric", ["text", [], [{"weight": 1}], [{"criterion": "a", "weight": 0}]])
def test_what_is_no_rubric(rubric):
  with pytest.raises(ValueError, match="rubric: got .*, allowed: a list of texts"):
    grade(dict(url="http://localhost:1"), "a", grade="rubric", rubric=[rubric])


def better(content, _):
  """The longer response wins."""
  first = content.split("<response_a>\n")[1].split("\n</response_a>")[0]
  second = content.split("<response_b>\n")[1].split("\n</response_b>")[0]
  if len(first) == len(second):
    return "Verdict: tie"
  return f"Verdict: {'A' if len(first) > len(second) else 'Response B'}"


def test_pairs_with_a_reference():
  with serving(better) as (found, settings):
    texts = ["a", "bb", "ccc", "a"]
    assert grade(settings, texts, grade="pairwise", reference=["xx"] * 4) == [0.0, 0.5, 1.0, 0.0]
  assert len(found.seen) == 6  # in both orders, and equal ones once


def test_a_judge_that_prefers_the_first_is_no_judge():
  """In both orders its preference cancels."""
  with serving(lambda *_: "Verdict: A") as (_, settings):
    assert grade(settings, ["a", "b"], grade="pairwise", reference=["c", "d"]) == [0.5, 0.5]


def test_pairs_within_groups():
  with serving(better) as (_, settings):
    texts, group = ["a", "bb", "ccc", "x", "x", "alone", "yy", "z"], [0, 0, 0, 1, 1, 2, 3, 3]
    *found, = grade(settings, texts, grade="pairwise", group=group)
  assert isinstance(found.pop(5), Reply)
  assert found == [0.0, 0.5, 1.0, 0.5, 0.5, 1.0, 0.0]


@pytest.mark.parametrize("answer, reason", [
    (lambda *_: 500, "HTTP status 500: no"),
    (lambda *_: 401, "HTTP status 401: no"),
    (lambda *_: b"", "RemoteDisconnected"),
    (lambda *_: b"not http at all\r\n\r\n", "BadStatusLine"),
    (lambda *_: _HEAD + b"Content-Length: 9\r\n\r\nnot json!", "no choices"),
    (lambda *_: _HEAD + b"Content-Length: 13\r\n\r\n{\"choices\":[]}", "no choices"),
    (lambda *_: _HEAD + b"Content-Length: 5000\r\n\r\n" + reply_of("Score: 1"), "4928 bytes early"),
    (lambda *_: _HEAD + b"Content-Length: 20\r\n\r\n" + reply_of("Score: 1"), "no choices"),
    (lambda *_: _HEAD + b"Content-Length: nine\r\n\r\n" + reply_of("Score: 1"), None),
    (lambda *_: _HEAD + b"Content-Length: 9999999\r\n\r\n" + b" " * 9999999, "more than 4194304"),
    (lambda *_: _HEAD + b"Content-Length: 75\r\n\r\n" + reply_of(None).ljust(75), "allowed: text"),
])
def test_services_that_fail_or_lie(answer, reason):
  with serving(answer) as (_, settings):
    found, = grade(settings)
  if reason is None:  # the reply ends with the connection
    assert found == 1.0
  else:
    assert isinstance(found, Reply) and reason in found.message


@pytest.mark.parametrize("answer", [
    lambda *_: None, lambda *_: time.sleep(3) or "Score: 1"])
def test_a_request_ends_in_time(answer):
  with serving(answer) as (_, settings):
    found, = grade(settings | dict(timeout=0.5))
  assert isinstance(found, Reply) and found.message == "no reply within 0.5 s"


def test_nobody_listens():
  with serving(lambda *_: "") as (_, settings):
    pass
  found, = grade(settings)
  assert isinstance(found, Reply) and "ConnectionRefusedError" in found.message


def test_retries_are_for_what_may_pass():
  with serving(lambda _, number: 503 if number < 3 else "Score: 1") as (found, settings):
    assert grade(settings | dict(retries=2)) == [1.0] and len(found.seen) == 3
  with serving(lambda *_: 400) as (found, settings):
    assert isinstance(grade(settings | dict(retries=2))[0], Reply) and len(found.seen) == 1


def test_requests_run_side_by_side_and_no_more_than_allowed():
  def answer(content, number):
    time.sleep(0.05)
    return "Score: 1"

  with serving(answer) as (found, settings):
    grade(settings | dict(concurrency=3), list("abcdefghijkl"))
  assert 1 < found.most <= 3


def test_replies_are_kept(tmp_path):
  with serving(lambda *_: "Score: 1") as (found, settings):
    settings |= dict(cache=str(tmp_path / "cache"))
    assert grade(settings, "ab") == [1.0, 1.0] == grade(settings, "ab")
    assert len(found.seen) == 2
    grade(settings | dict(model="other"), "a")  # another judge
    assert len(found.seen) == 3
    for file in (tmp_path / "cache").glob("*/*.json"):
      file.write_text(file.read_text()[:9])  # damaged
    assert grade(settings, "a") == [1.0] and len(found.seen) == 4
  assert grade(settings, "a") == [1.0]  # without the service


def test_a_budget(tmp_path):
  with serving(lambda *_: "Score: 1") as (found, settings):
    settings |= dict(cache=str(tmp_path), max_requests=3)
    assert grade(settings, "ab") == [1.0, 1.0]
    scores = grade(settings, "abcd")
    assert sum(score == 1.0 for score in scores) == 3 and len(found.seen) == 3
    failed, = (score for score in scores if isinstance(score, Reply))
    assert failed.message == "max_requests=3 are used up"


@pytest.mark.parametrize("options, message", [
    (dict(service={}), "service.url: missing"),
    (dict(service=dict(url="localhost:80")), "url: got 'localhost:80', allowed: such as"),
    (dict(service=dict(url="http://a", timeout=0.0)), "timeout: got 0.0, allowed: seconds"),
    (dict(service=dict(url="http://a", concurrency=0)), "concurrency: got 0, allowed: a whole"),
    (dict(service=dict(url="http://a", max_requests=5)), "max_requests: got 5 without a cache"),
    (dict(service=dict(url="http://a", urls="b")), "service.urls"),
    (dict(service=dict(url="http://a"), grade="nice"), "grade: got 'nice', allowed: effort")])
def test_settings_are_checked_before_a_run(options, message):
  with pytest.raises(ValueError, match=message):
    RewardSpec(name="judge", options=options)


def test_failures_are_neutral_and_counted():
  """With weight 0 the judge is a metric."""
  answer = lambda content, _: "Score: 1" if "good" in content else "hm"
  with serving(answer) as (_, settings):
    spec = RewardSpec(name="judge", weight=0.0, options=dict(service=settings))
    one = RewardSpec(name="mine", function=lambda *_, **__: [1.0, 1.0])
    result = combine_rewards([one, spec])(["p", "p"], ["good", "odd"])
  assert result.parts["judge"] == [1.0, 0.5] and result.counts["judge_failures"] == 1
  assert result.total == [1.0, 1.0]


def test_a_missing_column_is_no_failure_of_the_judge():
  spec = RewardSpec(name="judge", options=dict(service=dict(url="http://a"), grade="rubric"))
  with pytest.raises(ValueError, match="reward 'judge': rubric: got no such column"):
    combine_rewards([spec])(["p"], ["c"])
