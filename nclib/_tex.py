"""A small subset of TeX as HTML or plain text, so that claims read the same everywhere.

Cards, reports and the ledger are shown in books, notebooks and Colab, with and without MathJax.
They hold short formulas; anything outside the subset is refused when the claim is made.
"""

from __future__ import annotations

import html
import re

_SYMBOLS = {
    **dict(zip(
        "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi pi rho "
        "sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi "
        "Omega ell".split(),
        "αβγδεεζηθκλμνξπρστφφχψωΓΔΘΛΞΠΣΦΨΩℓ", strict=True,
    )),
    "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "approx": "≈",
    "equiv": "≡", "propto": "∝", "to": "→", "mapsto": "↦", "times": "×", "cdot": "·", "pm": "±",
    "mp": "∓", "in": "∈", "notin": "∉", "infty": "∞", "top": "⊤", "perp": "⊥", "partial": "∂",
    "nabla": "∇", "sum": "∑", "prod": "∏", "int": "∫", "ldots": "…", "dots": "…", "cdots": "⋯",
    "odot": "⊙", "otimes": "⊗", "oplus": "⊕", "langle": "⟨", "rangle": "⟩", "lVert": "‖",
    "rVert": "‖", "Vert": "‖", "lvert": "|", "rvert": "|", "|": "‖", "ll": "≪", "gg": "≫",
    "subset": "⊂", "cup": "∪", "cap": "∩", "circ": "∘", "star": "⋆", "ast": "∗", "dagger": "†",
    "sim": "∼", "quad": " ", ",": " ", ";": " ", " ": " ", "!": "", "%": "%", "{": "{",
    "}": "}", "&": "&", "_": "_", "#": "#", "left": "", "right": "", "mid": "|", "prime": "′",
}
_WORDS = {"log", "exp", "max", "min", "tr", "det", "rank", "sin", "cos", "tan", "arg", "sup",
          "inf", "lim", "dim", "ker", "diag", "softmax", "Pr"}
_ACCENTS = {"bar": "\u0304", "hat": "\u0302", "tilde": "\u0303", "dot": "\u0307",
            "ddot": "\u0308", "vec": "\u20d7", "overline": "\u0304", "widehat": "\u0302"}
_UPRIGHT = {"mathrm", "text", "operatorname", "mathsf"}
_BOLD = {"mathbf", "boldsymbol", "bm"}
_BLACKBOARD = str.maketrans("CENPRSZ", "ℂ𝔼ℕℙℝ𝕊ℤ")
_CALLIGRAPHIC = str.maketrans("BEFHILMRDNOPST", "ℬℰℱℋℐℒℳℛ𝒟𝒩𝒪𝒫𝒮𝒯")
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[{}^_]|\s+|\d+(?:\.\d+)?|.", re.DOTALL)
_FORMULA = re.compile(r"\$([^$]*)\$")


class _Parser:
    def __init__(self, formula: str, tags: bool):
        self.formula, self.tags = formula, tags
        self.tokens = _TOKEN.findall(formula)
        self.at = 0

    def fail(self, why: str):
        raise ValueError(f"formula ${self.formula}$: {why}")

    def wrap(self, tag: str, body: str) -> str:
        return f"<{tag}>{body}</{tag}>" if self.tags else body

    def sequence(self, closing: bool) -> str:
        parts = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if token == "}":
                if not closing:
                    self.fail("a closing brace without an opening one")
                self.at += 1
                return "".join(parts)
            parts.append(self.item())
        if closing:
            self.fail("a brace is not closed")
        return "".join(parts)

    def argument(self) -> str:
        while self.at < len(self.tokens) and self.tokens[self.at].isspace():
            self.at += 1
        if self.at >= len(self.tokens):
            self.fail("an argument is missing")
        return self.item()

    def raw(self) -> str:
        """The letters of a braced argument, as they stand."""
        if self.at >= len(self.tokens) or self.tokens[self.at] != "{":
            self.fail("expected {…}")
        end = self.tokens.index("}", self.at) if "}" in self.tokens[self.at:] else -1
        if end < 0:
            self.fail("a brace is not closed")
        text = "".join(self.tokens[self.at + 1:end])
        self.at = end + 1
        return text

    def script(self, tag: str, sign: str) -> str:
        body = self.argument()
        if self.tags:
            return f"<{tag}>{body}</{tag}>"
        return sign + (body if len(body) == 1 else f"({body})")

    def item(self) -> str:
        token = self.tokens[self.at]
        self.at += 1
        if token == "{":
            return self.sequence(closing=True)
        if token in "^_":
            return self.script("sup" if token == "^" else "sub", token)
        if token.isspace():
            return ""
        if not token.startswith("\\"):
            if token == "'":
                return "′"
            if token == "-":
                return "−"
            if token in "=<>+∈×·":
                return f" {html.escape(token)} " if self.tags else f" {token} "
            shown = html.escape(token) if self.tags else token
            return self.wrap("i", shown) if token.isalpha() and token.isascii() else shown
        return self.command(token[1:])

    def command(self, name: str) -> str:
        if name in _WORDS:
            return f"{name}\u2009"
        if name in _SYMBOLS:
            shown = _SYMBOLS[name]
            if shown in "≤≥≠≈≡∝→∈≪≫∼":
                return f" {shown} " if shown else ""
            return shown
        if name == "sqrt":
            body = self.argument()
            plain = re.sub("<[^>]*>", "", body)
            return f"√{body}" if len(plain) == 1 or plain.isdigit() else f"√({body})"
        if name in ("frac", "tfrac", "dfrac"):
            return "/".join(self.grouped(self.argument()) for _ in range(2))
        if name in _UPRIGHT:
            return html.escape(self.raw()) if self.tags else self.raw()
        if name in _BOLD:
            return self.wrap("b", html.escape(self.raw()) if self.tags else self.raw())
        if name == "mathbb":
            return self.raw().translate(_BLACKBOARD)
        if name == "mathcal":
            return self.raw().translate(_CALLIGRAPHIC)
        if name in _ACCENTS:
            body = self.argument()
            place = body.find("</") if "</" in body else len(body)
            return body[:place] + _ACCENTS[name] + body[place:]
        self.fail(f"\\{name} is outside the small subset that claims may use")

    @staticmethod
    def grouped(body: str) -> str:
        plain = re.sub("<[^>]*>", "", body).strip()
        return f"({body})" if re.search(r"[+−\s/]", plain) else body


def _convert(text: str, tags: bool) -> str:
    outside = html.escape if tags else str
    parts, last = [], 0
    for found in _FORMULA.finditer(text):
        formula = _Parser(found[1], tags).sequence(closing=False)
        formula = re.sub(" {2,}", " ", formula).strip()
        if tags:
            formula = f'<span class="nclib-math">{formula}</span>'
        parts += [outside(text[last:found.start()]), formula]
        last = found.end()
    rest = text[last:]
    if "$" in rest:
        raise ValueError(f"a lone $ in {text!r}")
    return "".join([*parts, outside(rest)])


def tex_to_html(text: str) -> str:
    r"""Text with ``$…$`` formulas as HTML that needs no MathJax.

    >>> tex_to_html(r"length $\lambda_W^{1/2} \le 1$")
    'length <span class="nclib-math">λ<sub><i>W</i></sub><sup>1/2</sup> ≤ 1</span>'

    Raises:
        ValueError: a formula outside the subset, unbalanced braces, a lone dollar sign.
    """
    return _convert(text, tags=True)


def tex_to_text(text: str) -> str:
    r"""Text with ``$…$`` formulas as plain text with Unicode symbols.

    >>> tex_to_text(r"$\sigma^{1.5}$ and $\sqrt{nK}$")
    'σ^(1.5) and √(nK)'

    Raises:
        ValueError: as in :func:`tex_to_html`.
    """
    return _convert(text, tags=False)
