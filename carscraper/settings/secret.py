"""Strings that are never printed."""

from __future__ import annotations

import json
import re
from typing import Self
from urllib.parse import quote, quote_plus


class Secret(str):
    """A string that shows itself as ``***`` wherever it is printed, formatted or logged.

    Scrapy prints overridden settings in clear; ``reveal()`` returns the value to the one who must send it.

    >>> key = Secret("abc")
    >>> print(key, repr(key), f"{key}", "%s" % key, key.reveal())
    *** '***' *** *** abc
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        """Wrap *value*; a secret of a secret is the same secret."""
        return super().__new__(cls, plain(value))

    def reveal(self) -> str:
        """Return the plain value."""
        return str.__str__(self)

    def spellings(self) -> set[str]:
        """Return the ways in which it is written: as it is, percent-encoded, and escaped within quotes."""
        plain = self.reveal()
        quoted = {quote(plain), quote(plain, safe=""), quote_plus(plain), repr(plain)[1:-1], json.dumps(plain)[1:-1]}
        return ({plain} | quoted) - {""}

    def redact(self, text: bytes) -> bytes:
        """Put ``***`` wherever *text* has the value, also percent-encoded.

        A value of less than 8 characters may be part of any number: it is not looked for inside longer words.

        >>> Secret("a/b-c-d-e").redact(b"?apikey=a%2Fb-c-d-e&page=2"), Secret("12").redact(b"?key=12&p=123")
        (b'?apikey=***&page=2', b'?key=***&p=123')
        """
        for spelling in self.spellings():
            found = re.escape(spelling.encode())
            if len(self.reveal()) < 8:
                found = rb"(?<![A-Za-z0-9])" + found + rb"(?![A-Za-z0-9])"
            text = re.sub(found, b"***", text, flags=re.IGNORECASE)
        return text

    def __str__(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return "'***'"

    def __format__(self, format_spec: str) -> str:
        return format("***", format_spec)


def plain(value: str) -> str:
    """Return *value* as it is, secret or not."""
    return value.reveal() if isinstance(value, Secret) else value
