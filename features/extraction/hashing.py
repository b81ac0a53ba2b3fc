"""The content hash of a file, by which changed images and duplicates are known."""

from __future__ import annotations

import hashlib


def content_hash(path: str) -> bytes:
    """SHA-256, 32 bytes; zeros for a file that cannot be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError:
        return bytes(32)
