"""Names from data: when two are the same, which are taken, and how they become path components."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
DIGITS = 10
# A plain value that looks as if it carried a hash gets another hash, so that it can't equal another value's slug.
HASHED = re.compile(rf".*-[0-9a-f]{{{DIGITS}}}")
KEPT = 40
# Scripts that put no space between words: Thai, Lao, Burmese, Khmer, kana and Chinese characters.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
INVISIBLE = "\u00ad\u200b\u2060\ufeff"  # soft hyphen, zero-width space, word joiner, byte order mark
ACCENTED = ("LATIN", "GREEK", "CYRILLIC")  # elsewhere marks are vowels, and tell words apart


def folded(text: str) -> str:
    """Return what two spellings of a name or text have in common: case, white space, Unicode form, INVISIBLE aside."""
    text = text.translate(dict.fromkeys(map(ord, INVISIBLE)))
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def unaccented(text: str) -> str:
    """Return a text without the accents of ACCENTED letters, in compatible Unicode form."""
    kept, letter = [], " "
    for character in unicodedata.normalize("NFKD", text):
        if not unicodedata.combining(character):
            letter = character
        elif unicodedata.name(letter, "").startswith(ACCENTED):
            continue
        kept.append(character)
    return unicodedata.normalize("NFKC", "".join(kept))


def words(text: str) -> list[str]:
    """Return a text's words, folded: letters with their marks, and digits. In UNSPACED scripts a character is one."""
    found, word = [], ""
    for character in f"{folded(text)} ":
        unspaced = re.match(f"[{UNSPACED}]", character)
        if not unspaced and (character.isalnum() or (word and unicodedata.category(character).startswith("M"))):
            word += character
            continue
        found += [part for part in (word, character if unspaced else "") if part]
        word = ""
    return found


def slug(value: str) -> str:
    """Return a safe path component (`[A-Za-z0-9][A-Za-z0-9_-]*`, at most 64 characters) for any string.

    A plain value stays as it is. Anything else becomes its folded ASCII part plus a hash of the original:
    `Côte d'Ivoire` → `Cote-d-Ivoire-…`, so different values get different names. Values that differ only by case clash
    on some file systems: `slugs` sees to those.
    """
    if PLAIN.fullmatch(value) and not HASHED.fullmatch(value):
        return value
    return _with_hash(value)


def slugs(values: Iterable[str]) -> dict[str, str]:
    """Return {value: safe path component}; no two names are equal, not even case aside, whatever the values' order.

    As `slug`, and values that differ only by case each get the hash.
    """
    values = list(dict.fromkeys(values))
    spellings = Counter(value.casefold() for value in values)
    return {value: _with_hash(value) if spellings[value.casefold()] > 1 else slug(value) for value in values}


def _with_hash(value: str) -> str:
    folded = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", folded).strip("-_")[:KEPT].rstrip("-_") or "name"
    # surrogatepass: file systems and JSON can hand over strings that aren't valid Unicode.
    return f"{readable}-{hashlib.sha256(value.encode('utf-8', 'surrogatepass')).hexdigest()[:DIGITS]}"
