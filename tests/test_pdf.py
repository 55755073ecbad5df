"""The print of the whole book: addresses, count of pages, the link on the landing page."""

from __future__ import annotations

import pytest

from reproduce import pdf
from reproduce.layout import BookError, Layout

KNOWN = {"intro", "chapters/a", "chapters/b", "pages/ledger"}


@pytest.mark.parametrize(
    ("tag", "shown"),
    [
        ('<a href="#x">', '<a href="#chapters-a--x">'),
        ('<a class="c" href="b.html">', '<a class="c" href="#chapters-b">'),
        ('<a href="../pages/ledger.html#a--x">', '<a href="#pages-ledger--a--x">'),
        ('<a href="https://arxiv.org">', '<a href="https://arxiv.org">'),
        ('<a href="../_static/ledger.json">', '<a href="https://book/_static/ledger.json">'),
        ('<img src="../_images/p.png">', '<img src="_images/p.png">'),
        ('<img src="data:image/png;base64,AA">', '<img src="data:image/png;base64,AA">'),
        ('<p id="x">a id="y"</p>', '<p id="chapters-a--x">a id="y"</p>'),
        ('<i aria-describedby="t">', '<i aria-describedby="chapters-a--t">'),
    ],
)
def test_addresses_stay_inside_the_document(tag, shown):
    assert pdf.rewritten(tag, "chapters/a", KNOWN, "https://book/") == shown


def test_pages_are_counted():
    assert pdf.count(b"<< /Type /Pages /Count 2 >> << /Type /Page >> <</Type/Page/X 1>>") == 2


def test_the_landing_page_names_the_pdf(tmp_path, monkeypatch, capsys):
    layout = Layout(tmp_path)
    with pytest.raises(BookError, match="make html"):
        pdf.write(layout)
    folder = layout.build / "html"
    folder.mkdir(parents=True)
    (folder / "intro.html").write_text('<p>Read. <span class="nclib-pdf"></span></p>')
    monkeypatch.setattr(pdf, "whole", lambda layout, folder: "all")

    def make(folder, document, target):
        target.write_bytes(b"%PDF << /Type /Page >>" + document.encode())

    for _ in range(2):  # a second print replaces the link of the first
        pdf.write(layout, make)
        text = (folder / "intro.html").read_text()
        assert text.count(f'<a href="{pdf.NAME}">one PDF</a> (1 pages, 0 MB)') == 1
    assert "1 pages" in capsys.readouterr().out


def test_no_browser_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(pdf, "chromium", lambda: None)
    with pytest.raises(BookError, match="CHROMIUM"):
        pdf.printed(tmp_path, "<p>", tmp_path / "a.pdf")
