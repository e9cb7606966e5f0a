"""Steps of texts."""

import pytest

from rlreason import steps


@pytest.mark.parametrize("text, delimiter, ends", [
    ("a\nb\nc", "\n", [2, 4, 5]),
    ("a\nb\n", "\n", [2, 4]),
    ("a\n\n\nb", "\n", [4, 5]),  # more delimiters belong to the step before them
    ("a\n \nb", "\n", [4, 5]),  # and so does space between them
    ("\n\na\nb", "\n", [4, 5]),  # or to the first step
    ("a\n\nb\nc\n\n\nd", "\n\n", [3, 8, 10]),
    ("one step", "\n", [8]),
    ("", "\n", []),
    (" \n \n", "\n", []),
    ("x;y;", ";", [2, 4]),
])
def test_step_ends(text, delimiter, ends):
  assert steps.step_ends(text, delimiter) == ends


@pytest.mark.parametrize("text", ["a\nb", "\n\na\n\nb\n \n", "a"])
@pytest.mark.parametrize("delimiter", ["\n", "\n\n", "a"])
def test_steps_are_the_text(text, delimiter):
  assert "".join(steps.split_steps(text, delimiter)) == text


def test_an_empty_delimiter_is_refused():
  with pytest.raises(ValueError, match="delimiter: got '', allowed: a text"):
    steps.step_ends("a", "")


@pytest.mark.parametrize("text", ["a\nb", "\n\na\n\nb\n \n", "a", "3 + 4 = 7 ; 7 * 7 = 9 ; end"])
@pytest.mark.parametrize("delimiter", ["\n", "\n\n", "a", ";"])
def test_steps_that_were_split_are_joined_as_they_were(text, delimiter):
  joined = steps.join_steps(steps.split_steps(text, delimiter), delimiter)
  assert joined == (text, steps.step_ends(text, delimiter))


@pytest.mark.parametrize("parts, separator, expected", [
    (["a", "b c", "d"], "\n", ("a\nb c\nd", [2, 6, 7])),
    (["a", "b\n"], "\n\n", ("a\n\nb\n", [3, 5])),
    (["3 ;", "4"], ";", ("3 ; 4", [3, 5])),
    (["3", " 4", "5;"], ";", ("3; 4; 5;", [2, 5, 8])),
    (["a"], ";", ("a", [1])), ([], "\n", ("", []))])
def test_what_separates_steps_is_added_where_it_is_missing(parts, separator, expected):
  assert steps.join_steps(parts, separator) == expected
