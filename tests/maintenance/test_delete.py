"""What a deletion finds and in which order it goes; tests/cli/test_delete.py has the whole of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.db import removal as rows
from carscraper.maintenance import delete as deletion
from carscraper.storage import objects
from carscraper.storage.folder import FolderStore
from tests.cli.shop import Shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests import services


@pytest.fixture
def shop(tmp_path: Path, sqlite_url: str, moto_s3: services.S3) -> Iterator[Shop]:
    shop = Shop(sqlite_url, tmp_path / "images", moto_s3)
    shop.folder.mkdir()
    yield shop
    shop.engine.dispose()


def places(shop: Shop) -> deletion.Places:
    assert shop.s3
    folder = FolderStore(shop.folder, public_url=None)
    return deletion.Places(client=shop.s3.client, bucket=shop.s3.bucket, folder=folder)


def test_rows_first_then_objects_then_the_cdn_then_the_keys(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for module, name in ((rows, "mark_deleted"), (objects, "remove"), (FolderStore, "delete"), (rows, "clear_keys")):
        real = getattr(module, name)

        def note(*arguments: Any, real: Any = real, name: str = name, **more: Any) -> Any:
            steps.append(name)
            return real(*arguments, **more)

        monkeypatch.setattr(module, name, note)
    monkeypatch.setattr(
        deletion.cdn, "invalidate", lambda _c, _d, paths, **_: steps.append(f"cdn {' '.join(sorted(paths))}")
    )
    shop.add("1", "x/1_a.jpg")
    shop.file("x/1_a.jpg", b"hot")
    plan, unknown = deletion.select(shop.engine, ["x/1_a.jpg", "x/nothing.jpg"], [])
    assert unknown == ["x/nothing.jpg"]
    plan.keys.remove("x/nothing.jpg")
    where = replace(places(shop), distribution="E1")
    deletion.look_up(plan, where, all_versions=False)
    deletion.run(shop.engine, plan, where, all_versions=False)
    steps = [step for number, step in enumerate(steps) if step != "mark_deleted" or number == 0]
    assert steps == [
        "mark_deleted",
        *sorted(["delete", "remove"], key=steps.index),
        "cdn /x/1_a.jpg",
        "clear_keys",
    ]


def test_what_a_crawl_stores_of_the_car_after_the_plan_goes_too(shop: Shop) -> None:
    assert shop.s3
    shop.add("1", "x/1_a.jpg")
    plan, _ = deletion.select(shop.engine, [], [("Bilasolur", "1")])
    deletion.look_up(plan, places(shop), all_versions=False)
    shop.add("1", "x/1_a.jpg", "x/1_b.jpg")
    outcome = deletion.run(shop.engine, plan, places(shop), all_versions=False)
    assert outcome.photos == 2
    assert shop.s3.keys() == []
    assert {row.key for row in shop.images()} == {None}


def test_names_that_can_be_no_file_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "x").write_bytes(b"outside")
    folder = FolderStore(tmp_path / "folder", public_url=None)
    for name in ("", "/", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/.", "a\0b", "a/" * 3000 + "x"):
        assert folder.size(name) is None, name
        folder.delete(name)
    (tmp_path / "folder" / "a b").mkdir()
    (tmp_path / "folder" / "a b" / "þ#1?%2e.jpg").write_bytes(b"photo")
    assert folder.size("a b/þ#1?%2e.jpg") == 5
    assert (tmp_path / "x").exists()
