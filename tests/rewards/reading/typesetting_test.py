"""Tests of rlreason.rewards.reading.typesetting."""

import pytest

from rlreason.rewards.reading.typesetting import clean, squeeze


@pytest.mark.parametrize("text, expected", [
    ("\u22127", "-7"), ("$1,234.5$", "1,234.5"), ("1{,}234{,}567", "1,234,567"),
    (r"10\,000", "10,000"), (r"11,\! 111,\! 100", "11,111,100"), ("10 000", "10 000"),
    (r"\dfrac12", r"\frac{1}{2}"), (r"\tfrac{1}{2}", r"\frac{1}{2}"),
    (r"\frac1{72}", r"\frac{1}{72}"), (r"\frac{a}b", r"\frac{a}{b}"),
    (r"\left( 1, 2 \right]", "( 1, 2 ]"), (r"\leftarrow", r"\leftarrow"),
    (r"\mathrm{cm}", r"\text{cm}"), (r"90^{\circ}", r"90^\circ"), ("90\u00b0", r"90^\circ"),
    (r"50\%", "50%"), (r"\pi r", r"\pi r"), (r"\( x + 1 \)", "x + 1"),
    (r"\boldsymbol{3}", "{3}"), (r"\textcolor{blue}{3}", "{3}"), (r"\displaystyle 3", "3"),
    ("**5**", "5"), ("`5`", "5"), ("x**2", "x^2"), ("x**10", "x^{10}"), ("x\u00b2", "x^{2}"),
    ("\u221a51", r"\sqrt{51}"), ("\u221a(x+1)", r"\sqrt{x+1}"), (r"\sqrt2", r"\sqrt{2}"),
    (r"\sqrt[3]2", r"\sqrt[3]{2}"), ("\u22655", r"\le 5".replace("le", "ge")),
    (r"x \leqslant 2", r"x \le 2"), (r"\varnothing", r"\emptyset"), (r"\{ \}", r"\emptyset"),
    (r"1 \\ 2", r"1 \cr 2"), (r"1 \\[4pt] 2", r"1 \cr 2"), (r"1\\\frac12", r"1\cr \frac{1}{2}"),
    (r"\\frac{1}{2}", r"\frac{1}{2}"), (r"a \\, b", r"a \cr , b"), (r"\mathbb R", r"\mathbb{R}"),
    (r"3 \pmod 7", r"3 \pmod{7}"), (r"3 \;(\text{mod } 7)", r"3 \pmod{7}"),
    (r"\$5", r"\dollar 5"), ("$5", r"\dollar 5"), ("$5$", "5"), ("\u20ac5", r"\euro 5"),
    (r"5\text{ m}\ ", r"5\text{ m}"), ("\uff11\uff12", "12"), (r"\ 3\ ", "3"), ("", ""),
])  # fmt: skip
def test_clean(text, expected):
  assert clean(text) == expected


@pytest.mark.parametrize("text, expected", [
    ("x + 1", "x+1"), (r"\pi r", r"\pi r"), ("1 2", "1 2"), ("St Louis", "St Louis"),
    (r"( 1, 2 ]", "(1,2]"), (r"\text{Evelyn}", "Evelyn"),
])
def test_squeeze(text, expected):
  assert squeeze(text) == expected


def test_cleaning_twice_changes_nothing():
  for text in (r"\dfrac12\text{ cm}^2", r"x\ge 3 \text{ or } x < 1",
               r"\begin{cases}1\\2\end{cases}"):
    assert clean(clean(text)) == clean(text)
