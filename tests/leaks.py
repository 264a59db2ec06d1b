"""Finds what must be nowhere: a secret, or six characters in a row of it, however they are spelt."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus

_LENGTH = 6


def leaks(text: str, *secrets: str) -> list[str]:
    """Return which of *secrets* are in *text*, in full or in part."""
    lower = text.lower()
    return [secret for secret in secrets if any(spelt in lower for spelt in _spellings(secret))]


def _spellings(secret: str) -> set[str]:
    parts = {secret[start : start + _LENGTH] for start in range(len(secret) - _LENGTH + 1)}
    return {
        spelt.lower()
        for part in parts
        for spelt in (
            part,
            quote(part),
            quote(part, safe=""),
            quote_plus(part),
            repr(part)[1:-1],
            json.dumps(part)[1:-1],
        )
    }
