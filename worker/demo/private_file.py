"""Creates files that hold secrets, readable by their owner only from the first byte on."""

from __future__ import annotations

import os
from pathlib import Path


def create_private(path: Path, content: bytes) -> None:
    """Write `content` into a new file of mode 0600.

    Raises:
        FileExistsError: The file is there already; it is not touched.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
