"""How much of one message the parser is ready to read, so that no message costs more than its bytes.

Each limit lies far beyond honest mail. What lies beyond a limit is not read but stays in the raw message, which
is delivered all the same, with a defect that names the limit.
"""

from __future__ import annotations

# The headers of a message or of one part, together; then their number; then one value.
HEADER_BYTES = 1 << 20
HEADER_COUNT = 5_000
VALUE_BYTES = 512 << 10

# In one header: addresses, message ids, encoded words (RFC 2047), parameters (RFC 2231).
ADDRESSES = 10_000
MESSAGE_IDS = 1_000
ENCODED_WORDS = 2_000
PARAMETERS = 200

# Parts in all, multiparts within multiparts, and lines that look like a delimiter and are none.
PARTS = 1_000
DEPTH = 50
FALSE_DELIMITERS = 100_000

# Decoded text in `bodyValues`, all parts together, in bytes; beyond it a value is truncated.
BODY_VALUE_BYTES = 2 << 20

# What a charset is found out from, in bytes.
CHARSET_SAMPLE_BYTES = 4 << 10

# Characters of `preview` (RFC 8621 section 4.1.4), and how much HTML is looked through for them.
PREVIEW_CHARACTERS = 256
PREVIEW_HTML_CHARACTERS = 128 << 10

# Entries in the list of defects.
DEFECTS = 100
