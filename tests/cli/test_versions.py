"""``scrapy storage versions`` and ``restore``: what a bucket has kept comes back, what must stay deleted does not."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tests import services
from tests.cli.test_fetch import photo

if TYPE_CHECKING:
    from tests.cli.conftest import Storage
    from tests.cli.shop import Shop

META = {"ContentType": "image/jpeg", "Metadata": {"source": "Bilasolur"}}


def test_a_deleted_and_a_replaced_object_come_back(storage: Storage, shop: Shop, moto_s3: services.S3) -> None:
    moto_s3.client.put_bucket_versioning(Bucket=moto_s3.bucket, VersioningConfiguration={"Status": "Enabled"})
    storage.settings |= {"S3_PREFIX": "cars", "S3_STORAGE_CLASS": "STANDARD_IA"}
    key, data = photo(1)
    moto_s3.put(key, data, **META)
    moto_s3.put(f"{key}.other", b"an object whose name begins alike")
    moto_s3.delete(key)
    marker, kept = storage("versions", key, "--json").data["versions"]
    assert (marker["size"], marker["is_current"]) == (None, True)
    assert (kept["size"], kept["is_current"]) == (len(data), False)
    lines = storage("versions", key).out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["current", str(len(data))]
    assert "deleted" in lines[1]
    said = storage("restore", key, "--dry-run")
    assert f"({len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:12]}…)" in said.out
    assert moto_s3.keys() == [f"{key}.other"]
    storage("restore", key, "--yes")
    found = moto_s3.client.get_object(Bucket=moto_s3.bucket, Key=key)
    assert found["Body"].read() == data
    assert (found["ContentType"], found["Metadata"]) == (META["ContentType"], META["Metadata"])
    assert found["StorageClass"] == "STANDARD_IA"
    assert "is there: say --version" in storage("restore", key, code=4).err
    assert "already: nothing to do" in storage("restore", key, "--version", found["VersionId"]).out
    # A note that was written over.
    moto_s3.put("cars/note.txt", b"old")
    moto_s3.put("cars/note.txt", b"new")
    new, old = storage("versions", "cars/note.txt", "--json").data["versions"]
    assert "Nobody is there to answer" in storage("restore", "cars/note.txt", "--version", old["id"], code=4).err
    storage.answer = "y"
    storage("restore", "cars/note.txt", "--version", old["id"])
    assert moto_s3.get("cars/note.txt")[0] == b"old"
    assert new["id"] in [each["id"] for each in storage("versions", "cars/note.txt", "--json").data["versions"]]


def test_what_does_not_come_back(
    storage: Storage, shop: Shop, moto_s3: services.S3, rclone_s3: services.S3, proxy: services.S3Proxy
) -> None:
    key, data = photo(1)
    key = key.removeprefix("cars/")
    said = storage("versions", key, code=4)
    assert f"The bucket {moto_s3.bucket} has no version of {key}, and keeps no versions" in said.err
    moto_s3.client.put_bucket_versioning(Bucket=moto_s3.bucket, VersioningConfiguration={"Status": "Enabled"})
    shop.add("1", key, data=data)
    storage("delete", key, "--yes")
    said = storage("restore", key, "--yes", code=4)
    assert "Somebody had this photo deleted (car Bilasolur/1)" in said.err
    assert moto_s3.keys() == []
    storage("delete", "--lift", "--car", "Bilasolur/1", "--yes")
    with proxy.fail(403, "InvalidObjectState", methods="GET", path="kia"):
        said = storage("restore", key, "--yes", settings=moto_s3.via(proxy).env, code=4)
    assert "can't be read (InvalidObjectState): it is in an archive" in said.err
    storage("restore", key, "--yes")
    assert moto_s3.objects() == {key: data}
    marker = next(each for each in storage("versions", key, "--json").data["versions"] if each["size"] is None)
    for version, says in [("none", "is none of"), (marker["id"], "says that the object was deleted")]:
        assert says in storage("restore", key, "--version", version, code=4).err
    moto_s3.put(key, b"other bytes")
    other = storage("versions", key, "--json").data["versions"][0]["id"]
    moto_s3.put(key, data)
    said = storage("restore", key, "--version", other, "--yes", code=4)
    assert "has other bytes than its name says" in said.err
    # A server without versions.
    rclone_s3.put(key, data)
    said = storage("versions", "none.jpg", settings=rclone_s3.env, code=4)
    assert "lists no versions (NotImplemented" in said.err
    assert "Whether it has kept any of none.jpg is not known." in said.err
    with proxy.fail(405, "MethodNotAllowed", methods="GET"):
        said = storage("restore", key, "--yes", settings=moto_s3.via(proxy).env, code=4)
    assert "lists no versions (MethodNotAllowed" in said.err
    assert rclone_s3.objects() == {key: data}
