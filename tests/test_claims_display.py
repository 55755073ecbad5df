"""A claim that ends a cell leaves no output, with or without a closing semicolon."""

from IPython.core.interactiveshell import InteractiveShell

import nclib


def test_a_claim_shows_nothing():
    nclib.setup(preset="cpu")
    claim = nclib.Claims("toy").check(
        "a", "One is one.", source="this test", kind="theory", measured=1, equals=1
    )
    data, metadata = InteractiveShell.instance().display_formatter.format(claim)
    assert data == {} and metadata == {}
