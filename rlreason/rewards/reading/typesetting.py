r"""Normalises the typesetting of an answer: LaTeX, Unicode, Markdown or plain text.

The result uses few forms: `\text{...}` for upright words, single spaces, `\cr ` for a row break,
`\le`, `\ge`, `\ne`, `\frac{}{}`, `^{}`. The meaning of the text is not considered here
(`reading.py`); nothing is evaluated.
"""

import functools
import re

_CHARACTERS = str.maketrans({
    "\u2212": "-", "\u2013": "-", "\ufe63": "-", "\uff0d": "-", "\u2010": "-", "\u2011": "-",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\ufeff": "", "\u2061": "",
    "\u00d7": "\\times ", "\u00f7": "\\div ", "\u22c5": "\\cdot ", "\u00b7": "\\cdot ",
    "\u2217": "*", "\u2044": "/", "\u2215": "/", "\u221e": "\\infty ", "\u00b1": "\\pm ",
    "\u2264": "\\le ", "\u2265": "\\ge ", "\u2260": "\\ne ", "\u2248": "\\approx ",
    "\u2a7d": "\\le ", "\u2a7e": "\\ge ", "\u2261": "\\equiv ", "\u222a": "\\cup ",
    "\u2229": "\\cap ", "\u2208": "\\in ", "\u2209": "\\notin ", "\u2205": "\\emptyset ",
    "\u2216": "\\setminus ", "\u2282": "\\subset ", "\u2286": "\\subseteq ",
    "\u211d": "\\mathbb{R}", "\u2124": "\\mathbb{Z}", "\u2115": "\\mathbb{N}",
    "\u211a": "\\mathbb{Q}", "\u2102": "\\mathbb{C}", "\u00b0": "^\\circ ", "\u2032": "'",
    "\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u2192": "\\to ",
    "\u2220": "\\angle ", "\u25b3": "\\triangle ", "\u2026": "\\ldots ", "\u27e8": "\\langle ",
    "\u27e9": "\\rangle ", "\u20ac": "\\euro ", "\u00a3": "\\pounds ", "\u00a5": "\\yen ",
    "\u20b9": "\\rupee ", "\u221b": "\\sqrt[3]", "\u221c": "\\sqrt[4]",
    "\u00bd": "\\frac{1}{2}", "\u00bc": "\\frac{1}{4}", "\u00be": "\\frac{3}{4}",
    "\u2153": "\\frac{1}{3}", "\u2154": "\\frac{2}{3}", "\u2155": "\\frac{1}{5}",
    "\u2227": "\\land ", "\u2228": "\\lor ", "\uff05": "%", "\u066a": "%",
    **{chr(0xff10 + digit): str(digit) for digit in range(10)},
    "\uff0c": ", ", "\u3001": ", ", "\uff0e": ".", "\u3002": ".", "\uff08": "(", "\uff09": ")",
    "\uff1a": ":", "\uff1b": ";", "\uff1d": "=", "\uff0b": "+", "\uff1c": "<", "\uff1e": ">",
    **{letter: f"\\{name} " for letter, name in zip(
        "\u03b1\u03b2\u03b3\u03b4\u03b5\u03b6\u03b7\u03b8\u03b9\u03ba\u03bb\u03bc\u03bd\u03be"
        "\u03c0\u03c1\u03c3\u03c4\u03c6\u03c7\u03c8\u03c9\u0393\u0394\u0398\u039b\u03a0\u03a3"
        "\u03a6\u03a8\u03a9",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma "
        "tau phi chi psi omega Gamma Delta Theta Lambda Pi Sigma Phi Psi Omega".split())},
})  # fmt: skip
_SUPERSCRIPTS = dict(zip("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207f",
                         "0123456789-n"))
_SUBSCRIPTS = dict(zip("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089",
                       "0123456789"))

# Commands whose doubled backslash is an escape of JSON, not a row break before a word.
_COMMANDS = (
    "d?frac|tfrac|cfrac|sqrt|text\\w*|math\\w+|boxed|fbox|pi|left|right|begin|end|cdot|times|infty"
    "|cup|cap|pm|leq?|geq?|neq?|circ|degree|alpha|beta|theta|lambda|log|ln|sin|cos|tan|emptyset"
    "|overline|displaystyle|quad|dots|ldots|in|operatorname|binom|varnothing|angle|approx")
_UPRIGHT = r"\\(?:text(?:bf|it|rm|tt|sf|sc|normal|up|md)?|math(?:rm|sf|tt)|[mh]box|operatorname\*?)"
# Wrappers that change only the appearance of their argument.
_LOOKS = re.compile(
    r"\\(?:math(?:bf|it|cal|scr|normal|ord|rel|bin|op)|boldsymbol|bm|bold|pmb|underline|ensuremath"
    r"|emph|boxed|fbox|textcolor\s*\{[^{}]*\}|colorbox\s*\{[^{}]*\})\s*(?=\{)")
_COLOR = re.compile(r"\\color\s*\{[^{}]*\}")
_SIZES = (
    r"\\(?:displaystyle|textstyle|scriptstyle|scriptscriptstyle|limits|nolimits|rm|bf|it|large"
    r"|Large|small|normalsize|tiny|huge|Huge|LARGE|left|right|[bB]igg?[lrm]?|allowbreak|hfill"
    r"|centering|noindent|hline|nonumber|notag|relax)(?![A-Za-z])")

_REWRITES = tuple((re.compile(pattern), replacement) for pattern, replacement in (
    (rf"(?<!\\)\\\\(?=(?:{_COMMANDS})(?![a-z]))", r"\\"),
    (r"\\\\\*?(?:\s*\[-?[\d.]+\s*[a-z]{2}\])?", r"\\cr "),  # a row break, and its extra height
    (r"\\newline(?![A-Za-z])|\\tabularnewline(?![A-Za-z])", r"\\cr "),
    (r"\\(?:hspace|vspace|hskip|phantom|label|tag)\*?\s*\{[^{}]*\}", " "),
    (r"\\left\s*\\\{\s*\\begin\{(array|aligned)\}(.*?)\\end\{\1\}\s*\\right\s*\.",
     r"\\begin{cases}\2\\end{cases}"),
    (r"\\(?:left|right)\s*\.", ""),
    (r"\\rm\s*\{|\{\s*\\rm(?![A-Za-z])", r"\\text{"),
    (_SIZES, " "),
    (r",\\!\s*(?=\d{3})", ","),  # thousands, as MATH writes them
    (r"\\[!/]", ""),
    (r"(?<![A-Za-z])\{\s*([,:])\s*\}\s*(?=\d)", r"\1"),
    (r"(?<![A-Za-z^_}\]])\{\s*([-+=]?)\s*\}", r"\1"),  # {-}7, 60{}^\circ
    (r"\\\(|\\\)|\\\[|\\\]", " "),
    (r"\*\*(?=[\d({\\-]|[A-Za-z](?![A-Za-z]))(?<=[\w)}\]]\*\*)", "^"),  # Python's power
    (r"\*\*|`|__(?=\w)|(?<=\w)__", " "),  # bold, code
    (r"(?<=\d)\\[,;: ](?=\d{3}(?!\d))", ","),  # thousands: 10\,000
    (r"\\[,;:> ]|~|\\(?:qquad|quad|enspace|thinspace)|\\$", " "),
    (_UPRIGHT + r"\s*(?=\{)", r"\\text"),
    (r"(?<=\d)(?:\s*\^\s*\{?\s*(?:\\text)?\{\s*(?:st|nd|rd|th)\s*\}(?:\s*\})?"
     r"|(?:st|nd|rd|th)(?![A-Za-z])|\\text\{\s*(?:st|nd|rd|th)\s*\})", " "),  # 4th
    (r"\\text\{\s*%\s*\}|\\%|\\percent(?![A-Za-z])", "%"),
    (r"(?<=\d)(?:\s*\\text\{\s*to\s*\}\s*| to )(?=\d)", ":"),  # 2 to 1
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    (r"\\frac\s*\{\s*\\text\{([^{}]*)\}\s*\}\s*\{\s*\\text\{([^{}]*)\}\s*(\^\{?-?\d\}?)?\s*\}",
     r"\\text{\1}/\\text{\2}\3"),  # km over h
    (r"\\(?:leq|leqslant|leqq)(?![A-Za-z])|<=|=<", r"\\le "),
    (r"\\(?:geq|geqslant|geqq)(?![A-Za-z])|>=", r"\\ge "),
    (r"\\neq?(?![A-Za-z])|(?<![\d)}])!=|\\not\s*=", r"\\ne "),
    (r"\\lt(?![A-Za-z])|&lt;", "<"), (r"\\gt(?![A-Za-z])|&gt;", ">"),
    (r"\\(?:lbrace|lbrack)(?![A-Za-z])", r"\\{"), (r"\\(?:rbrace|rbrack)(?![A-Za-z])", r"\\}"),
    (r"\\(?:varnothing|empty|O)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
    (r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])", "|"),
    (r"\\(?:degree|degrees)(?![A-Za-z])", r"^\\circ "),
    (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])", r"^\\circ "),
    (r"(?<=\d)\s*\^\s*(?:\{\s*)?(?:o(?![A-Za-z(])|\\text\{\s*o\s*\})(?:\s*\})?", r"^\\circ "),
    (r"\^\\circ\s*\\text\{\s*([CF])\s*\}", r"^\\circ \1"),
    (r"\\(?:dots|cdots|dotsc|dotsb)(?![A-Za-z])|\.\.\.", r"\\ldots "),
    (r"\\(?:wedge|land)(?![A-Za-z])|\\text\{\s*and\s*\}", r" \\land "),
    (r"\\(?:vee|lor)(?![A-Za-z])|\\text\{\s*or\s*\}", r" \\lor "),
    (r"\\Bbb(?![A-Za-z])", r"\\mathbb"),
    (r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}"),
    (r"\(?\s*(?:\\[bp]?mod(?![A-Za-z])|\\text\{\s*mod(?:ulo)?\s*\}|(?<![A-Za-z])mod(?![A-Za-z]))"
     r"\s*\{?\s*(\d+|[a-z](?![A-Za-z]))\s*\}?\s*\)?", r" \\pmod{\1}"),
    (r"\\bar\s*(?=\{|\d)", r"\\overline"),
    (r"\\(?:bigcup|sqcup)(?![A-Za-z])", r"\\cup "),
    (r"\\(?:colon)(?![A-Za-z])|\\text\{\s*:\s*\}", ":"),
    (r"\\over(?![A-Za-z])", r"\\over "),
    (r"\\(frac|binom)(?:\s*(\d|\\pi)|\s+([A-Za-z]))\s*(?=[\dA-Za-z{\\])", r"\\\1{\2\3}"),
    (r"(\\(?:frac|binom)\s*\{[^{}]*\})\s*(\d|[A-Za-z]|\\pi(?![A-Za-z]))", r"\1{\2}"),
    (r"\\(sqrt|sqrt\[[^\[\]{}]*\])\s*(\d+|[A-Za-z])", r"\\\1{\2}"),
    (r"\\overline\s*(\d|[A-Za-z])", r"\\overline{\1}"),
    (r"\\(frac|sqrt|text|overline|begin|end)\s+(?=[{\[])", r"\\\1"),
    (r"\\?(log) ?_ ?(\d)", r"\\\1_{\2}"),
    (r"\\log ?_ ?(?:\{ ?e ?\}|e)", r"\\ln "),
    (r"\^\s*(-?\d{2,})", r"^{\1}"),
    (r"\^\s*\((-?\d+)\)", r"^{\1}"),
    (r"(?<=[\d\]])[ \t]*\n\s*(?=[\d\[-])", r"\\cr "),  # the rows of a grid
    (r"\s+", " "),
))  # fmt: skip
_ROOT = re.compile("\u221a\\s*(\\d+(?:\\.\\d+)?|[A-Za-z]|\\{[^{}]*\\})")
_ROOT_OF_BRACKETS = re.compile("\u221a\\s*\\(([^()]*)\\)")
_SQUARE_UNIT = re.compile("(?<=[\\d\\s)}])((?:[mcdk])?m|ft|in)([\u00b2\u00b3])")

# {1 \over 2} and {n \choose k}, of TeX.
_GROUPS = r"((?:[^{}]|\{[^{}]*\})*?)"
_INFIX = re.compile(rf"\{{{_GROUPS}\\(over|choose)(?![A-Za-z]){_GROUPS}\}}")

# m s^{-2} in \text{}, whose braces should be the only ones.
_BRACED_POWER = re.compile(r"\^\{(-?\d)\}")
_POWERS_IN_TEXT = re.compile(r"\\text\{(?:[^{}]|\^\{-?\d\})*\}")
_CODES = {"US": "dollar", "EU": "euro", "GB": "pounds", "JP": "yen", "RS": "rupee", "IN": "rupee"}
_MONEY_CODE = re.compile(
    r"(?<![A-Za-z\\])(USD?\s*\\?\$|USD|EUR|GBP|JPY|INR|Rs\.?)\s*(\d)")
_MONEY_IN_TEXT = re.compile(
    r"\\(?:text|mbox|mathrm|textrm)\{\s*(\\?\$|\\(?:euro|pounds|yen|rupee) |USD|EUR|GBP|JPY|INR"
    r"|Rs\.?|US\\?\$)\s*\}\s*(?=\d)")


_PLAIN = re.compile(r"-?\d+(?:[./]\d+)?", re.ASCII)


@functools.lru_cache(maxsize=4096)  # reused by matching, reading and other completions
def clean(text: str) -> str:
  """The text with normalised typesetting and single spaces; words and order do not change."""
  if _PLAIN.fullmatch(text):
    return text
  text = re.sub(r"[^\S\n]{2,}", " ", text)
  text = _SQUARE_UNIT.sub(lambda m: rf"\text{{ {m[1]}}}^{_SUPERSCRIPTS[m[2]]}", text)
  text = _raised(text, _SUPERSCRIPTS, "^")
  text = _raised(text, _SUBSCRIPTS, "_")
  text = _ROOT_OF_BRACKETS.sub(r"\\sqrt{\1}", text)
  text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1].strip('{}')}}}", text).replace("\u221a", "\\sqrt ")
  text = text.translate(_CHARACTERS)
  text = _currency(text)
  for pattern, replacement in _REWRITES:
    text = pattern.sub(replacement, text)
  if "\\over " in text or "\\choose" in text:
    text = _INFIX.sub(_prefixed, _INFIX.sub(_prefixed, f"{{{text}}}"))[1:-1]
  text = _POWERS_IN_TEXT.sub(lambda m: _BRACED_POWER.sub(r"^\1", m[0]), text)
  text = _COLOR.sub("", text)
  text = _LOOKS.sub("", text)
  return text.strip()


def _prefixed(match: re.Match) -> str:
  name = {"over": "frac", "choose": "binom"}[match[2]]
  return rf"{{\{name}{{{match[1].strip()}}}{{{match[3].strip()}}}}}"


def squeeze(text: str) -> str:
  r"""Cleaned text without meaningless spaces.

  Kept are those after a command (`\pi r`), and between numbers (`1 2` is not 12) or words.
  """
  text = re.sub(r"\\(?:text)\{([^{}]*)\}", r" \1 ", text)
  text = re.sub(r"(?<=\d) +(?=\d)|(?<=[A-Za-z]{2}) +(?=[A-Za-z]{2})", "\0", text)
  text = re.sub(r"(\\[A-Za-z]+) +(?=[A-Za-z])", "\\1\0", text)
  return text.replace(" ", "").replace("\0", " ")


def _raised(text: str, characters: dict[str, str], mark: str) -> str:
  pattern = f"[{''.join(characters)}]+"
  return re.sub(
      pattern, lambda m: f"{mark}{{{''.join(characters[c] for c in m[0])}}}", text)


def _currency(text: str) -> str:
  r"""`\$` and a lone `$` before a number are money; all other `$` only delimit formulas."""
  text = _MONEY_IN_TEXT.sub(lambda m: "\\$" if m[1] == "$" else m[1], text)
  text = _MONEY_CODE.sub(lambda m: f"\\{_CODES[m[1][:2].upper()]} {m[2]}", text)
  text = re.sub(r"\\\$\s*(?=[\d.]|-\d)", r"\\dollar ", text)
  text = re.sub("\u00a2\\s*(\\d[\\d.,]*)", "\\1 \u00a2", text)
  if text.count("$") % 2:
    text = re.sub(r"(?<![\w\\])\$\s*(?=\d|\.\d)", r"\\dollar ", text, count=1)
  return re.sub(r"\\?\$", " ", text)
