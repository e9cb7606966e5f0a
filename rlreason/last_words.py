"""Passes on its input until JAX says that it aborts; then says why in one line.

    python -I last_words.py < errors

A line that begins with `MARK` is the one to say. A program of its own, started by
`processes.connect`, and without imports of this package.
"""

import sys

MARK = b"\x00last words: "
_FATAL = b"Terminating process because the JAX distributed service detected fatal errors"
# Of the coordination service, before it.
_NOISE = (b"coordination_service_agent.cc", b"Additional GRPC error information", b":UNKNOWN:Error")


def main() -> None:
  words, is_over = b"", False
  for line in sys.stdin.buffer:
    if line.startswith(MARK):
      words = line.removeprefix(MARK)
    elif _FATAL in line and not is_over:
      is_over = True
      sys.stderr.buffer.write(words)
    elif not is_over and not any(part in line for part in _NOISE):
      sys.stderr.buffer.write(line)
    sys.stderr.buffer.flush()


if __name__ == "__main__":
  main()
