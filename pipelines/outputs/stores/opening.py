"""Makes the store that a URL names."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipelines.outputs.stores import ObjectStore
from pipelines.outputs.stores.folder import Folder
from pipelines.outputs.stores.options import StoreOptions
from pipelines.outputs.stores.remote import Remote


def open_store(options: StoreOptions, *, clock: Callable[[], float] = time.time) -> ObjectStore:
    """Make the store that the options name; nothing is asked of a remote one. `clock` is in Unix seconds.

    Raises:
        OSError: CA_FILE cannot be read, a folder cannot be made, or the options do not make a store.
    """
    if options.url.startswith("file:"):
        return Folder(Path(unquote(urlsplit(options.url).path)), clock=clock)
    return Remote(options)
