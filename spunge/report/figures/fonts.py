"""Fonts for the characters that the figures' own font lacks: attributes may be in any script, or be emoji."""

import unicodedata
from collections.abc import Iterable
from contextlib import suppress

from matplotlib import font_manager
from matplotlib.ft2font import FaceFlags, FT2Font

REGULAR = font_manager.weight_dict["regular"]
PREFERRED = "Noto"  # drawn to stand beside each other, script by script


def lacking(family: str, texts: Iterable[str]) -> set[str]:
    """Return the visible characters of `texts` that a family of fonts has no glyph for."""
    font = FT2Font(font_manager.findfont(family))
    characters = {character for text in set(texts) for character in text}
    return {
        character
        for character in characters
        if not font.get_char_index(ord(character)) and not unicodedata.category(character).startswith(("Cc", "Cf", "Z"))
    }


def fallbacks(characters: Iterable[str]) -> tuple[list[str], set[str]]:
    """Return installed families that have the characters, as few as it takes, and the characters that none has.

    Fonts in colour are left out: matplotlib draws no colours of a font, and its PDF can't embed the bitmaps.
    """
    wanted, families = set(characters), []
    manager = font_manager.fontManager
    # matplotlib made its list when it first ran here; a font may have been installed since.
    for path in sorted({*font_manager.findSystemFonts()} - {entry.fname for entry in manager.ttflist}):
        with suppress(Exception):  # no font that matplotlib can read
            manager.addfont(path)
    for entry in sorted(manager.ttflist, key=_rank):
        if not wanted:
            break
        if "lastresort" in entry.name.replace(" ", "").lower():  # its glyphs are the boxes for what is missing
            continue
        with suppress(OSError, RuntimeError):  # gone since, or cut
            font = FT2Font(entry.fname, face_index=entry.index)
            covered = {character for character in wanted if font.get_char_index(ord(character))}
            if covered and FaceFlags.COLOR not in font.face_flags:
                families.append(entry.name)
                wanted -= covered
    return families, wanted


def scripts(characters: Iterable[str]) -> list[str]:
    """Return the names of the scripts that characters belong to, and `emoji and symbols` for all that are of none."""
    names = set()
    for character in characters:
        script = unicodedata.name(character, "UNNAMED").split()[0]
        symbol = unicodedata.category(character).startswith("S")
        names.add("emoji and symbols" if symbol else script if script == "CJK" else script.capitalize())
    return sorted(names)


def _rank(entry: font_manager.FontEntry) -> tuple:
    weight = font_manager.weight_dict.get(entry.weight, entry.weight)
    other = not entry.name.startswith(PREFERRED)
    return entry.style != "normal", other, abs(weight - REGULAR), entry.name, entry.fname, entry.index
