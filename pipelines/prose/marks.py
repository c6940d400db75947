"""What mail programs tell by attributes of HTML: what is hidden, what is quoted, and what is a signature.

No standard says so; each mark stands beside the program that writes it. A mark in a language is worth nothing here: those
are in `pipelines.prose.wording`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Mark = Literal["", "quote", "attribution", "signature"]

# Elements whose content browsers do not show as text.
HIDDEN = frozenset(
    {
        "script",
        "style",
        "title",
        "template",
        "iframe",
        "noembed",
        "noframes",
        "select",
        "datalist",
        "object",
        "video",
        "audio",
        "svg",
        "math",
        "canvas",
    }
)
# What holds a message that is answered: its words of introduction, and mostly a blockquote.
_BOXES = frozenset(
    {
        "gmail_quote",  # Gmail, and many after it
        "gmail_extra",
        "protonmail_quote",  # Proton Mail
        "tutanota_quote",  # Tuta
        "yahoo_quoted",  # Yahoo
        "zmail_extra",  # Zoho
        "ms-outlook-mobile-reference-message",  # Outlook for iOS and Android
        "moz-forward-container",  # Thunderbird
        "replied-message",  # Front
        "front-blockquote",
        "hey_quote",
    }
)
# What begins the answered message, without an end: all that follows is quoted.
_CUTS = frozenset(
    {
        "divrplyfwdmsg",  # Outlook on the web
        "x_divrplyfwdmsg",
        "mail-editor-reference-message-container",  # Outlook, new
        "olk_src_body_section",  # Outlook for Mac
        "zwchr",  # Zimbra
        "isreplycontent",  # NetEase
    }
)
_ATTRIBUTIONS = frozenset({"gmail_attr", "moz-cite-prefix", "moz-email-headers-table", "yahoo-quoted-begin"})
_SIGNATURES = frozenset(
    {
        "gmail_signature",  # Gmail
        "moz-signature",  # Thunderbird
        "ms-outlook-mobile-signature",  # Outlook for iOS and Android
        "signature",  # Outlook on the web
        "x_signature",
        "protonmail_signature_block",  # Proton Mail
        "applemailsignature",  # Apple Mail
        "yahoo-signature",
    }
)
# Word puts this line above the header block of the message that is answered, in every language.
_WORDS_LINE = re.compile(r"border-top:\s*solid\s+#[0-9a-f]{6}\s+1\.0pt;\s*padding:\s*3\.0pt", re.IGNORECASE)
# A font of no size is no sign: generators of newsletters put it around what they show.
_HIDING_STYLE = re.compile(
    r"(?:^|[;\s])(?:display\s*:\s*none|visibility\s*:\s*hidden|(?:max-height\s*:\s*0(?:px)?|opacity\s*:\s*0)\s*(?:!important\s*)?(?:;|$))",
    re.IGNORECASE,
)
_LONGEST_STYLE = 2000


def is_hidden(attributes: Mapping[str, str]) -> bool:
    """Whether browsers show nothing of an element, such as the line that only lists of messages show."""
    if "hidden" in attributes:
        return True
    return _HIDING_STYLE.search(attributes.get("style", "")[:_LONGEST_STYLE]) is not None


def is_box(attributes: Mapping[str, str]) -> bool:
    """Whether an element holds the answered message together with the words that introduce it."""
    return not _BOXES.isdisjoint(_words(attributes))


def is_cut(attributes: Mapping[str, str]) -> bool:
    """Whether the answered message begins with an element and goes on behind it."""
    return (
        not _CUTS.isdisjoint(_words(attributes))
        or _WORDS_LINE.search(attributes.get("style", "")[:_LONGEST_STYLE]) is not None
    )


def is_quote(attributes: Mapping[str, str]) -> bool:
    """Whether a blockquote quotes; Gmail and Outlook indent with one that has no border."""
    style = attributes.get("style", "")[:_LONGEST_STYLE].lower().replace(" ", "")
    return not ("border:none" in style and "class" not in attributes and "type" not in attributes)


def mark_of(attributes: Mapping[str, str]) -> Mark:
    """Return what the content of an element is, as far as the program that wrote it says so."""
    words = _words(attributes)
    if not _SIGNATURES.isdisjoint(words):
        return "signature"
    return "" if _ATTRIBUTIONS.isdisjoint(words) else "attribution"


def _words(attributes: Mapping[str, str]) -> list[str]:
    """Return the classes and the id of an element in lower case, and Zimbra's own marker."""
    text = f"{attributes.get('class', '')} {attributes.get('id', '')}"[:500].lower()
    marker = attributes.get("data-marker", "")
    return text.split() if not marker else [*text.split(), "zwchr" if "DIVIDER" in marker else ""]
