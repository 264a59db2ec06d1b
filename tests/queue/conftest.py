"""Fleets for the tests of the queue."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.crawl.conftest import new_site  # noqa: F401 - a fixture
from tests.queue.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def new_fleet(
    tmp_path: Path,
    postgres_url: str,
    new_site: Callable[..., Any],  # noqa: F811 - the fixture
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Callable[..., Fleet]]:
    """Make a fleet around a simulated bilasolur with these options."""
    with contextlib.ExitStack() as stack:

        def make(settings: dict[str, Any] | None = None, **options: Any) -> Fleet:
            return Fleet(
                database_url=postgres_url,
                site=new_site(**options),
                folder=tmp_path,
                capsys=capsys,
                stack=stack,
                settings=settings or {},
            )

        yield make
