r"""Makes a file name that is harmless on every system out of what a stranger called a file.

It has no path, no `/` and no `\`, no leading dot or hyphen, no trailing dot or space, no control character and nothing
that turns the writing round; it is no device of Windows (`CON`, `nul.txt`, `COM¹`) and at most 140 bytes of UTF-8 in
Unicode's form C. A safe name stays as it is. That the file does not exist yet is not for this module to say.
"""

from __future__ import annotations

import mimetypes
import re
import unicodedata

# Below the 143 bytes that an encrypting file system (eCryptfs) leaves of 255.
LONGEST = 140
_EXTENSION_BYTES = 20

_PATH = re.compile(r"\s*(?:[A-Za-z]:[\\/]|[\\/~]|\.{1,2}[\\/])")
# Windows takes none of these; on the others a slash and a NUL are the only ones.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
# With the superscript digits, which Windows takes for digits here; with blanks before the dot, which it does not see.
_DEVICE = re.compile(
    r"(?:CON|PRN|AUX|NUL|COM[0-9¹²³]|LPT[0-9¹²³]|CONIN\$|CONOUT\$|CLOCK\$)[ ]*(?:\..*)?",
    re.IGNORECASE | re.DOTALL,
)
# Controls, formats such as bidirectional overrides, surrogates, private and unassigned: Apple's systems refuse the last.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn"}
_BLANK = {"Zs", "Zl", "Zp"}
# Tables of this machine are not asked: the same message has the same names everywhere.
_EXTENSIONS = {
    "application/ics": ".ics",
    "application/ms-tnef": ".dat",
    "audio/mpeg": ".mp3",
    "image/jpeg": ".jpg",
    "image/tiff": ".tif",
    "image/webp": ".webp",
    "message/rfc822": ".eml",
    "message/global": ".eml",
    "text/calendar": ".ics",
    "text/html": ".html",
    "text/plain": ".txt",
}


def safe_name(name: str | None, *, type: str, part_id: str | None = None) -> str:  # noqa: A002  (a part's own word)
    """Return a safe name made of `name`, or of the part's number and type where nothing of it is left."""
    safe = _safe(name or "")
    if not safe:
        safe = _safe(f"part-{part_id or '1'}{_extension(type)}")
    return safe


def numbered(safe: str, number: int) -> str:
    """Return a safe name with a number before its extension, as `name (2).pdf`, just as short."""
    stem, extension = _split(safe)
    return _short(stem, f" ({number}){extension}")


def key(name: str) -> str:
    """Return what two names have in common that one folder cannot hold both of, on a Mac or on Windows."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _safe(name: str) -> str:
    if _PATH.match(name):
        name = re.split(r"[\\/]", name.rstrip("\\/ "))[-1]
    name = unicodedata.normalize("NFC", "".join(map(_seen, name)))
    name = _trimmed(_FORBIDDEN.sub("_", re.sub(" {2,}", " ", name)))
    if _DEVICE.fullmatch(name):
        name = f"_{name}"
    return _short(*_split(name)) if len(name.encode()) > LONGEST else name


def _extension(type_: str) -> str:
    known = _EXTENSIONS.get(type_) or mimetypes.MimeTypes(filenames=()).guess_extension(type_)
    return known or (".txt" if type_.startswith(("text/", "message/")) else ".bin")


def _seen(character: str) -> str:
    category = unicodedata.category(character)
    if category in _BLANK or character in "\t\n\r":
        return " "
    return "" if category in _UNSEEN else character


def _trimmed(name: str) -> str:
    return name.lstrip(" .-~").rstrip(" .")


def _split(name: str) -> tuple[str, str]:
    """Part the extension off, with its dot; a very long one is none."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > _EXTENSION_BYTES:
        return name, ""
    return stem, dot + extension


def _short(stem: str, end: str) -> str:
    room = LONGEST - len(end.encode())
    return _trimmed(stem.encode()[:room].decode(errors="ignore")) + end
