"""Programs of several threads: in turn, and awaited only while there is a second thread."""

import threading
import time

from rlreason.parallel import jit


class Result:
  """What a program returns, before it has run to its end."""

  is_awaited = False

  def block_until_ready(self):
    self.is_awaited = True
    return self


class Program:
  """Stands in for a jitted function; notes whether it was called while it was running."""

  def __init__(self):
    self.running = self.most_running = 0

  def __call__(self):
    self.running += 1
    self.most_running = max(self.most_running, self.running)
    time.sleep(0.001)
    self.running -= 1
    return Result()

  def lower(self):
    """As jitted functions have it."""


def test_programs_of_several_threads_begin_one_at_a_time():
  program = Program()
  begin = jit.in_turn(program)
  threads = [threading.Thread(target=lambda: [begin() for _ in range(20)]) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert program.most_running == 1


def test_a_program_is_awaited_while_another_thread_has_programs():
  begin, may_end, has_begun, found = jit.in_turn(Program()), *(
      threading.Event() for _ in range(2)), []

  def other():
    found.append(begin().is_awaited)
    has_begun.set()
    may_end.wait(60)

  assert not begin().is_awaited  # dispatched, and the host continues
  thread = threading.Thread(target=other)
  thread.start()
  has_begun.wait(60)
  assert found == [True] and begin().is_awaited
  may_end.set()
  thread.join()
  assert not begin().is_awaited
