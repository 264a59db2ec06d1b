"""``scrapy storage lifecycle``: shows, plans, applies; refuses before S3 does; rules of others stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from carscraper.maintenance import lifecycle
from tests import services

if TYPE_CHECKING:
    from tests.cli.conftest import Storage

FOREIGN = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 7}}
MOVES = ("--transition", "30:STANDARD_IA", "--transition", "90:glacier_ir")
WRITES = ("PUT", "POST", "DELETE")


def rules_of(s3: services.S3) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = s3.client.get_bucket_lifecycle_configuration(Bucket=s3.bucket)["Rules"]
    return found


def put(s3: services.S3, *rules: dict[str, Any]) -> None:
    s3.client.put_bucket_lifecycle_configuration(Bucket=s3.bucket, LifecycleConfiguration={"Rules": list(rules)})


def test_show(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = moto_s3.env
    assert storage("lifecycle", "show").out == "The bucket has no lifecycle rules.\n"
    put(moto_s3, FOREIGN, lifecycle.multipart(7))
    assert storage("lifecycle", "show").out.splitlines() == [
        "  theirs: below logs/ deleted after 7 days",
        "* carscraper-multipart: whole bucket: unfinished uploads dropped after 7 days",
        "2 rules; those with * are ours.",
    ]
    data = storage("lifecycle", "show", "--json").data
    assert [(each["id"], each["ours"]) for each in data["rules"]] == [("theirs", False), ("carscraper-multipart", True)]
    assert data["rules"][0]["rule"] == FOREIGN


def test_a_hostile_id_forges_no_line(storage: Storage, moto_s3: services.S3) -> None:
    put(moto_s3, {**FOREIGN, "ID": "a\x85b\u202e"})
    storage.settings = moto_s3.env
    assert "\\x85" in storage("lifecycle", "show").out


def test_plan_changes_nothing(storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy) -> None:
    put(moto_s3, FOREIGN, lifecycle.old_versions(30))
    storage.settings = moto_s3.via(proxy).env | {"S3_PREFIX": "cars/"}
    options = (*MOVES, "--prefix", "cars/bilasolur/", "--expire", "cars/thumbnails/:90", "--old-versions", "9")
    said = storage("lifecycle", "plan", *options)
    assert said.out.splitlines() == [
        (
            "+ carscraper-transition:cars/bilasolur/: below cars/bilasolur/ to STANDARD_IA after 30 days, "
            "then to GLACIER_IR after 90 days"
        ),
        "+ carscraper-expire:cars/thumbnails/: below cars/thumbnails/ deleted after 90 days",
        (
            "~ carscraper-old-versions: whole bucket: old versions deleted after 30 days → "
            "whole bucket: old versions deleted after 9 days"
        ),
    ]
    assert said.err == ""
    assert storage("lifecycle", "apply", "--dry-run", *options).out == said.out
    assert storage("lifecycle", "plan", "--json", *options).data["applied"] is False
    assert proxy.count(*WRITES) == 0


def test_apply_keeps_what_others_made_and_does_nothing_twice(
    storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy
) -> None:
    put(moto_s3, FOREIGN)
    storage.settings = moto_s3.via(proxy).env | {"S3_PREFIX": "cars/"}
    expire = ("--expire", "cars/_test/:1", "--expire", "outputs/:30")
    options = (*MOVES, *expire, "--old-versions", "9", "--multipart", "3")
    assert storage("lifecycle", "apply", "--yes", *options).out.endswith("Done.\n")
    rules = rules_of(moto_s3)
    assert rules[0] == FOREIGN
    assert [each["ID"] for each in rules[1:]] == [
        "carscraper-transition:cars/",
        "carscraper-expire:cars/_test/",
        "carscraper-expire:outputs/",
        "carscraper-old-versions",
        "carscraper-multipart",
    ]
    assert rules[1]["Transitions"] == [
        {"Days": 30, "StorageClass": "STANDARD_IA"},
        {"Days": 90, "StorageClass": "GLACIER_IR"},
    ]
    proxy.forget()
    said = storage("lifecycle", "apply", *options)  # nobody is asked
    assert "nothing to change" in said.out
    assert proxy.count(*WRITES) == 0


def test_setup_leaves_it_alone(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = moto_s3.env
    storage("setup", "--yes")
    storage("lifecycle", "apply", "--yes", "--old-versions", "365")
    assert "nothing to change" in storage("setup").out


def test_remove(storage: Storage, moto_s3: services.S3) -> None:
    put(moto_s3, FOREIGN, lifecycle.multipart(7))
    storage.settings = moto_s3.env
    said = storage("lifecycle", "apply", "--yes", "--remove", "carscraper-multipart")
    assert "- carscraper-multipart: whole bucket: unfinished uploads dropped after 7 days" in said.out
    assert rules_of(moto_s3) == [FOREIGN]
    for name in ("theirs", "carscraper-multipart"):
        said = storage("lifecycle", "apply", "--yes", "--remove", name, code=4)
        assert f"'{name}' is no rule of ours that can be removed" in said.err
    put(moto_s3, lifecycle.multipart(7))
    storage("lifecycle", "apply", "--yes", "--remove", "carscraper-multipart")
    assert "no lifecycle rules" in storage("lifecycle", "show").out


def test_what_s3_would_refuse_is_not_sent(storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy) -> None:
    storage.settings = moto_s3.via(proxy).env
    for options, code, says in [
        (["--transition", "29:STANDARD_IA"], 4, "too early"),
        (["--transition", "30:GLACIER", "--transition", "60:STANDARD_IA"], 4, "cannot come before"),
        (["--transition", "30:STANDARD_IA", "--prefix", "a/", "--expire", "a:30"], 4, "an expiry comes after"),
        (["--expire", "a/:1", "--expire", "a/:2"], 4, "names a prefix twice"),
        (["--old-versions", "0"], 4, "whole days from 1 on"),
        (["--prefix", "cars/"], 4, "write --transition too"),
        ([], 4, "plan and apply need some"),
        (["--transition", "30:STANDARD"], 2, "is no transition"),
        (["--expire", ":30"], 2, "every object of the bucket would be deleted"),
        (["--prefix", "/cars"], 2, "begins without a slash"),
        (["--old-versions", "x"], 2, "invalid int value"),
    ]:
        said = storage("lifecycle", "apply", "--yes", *options, code=code)
        assert says in said.err, options
        assert code == 2 or said.err.count("\n") == 1, options
    assert "takes no rules" in storage("lifecycle", "show", "--multipart", "3", code=4).err
    assert proxy.count(*WRITES) == 0


def test_apply_warns_of_archives_and_deleted_photos(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = moto_s3.env
    said = storage("lifecycle", "apply", "--yes", "--transition", "90:GLACIER", "--expire", "bilasolur/:400")
    assert "carscraper-transition: photos in GLACIER or DEEP_ARCHIVE do not answer at their public address" in said.err
    assert "carscraper-expire:bilasolur/ deletes photos" in said.err
    again = storage("lifecycle", "apply", "--transition", "90:GLACIER", "--expire", "bilasolur/:400")
    assert again.err == ""  # nothing changes, nothing is said


def test_it_asks(storage: Storage, moto_s3: services.S3) -> None:
    put(moto_s3, FOREIGN)
    storage.settings = moto_s3.env
    for answer, says, number in (("n", "Nothing was changed.", 1), ("y", "Done.", 2)):
        storage.answer = answer
        said = storage("lifecycle", "apply", "--multipart", "3")
        assert "Change the lifecycle rules of" in said.err
        assert said.out.splitlines()[-1] == says
        assert len(rules_of(moto_s3)) == number


def test_somebody_changes_the_rules_in_the_meantime(
    storage: Storage, moto_s3: services.S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.settings = moto_s3.env
    storage.answer = "y"

    def confirm(*_: Any) -> bool:
        put(moto_s3, FOREIGN)
        return True

    monkeypatch.setattr("carscraper.console.Console.confirm", confirm)
    assert "changed by somebody else in the meantime" in storage("lifecycle", "apply", "--multipart", "3", code=4).err
    assert rules_of(moto_s3) == [FOREIGN]


def test_s3_refuses_the_change(storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy) -> None:
    storage.settings = moto_s3.via(proxy).env
    with proxy.fail(403, "AccessDenied", methods="PUT"):
        said = storage("lifecycle", "apply", "--yes", "--multipart", "3", code=4)
    assert "allow s3:PutLifecycleConfiguration" in said.err
    assert moto_s3.secret_key not in said.out + said.err


def test_there_is_no_bucket(storage: Storage, moto_s3: services.S3) -> None:
    storage.settings = moto_s3.env | {"AWS_S3_BUCKET": "not-there"}
    assert "There is no bucket not-there: `scrapy storage setup` makes it." in storage("lifecycle", "show", code=4).err


def test_a_server_without_rules(storage: Storage, rclone_s3: services.S3) -> None:
    rclone_s3.put("a/b.jpg", b"x")
    with services.S3Proxy(rclone_s3.endpoint) as running:
        storage.settings = rclone_s3.via(running).env
        for words in (("show",), ("apply", "--yes", "--multipart", "3")):
            assert storage("lifecycle", *words, code=4).err == "This server does not have lifecycle rules.\n"
        assert running.count(*WRITES) == 0
    assert rclone_s3.objects() == {"a/b.jpg": b"x"}
