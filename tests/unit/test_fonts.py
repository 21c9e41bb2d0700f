"""Attributes in scripts that the figures' font lacks: a font that has them where there is one, else one line."""

import io
import warnings

import pytest
from evaluations_example import example
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from scripts import figure as figure_script
from spunge.report.figures import fonts, style

NOBODYS = "\u0378\u0379"  # assigned to no script, so in no font
RARE = "\U0001fbaf"  # of a script that Noto itself has no font for


def make_font(path, family, character, colour=False):
    """A font of one glyph, a square."""
    pen = TTGlyphPen(None)
    for number, corner in enumerate(((0, 0), (0, 700), (700, 700), (700, 0))):
        (pen.lineTo if number else pen.moveTo)(corner)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square"})
    builder.setupGlyf({".notdef": square, "square": square})
    builder.setupHorizontalMetrics({".notdef": (800, 0), "square": (800, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular", "psName": family.replace(" ", "")})
    builder.setupOS2()
    builder.setupPost()
    if colour:
        builder.setupCOLR({"square": [("square", 0)]})
        builder.setupCPAL([[(1.0, 0.0, 0.0, 1.0)]])
    builder.save(path)
    font_manager.fontManager.addfont(path)


@pytest.fixture
def installed(tmp_path):
    """Fonts in matplotlib's list that other tests don't see."""
    before = list(font_manager.fontManager.ttflist)
    make_font(tmp_path / "colour.ttf", "Noto A Colour", RARE, colour=True)
    make_font(tmp_path / "plain.ttf", "Noto B Plain", RARE)
    make_font(tmp_path / "other.ttf", "Noto C Other", "\u0378")
    yield
    font_manager.fontManager.ttflist = before
    font_manager.fontManager._findfont_cached.cache_clear()


def test_lacking_are_the_visible_characters_without_a_glyph():
    assert fonts.lacking("DejaVu Sans", ["Côte d'Ivoire λ \u2191\u200d\ufe0f", f"\t{NOBODYS}", NOBODYS]) == set(NOBODYS)


def test_characters_are_named_by_their_scripts():
    assert fonts.scripts("漢字\ud55c\U0001f30d\U0001f3fc\u0939") == ["CJK", "Devanagari", "Hangul", "emoji and symbols"]


def test_a_font_is_taken_for_what_it_has_and_none_in_colour(installed):
    families, missing = fonts.fallbacks([RARE, *NOBODYS])
    assert families == ["Noto B Plain", "Noto C Other"]
    assert missing == {"\u0379"}


def test_a_fallback_is_drawn_and_embedded_without_a_word(installed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with style.writing([f"Asia {RARE}"]) as sentence, style.style():
            figure = Figure()
            figure.text(0.5, 0.5, f"Asia {RARE}", weight="bold")
            written = io.BytesIO()
            figure.savefig(written, format="pdf")
    assert sentence == ""
    assert b"NotoBPlain" in written.getvalue()
    assert style.STYLE["font.family"] == "DejaVu Sans"


def test_what_no_font_has_is_one_line(tmp_path, capfd):
    example(forget=(f"a {NOBODYS}", NOBODYS[::-1]), seeds=("0",)).to_csv(tmp_path / "evaluations.csv", index=False)
    arguments = ["--figure", "radar", "--evaluations", str(tmp_path / "evaluations.csv")]
    arguments = [*arguments, "--pdf", str(tmp_path / "figure.pdf"), "--png", str(tmp_path / "figure.png")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figure_script.main(arguments) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("2 characters are drawn as boxes, since no installed font has them (Unnamed): install")


def test_plain_latin_looks_for_no_font():
    with style.writing(["Côte d'Ivoire", "Ελλάδα", "Україна"]) as sentence:
        assert (sentence, style.STYLE["font.family"]) == ("", "DejaVu Sans")
