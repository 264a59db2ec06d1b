"""What an error of the database means: whose it is, what the database says, and what mends it."""

from __future__ import annotations

import re
import sqlite3
from enum import Enum, auto
from typing import Any

from sqlalchemy.exc import DataError, DBAPIError

from carscraper.db import models

UNIQUE_VIOLATION = "23505"
_NOT_NULL_VIOLATION = "23502"
RAISED = "P0001"
"""What a trigger's author raises, of a row most likely."""


class Fault(Enum):
    """Whose an error is."""

    ROW = auto()
    """Of the values that were to be written: the database takes others."""
    RACE = auto()
    """Of a transaction that was faster: the same again will do."""
    DATABASE = auto()
    """Of the database, whatever is written: it is away, or somebody has to see to it."""


# SQLSTATE classes 22 (data) and 23 (constraints), and a text too long for an index, which is a limit of the program.
_OF_ROWS = ("22", "23", "54000", RAISED)
# A sequence that has come to its end is in class 22.
_OF_NO_ROW = "2200H"
# Serialization failure, deadlock; and what another crawl inserted between our look and our insert.
_RACES = frozenset({"40001", "40P01", UNIQUE_VIOLATION})

_TABLES = "a table or column is not what this program made: restore it, or the database from a backup"
_VALUES = "it does not take these values"
_START = "start the database or correct the address"
_FIXES = {
    "08": _START,
    "22": _VALUES,
    "23": _VALUES,
    _NOT_NULL_VIOLATION: "run `scrapy database upgrade`, which gives a column id its numbers back; give another "
    "column its default back",
    UNIQUE_VIOLATION: "run `scrapy database upgrade`, which sets sequences that are behind their tables",
    "25006": "name the primary server, or switch default_transaction_read_only off; a fail-over ends by itself",
    "28": "correct user and password in DATABASE_URL",
    "28000": "correct user and database in DATABASE_URL, or let pg_hba.conf and the role have this connection "
    "(with another sslmode, if it asks for encryption)",
    "3D000": "make or restore the database, or correct its name in DATABASE_URL",
    "42501": "give the role its rights, as in docs/security.md",
    "42P01": _TABLES,
    "42703": _TABLES,
    "53100": "make room on the server's disk",
    "53300": "let it take more connections (max_connections, the role's CONNECTION LIMIT), or end others",
    "55000": "let the database take connections (ALTER DATABASE … ALLOW_CONNECTIONS)",
    "57014": "find out what holds it up, or raise DATABASE_TIMEOUT; a statement_timeout of your own (options in "
    "DATABASE_URL, PGOPTIONS) goes before that",
    "57": _START,
    RAISED: "see to the trigger or function that raises it",
    "XX": "restore the database from a backup",
    "SQLITE_BUSY": "end the program that holds the file",
    "SQLITE_CONSTRAINT": _VALUES,
    "SQLITE_CANTOPEN": "see to it that the file and its folder are there and may be written by this user",
    "SQLITE_CORRUPT": "restore the file from a backup",
    "SQLITE_ERROR": _TABLES,
    "SQLITE_FULL": "make room on the disk",
    "SQLITE_IOERR": "make room on the disk, or replace it",
    "SQLITE_NOTADB": "restore the file from a backup, or correct the address",
    "SQLITE_READONLY_DBMOVED": "put the file back, which nobody may touch during a crawl",
    "SQLITE_READONLY": "see to it that this user may write the file and its folder",
}
# The codes of what a server says before there is a connection, which libpq does not pass on.
_BEFORE = {
    r"password authentication failed": "28P01",
    r"role \".*\" does not exist|no pg_hba\.conf entry|pg_hba\.conf rejects|not permitted to log in": "28000",
    r"database \".*\" does not exist": "3D000",
    r"permission denied for database": "42501",
    r"too many connections|too many clients|no more connections allowed|connection slots are reserved": "53300",
    r"not currently accepting connections": "55000",
}
# What is wrong with the way of connecting has no code, or one that says no more than that.
_WAYS = {
    r"no password supplied": "put the password into DATABASE_URL, PGPASSWORD or the file of PGPASSFILE",
    r"unsupported startup parameter": "leave options out of DATABASE_URL and PGOPTIONS, which PgBouncer does not take; "
    "they can be the role's (ALTER ROLE … SET search_path = …)",
    r"unrecognized configuration parameter|invalid connection option|invalid value for parameter"
    r"|(invalid|bad) .*\bvalue\b": "correct that option in DATABASE_URL or the environment (PG…)",
    r"session is (not )?read-only|server is (not )?in hot standby": "name the server that target_session_attrs asks "
    "for, or change target_session_attrs",
    r"\bSSL\b|certificate": "correct sslmode and its files in DATABASE_URL, or the server's",
    r"no answer within|query_wait_timeout": "find out what holds it up; a pooler in front that is used up needs a "
    "larger pool_size (PgBouncer), or the server more max_connections",
}


def fault_of(error: Exception) -> Fault:
    """Return whose *error* is; what nobody foresaw is the database's.

    >>> fault_of(OverflowError()), fault_of(DBAPIError(None, None, sqlite3.OperationalError("disk I/O error")))
    (<Fault.ROW: 1>, <Fault.DATABASE: 3>)
    """
    if not isinstance(error, DBAPIError):
        return Fault.ROW  # Python could not make a parameter of it
    if isinstance(error.orig, sqlite3.Error):
        # Nobody can come between: a transaction that writes has the file to itself.
        return Fault.ROW if isinstance(error.orig, sqlite3.IntegrityError | sqlite3.DataError) else Fault.DATABASE
    code = code_of(error)
    if code in _RACES:
        return Fault.RACE
    if code == _NOT_NULL_VIOLATION and not _is_written(error):
        return Fault.DATABASE
    is_rows = code.startswith(_OF_ROWS) if code else isinstance(error, DataError)  # psycopg's own has none
    return Fault.ROW if is_rows and code != _OF_NO_ROW else Fault.DATABASE


def _is_written(error: DBAPIError) -> bool:
    """Return whether the column of which *error* tells gets its value from a row, and not from the database."""
    diagnosis: Any = error.orig and getattr(error.orig, "diag", None)
    table = models.Base.metadata.tables.get(diagnosis.table_name) if diagnosis else None
    if table is None or not diagnosis.column_name:
        return True
    column = table.c.get(diagnosis.column_name)
    return column is not None and not column.primary_key and column.server_default is None


def is_of_id(error: Exception) -> bool:
    """Return whether *error* tells of a number that the database gave a row, and that another row has."""
    return isinstance(error, DBAPIError) and code_of(error) == UNIQUE_VIOLATION and "(id)=(" in str(error.orig)


def code_of(error: DBAPIError) -> str:
    """Return PostgreSQL's SQLSTATE or SQLite's name of the error; empty if there is none."""
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    return code or next((code for words, code in _BEFORE.items() if re.search(words, str(error.orig))), "")


def explain(error: DBAPIError, name: str = "The database of DATABASE_URL") -> str:
    """Return one sentence with the database's own code and first line, and the fix."""
    code = code_of(error)
    kinds = (code, "_".join(code.split("_")[:2]), code[:2])
    fix = next((_FIXES[each] for each in kinds if each in _FIXES), "see to the database" if code else _START)
    reason = str(error.orig).strip().partition("\n")[0]
    if not code or code.startswith("08"):
        fix = next((way for words, way in _WAYS.items() if re.search(words, reason)), fix)
    said = f"{code}: {reason}" if code else reason
    verb = "can't be reached" if fix == _START else "refuses"
    return f"{name} {verb} ({said}): {fix}."
