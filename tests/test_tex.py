"""The small TeX subset of claims."""

import doctest

import pytest

from nclib import _tex, cards
from nclib._tex import tex_to_html, tex_to_text


def test_examples():
    for module in (_tex, cards):
        assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        (r"$\lambda_W$ and $\sigma^{1.5}$", "λ_W and σ^(1.5)"),
        (r"$\|G\|_2 \le \sqrt{\lambda_W\lambda_H}$", "‖G‖_2 ≤ √(λ_Wλ_H)"),
        (r"$K-1$", "K−1"),
        (r"$\frac{r(r-1)}{2}$", "(r(r−1))/2"),
        (r"$\bar{x}$", "x\u0304"),
        (r"$\mathrm{rank}(M_L) = r$", "rank(M_L) = r"),
        ("no formula, 5 < 6", "no formula, 5 < 6"),
    ],
)
def test_plain(tex, text):
    assert tex_to_text(tex) == text


def test_html():
    html = tex_to_html(r"a < b: $W^{\top}\bar{h}_k < 1$")
    assert html == (
        'a &lt; b: <span class="nclib-math"><i>W</i><sup>⊤</sup><i>h\u0304</i><sub><i>k</i></sub>'
        " &lt; 1</span>"
    )


@pytest.mark.parametrize("bad", [r"$\foo$", "$a", "$x_$", "$x_{a$", "$a}$", r"$\sqrt$",
                                 r"$\mathbf x$"])
def test_refused(bad):
    with pytest.raises(ValueError):
        tex_to_html(bad)
