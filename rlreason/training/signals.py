"""Signals that ask a run to stop."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def stop_signals():
  """An event that SIGTERM, SIGINT and SIGHUP set; a second signal ends the process as usual.

  SIGHUP stays ignored if it was ignored, as by nohup.
  """
  stop = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield stop  # another thread, as in a notebook: it cannot handle signals
    return
  before = {}

  def on_signal(number, frame):
    del frame
    stop.set()
    signal.signal(number, before[number])

  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
      before[number] = signal.signal(number, on_signal)
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
