"""Texts that tokenizers get wrong: at least 200, all different."""

_SPACES = ["", " ", "  ", "   ", "        ", "\t", "\t\t", " \t ", "\n", "\n\n", "\n\n\n\n", " \n ",
           "\r", "\r\n", "\r\n\r\n", "\n \n", "\t\n\t", "\v\f", "\u00a0", "\u00a0\u00a0", "\u2003",
           "\u2009a\u200a", "\u3000", "\u2028", "\u2029", "\u1680", "\u200b", "\ufeff", "\ufeffa"]
_AROUND = [f"{before}word{after}" for before in ("", " ", "  ", "\n", "\t", "\u00a0")
           for after in ("", " ", "   ", "\n", " \n", ".")]
_DIGITS = ["0", "7", "12", "123", "1234", "12345", "123456789", "00012", "3.14159", ".5", "1.",
           "-1", "- 1", "+1", "1,000,000", "1_000", "1e-7", "0x1F", "2**10", "7 + 8 = 15", "7+8=15",
           "a1b22c333", "x1 x22", "1 234 567", "10:45:30", "2026-11-22", "½", "x²", "Ⅷ", "٣٤٥",
           "１２３", "१२३", "1st 2nd 3rd", "v1.2.3-rc4", "(555) 123-4567", "$1,234.56", "50%", "1/3"]
_LETTERS = ["don't", "DON'T", "I'll we've they'Re", "it's 'quoted'", "o'clock", "rock'n'roll",
            "’tis", "naïve café", "NAÏVE", "Straße ẞ ß", "ſ", "İstanbul ı", "ﬁ ﬂ", "œuvre Æ", "Dž",
            "ŉ", "e\u0301 a\u0301\u0323", "\u00e9 vs e\u0301", "n\u0303", "\u0301", "Ω Ω", "Å Å",
            "ﷺ", "camelCase", "snake_case", "kebab-case", "SCREAMING_CASE", "HTTPServer2",
            "aaaaaaaaaaaa", "supercalifragilisticexpialidocious", "xyzzyqwrtpsdf", "A.B.C.",
            "Mr. O’Neil", "a", "A"]
_SCRIPTS = ["日本語のテキスト", "你好，世界！", "한국어 문장", "Привет, мир", "Γειά σου", "שלום עולם", "مرحبا بالعالم",
            "नमस्ते दुनिया", "สวัสดีชาวโลก", "வணக்கம்", "ጤና ይስጥልኝ", "ბარამბა", "བོད་སྐད", "ᚠᚢᚦ",
            "𐍈", "𝒳𝓎𝔷", "𓀀𓁐", "日本 語", "中文English混合123", "Tiếng Việt", "e̸̢͝v̶i̴l̷",
            "\u202eright to left\u202c", "\u0600", "꙰"]
_EMOJI = ["🙂", "🙂🙂", "👩\u200d👧", "👨\u200d👩\u200d👧\u200d👦", "👍🏽", "🇩🇪🇫🇷", "❤️ ❤", "☺", "1️⃣", "🏴‍☠️",
          "text🙂text", " 🙂 "]
_SYMBOLS = ["!", "!!!", "?!?!", "...", "…", "—", "--", "---", "-----", "==", "===", "!=", "->",
            "=>", "<-", "<=>", "::", "//", "/* c */", "# h", "## h", "```", "~~", "**b**", "__i__",
            "`c`", "[x](y)", "{{a}}", "${b}", "%d %s", "\\n", "\\", "\\\\", "a\\b", "'", "\"", "''",
            "„q“", "«q»", "•", "·", "†", "©®™", "°C", "€£¥₿", "→⇒∀∃∈∑∫√∞", "≤≥≠≈", "±", "×÷", "¬",
            "|", "||", "&&", "&amp;", "@user", "#tag", "a@b.co", "https://x.org/a?b=c&d=%20#e",
            "C:\\dir\\f.txt"]
_CODE = ["def f(x):\n    return x**2\n", "if (a&&b){c[0]++;}", "\tfor i in range(10):\n\t\tpass",
         "<div class=\"a\">b</div>", "{\"k\": [1, 2.5, null, true]}",
         "SELECT * FROM t WHERE a='b';", "x = y if z else w  # c", "int main() { return 0; }",
         "a->b.c::d<e>()", "λx.x+1", "@dec\nclass A: ...", "\\boxed{\\frac{1}{2}}",
         "$\\sqrt{x^2+1}$", "\\begin{align}\n a &= b \\\\\n\\end{align}", "x_{i}^{2}",
         "\\(a\\) \\[b\\]", "1 + 2 * (3 - 4) / 5", "3x^2 + 2x - 1 = 0"]
_SPECIAL = ["<|im_start|>user\nhi<|im_end|>", "<|im_start|>", "<|im_end", "<|im_end|><|im_end|>",
            " <|im_end|> ", "<|endoftext|>", "<s> </s><unk>", "<s>", "</s>", "<bos>", "<eos>",
            "<pad>", "<start_of_turn>user\nhi<end_of_turn>\n", "<start_of_turn", " <end_of_turn> ",
            "<mask>", "<unused0>", "[INST] a [/INST]", "<think>a</think>", "<answer>12</answer>",
            "<0x0A>", "<0xFF>", "\u2581", "\u2581a \u2581", "Ġ Ċ", "<b>x</b>", "<table><tr><td>"]
_BYTES = ["\x00", "\x00\x07", "\x1b[0m", "\x7f", "\x80", "\x85", "\u00ad", "\u200e", "\u200d",
          "\ufffd", "\ufffe", "\ue000", "\U000f0000", "\U0010ffff", "a\x00b", "\x01\x02\x03"]
_LONG = ["word " * 30, "a" * 100, " " * 50, "\n" * 20, "ab" * 60, "🙂" * 20, "1" * 40, "=" * 64,
         "The quick brown fox jumps over the lazy dog. " * 4, "汉" * 30]

TEXTS = list(dict.fromkeys([
    *_SPACES, *_AROUND, *_DIGITS, *_LETTERS, *_SCRIPTS, *_EMOJI, *_SYMBOLS, *_CODE, *_SPECIAL,
    *_BYTES, *_LONG]))
