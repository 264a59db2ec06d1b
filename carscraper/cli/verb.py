"""For ``cli.storage``, until it moves to ``commands``."""

from carscraper.command import Context
from carscraper.state import ExitCode

__all__ = ["DONE", "FAILED", "PARTIAL", "Context"]

DONE, PARTIAL, FAILED = ExitCode.SUCCESS, ExitCode.PARTIAL, ExitCode.FAILED
