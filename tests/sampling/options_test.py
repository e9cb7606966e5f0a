"""Options are checked where they are made, and are hashable whatever they were made from."""

import pytest

from rlreason.sampling import SamplingOptions


@pytest.mark.parametrize("fields, message", [
    (dict(max_new_tokens=0), "max_new_tokens: got 0, allowed: 1 or more"),
    (dict(temperature=-0.5), "temperature: got -0.5, allowed: 0"),
    (dict(temperature=float("inf")), "temperature: got inf"),
    (dict(temperature=float("nan")), "temperature: got nan"),
    (dict(top_k=-1), "top_k: got -1, allowed: 0"),
    (dict(top_p=0.0), "top_p: got 0.0, allowed: above 0"),
    (dict(top_p=1.5), "top_p: got 1.5"),
    (dict(min_p=-0.1), "min_p: got -0.1, allowed: 0"),
    (dict(min_p=1.1), "min_p: got 1.1"),
    (dict(weights="int4"), "weights: got 'int4', allowed: full, int8"),
])
def test_values_out_of_range_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    SamplingOptions(**{"max_new_tokens": 4, **fields})


def test_lists_become_hashable():
  options = SamplingOptions(max_new_tokens=4, blocked_bigrams=[[[1, 2], [3]], ((4,), (5, 6))])
  assert options.blocked_bigrams == (((1, 2), (3,)), ((4,), (5, 6)))
  assert hash(options) == hash(SamplingOptions(
      max_new_tokens=4, blocked_bigrams=(((1, 2), (3,)), ((4,), (5, 6)))))
