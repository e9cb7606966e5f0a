"""Tests of rlreason.rewards.reading.quantities."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
import pytest

from rlreason.rewards.reading import quantities
from rlreason.rewards.reading.typesetting import clean, squeeze


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("12", 12), ("-12", -12), ("+3", 3), ("007", 7), ("0.25", Fraction(1, 4)),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)), ("-3/4", Fraction(-3, 4)), ("3/-4", Fraction(-3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)), (r"-\frac{-3}{4}", Fraction(3, 4)),
        (r"2\frac{1}{2}", Fraction(5, 2)), (r"-2\frac{1}{2}", Fraction(-5, 2)), ("x=5", 5),
        ("9" * 100, int("9" * 100)),
        ("9" * 101, None), ("9" * 100_000, None), ("1/0", None), ("", None),
        (r"\frac{1}{0.0}", None),
        ("1+1", None), ("9^9", None), ("1e5", None), ("50%", None), ("1,2", None), ("-", None),
        (r"2\frac{-1}{2}", None), ("3/4/5", None), ("five", None), ("x=", None), ("nan", None),
    ],
)  # fmt: skip
def test_exact_number(answer, expected):
  assert quantities.exact_number(answer) == expected


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**30))
def test_exact_number_reads_what_python_writes(numerator, denominator):
  value = Fraction(numerator, denominator)
  assert quantities.exact_number(str(value)) == value
  sign = "-" if value < 0 else ""
  latex = rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
  assert quantities.exact_number(squeeze(clean(f"$ {latex} $"))) == value
  assert quantities.number(squeeze(clean(f"{numerator:,}"))) == numerator


@pytest.mark.parametrize("text, expected", [
    ("1,234", 1234), ("10 000", 10000), ("3 1/2", Fraction(7, 2)), (r"1.5\times10^{3}", 1500),
    (r"1.5\cdot10^3", 1500), ("10^{-3}", Fraction(1, 1000)), ("2e5", 200000), ("-2E-1",
    Fraction(-1, 5)), (r"0.\overline{3}", Fraction(1, 3)), ("0.1(6)", Fraction(1, 6)),
    (r"-0.\overline{12}", Fraction(-12, 99)), (r"0.333\ldots", Fraction(1, 3)), ("{5}/{2}",
    Fraction(5, 2)), (r"0.33\ldots", None), ("1,23", None), ("1,2345", None), ("1 2", None),
    ("9^9", None), ("10^{101}", None), ("10^{10^3}", None), ("1e999999999", None), ("2^{10}", None),
    ("1+1", None), ("3x", None), ("x=5", None), ("", None),
])  # fmt: skip
def test_numbers_in_other_typesetting(text, expected):
  assert quantities.number(text) == expected


@pytest.mark.parametrize("text, expected", [
    (r"\text{ cm}^2", (("cm", 2),)), ("sq cm", (("cm", 2),)), ("cm squared", (("cm", 2),)),
    ("square centimeters", (("cm", 2),)), ("km/h", (("h", -1), ("km", 1))),
    ("kilometers per hour", (("h", -1), ("km", 1))), ("kmph", (("h", -1), ("km", 1))),
    (r"\text{m/s}^2", (("m", 1), ("s", -2))), 
    (r"\text{m}\cdot\text{s}^{-2}", (("m", 1), ("s", -2))),
    ("clips", (("clip", 1),)), ("inches", (("inch", 1),)), ("dollars", (("$", 1),)),
    (r"^\circ ", (("degree", 1),)), ("degrees", (("degree", 1),)), ("percent", (("%", 1),)),
    ("or more", None), ("less than", None), ("5x", None), ("x+1", None),
])  # fmt: skip
def test_units(text, expected):
  unit = quantities.read_unit(text)
  assert unit is None if expected is None else unit == (expected, 0)


def test_words_of_size_are_powers_of_ten():
  assert quantities.read_unit("million dollars") == ((("$", 1),), 6)


@pytest.mark.parametrize("left, right, expected", [
    ("cm", "", True), ("cm", "cm", True), ("cm", "m", False), ("clips", "paper clips", True),
    ("apples", "oranges", False), ("square units", "cm^2", True), ("cubic units", "cm^2", False),
])
def test_units_that_agree(left, right, expected):
  left, right = (quantities.read_unit(unit)[0] for unit in (left, right))
  assert quantities.agree(left, right) == quantities.agree(right, left) == expected
