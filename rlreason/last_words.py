"""Passes on its input until JAX says that its coordinator is gone; then says so in one line.

    python -I last_words.py LINE < errors

A program of its own, started by `processes.connect`, and without imports of this package.
"""

import sys

_FATAL = b"Terminating process because the JAX distributed service detected fatal errors"
# Of the coordination service, before it.
_NOISE = (b"coordination_service_agent.cc", b"Additional GRPC error information", b":UNKNOWN:Error",
          b"[Gloo] Rank")


def main() -> None:
  is_lost = False
  for line in sys.stdin.buffer:
    if _FATAL in line and not is_lost:
      is_lost = True
      sys.stderr.write(sys.argv[1] + "\n")
    elif not is_lost and not any(part in line for part in _NOISE):
      sys.stderr.buffer.write(line)
    sys.stderr.flush()


if __name__ == "__main__":
  main()
