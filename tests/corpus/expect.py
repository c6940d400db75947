"""Writes the expected JSON of corpus messages from what the parser gives now.

    python tests/corpus/expect.py NAME...

For a new message, or after a change that is meant to change results: read every line of the difference before
it is kept, since the file then says what is right.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from pipelines import parse

HERE = Path(__file__).parent


def main() -> None:
    for name in sys.argv[1:]:
        values = parse((HERE / f"{name}.eml").read_bytes()).to_dict()
        (HERE / f"{name}.json").write_bytes(
            orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        )


if __name__ == "__main__":
    main()
