"""What docs/storage.md says to type beside ``setup`` is what Amazon's API takes, and ``setup`` leaves it as it is."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.validate import ParamValidator

from tests.services import REPO

if TYPE_CHECKING:
    from tests import services
    from tests.cli.conftest import Storage

REGION = {"CreateBucketConfiguration": {"LocationConstraint": "eu-north-1"}}
NUMBERS = {"Period", "EvaluationPeriods", "Threshold"}


def typed() -> list[tuple[str, str, dict[str, Any]]]:
    """Service, operation and parameters of each command."""
    page = (REPO / "docs" / "storage.md").read_text("utf-8").partition("## What `setup` leaves to you")[2]
    found = []
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        for command in re.split(r"^aws ", block, flags=re.MULTILINE)[1:]:
            service, operation, *options = shlex.split(command.replace("\\\n", " "))
            values: dict[str, Any] = {}
            for name, text in zip(options[::2], options[1::2], strict=True):
                parameter = "".join(part.title() for part in name.removeprefix("--").split("-"))
                plain = parameter == "Policy" or text[0] not in "[{"
                values[parameter] = text if plain else json.loads(text)
                values[parameter] = int(text) if parameter in NUMBERS else values[parameter]
                json.loads(text) if parameter == "Policy" else None
            found.append((service.removesuffix("api"), operation, values))
    return found


def test_amazon_takes_it() -> None:
    session = botocore.session.get_session()
    commands = typed()
    assert [operation for _, operation, _ in commands] == [
        "put-bucket-replication",
        "put-bucket-policy",
        "put-bucket-logging",
        "put-bucket-metrics-configuration",
        "put-metric-alarm",
        "put-bucket-website",
    ]
    for service, operation, values in commands:
        name = "".join(part.title() for part in operation.split("-"))
        shape = session.get_service_model(service).operation_model(name).input_shape
        assert ParamValidator().validate(values, shape).generate_report() == "", operation


def test_setup_leaves_it_as_it_is(storage: Storage, moto_s3: services.S3) -> None:
    client = moto_s3.client
    for bucket in ("my-car-photos", "my-car-copies", "my-car-logs", "my-car-site"):
        client.create_bucket(Bucket=bucket, **REGION)
        storage.settings = replace(moto_s3, bucket=bucket).env
        storage("setup", "--yes")
    reads = {}
    for service, operation, values in typed():
        if service == "s3" and operation != "put-bucket-metrics-configuration":  # which moto does not know
            method = operation.replace("-", "_")
            getattr(client, method)(**values)
            reads[method.replace("put", "get", 1)] = values["Bucket"]

    def there() -> list[Any]:
        found = [getattr(client, method)(Bucket=bucket) for method, bucket in reads.items()]
        return [{name: value for name, value in each.items() if name != "ResponseMetadata"} for each in found]

    before = there()
    assert all(before)
    for bucket in set(reads.values()):
        storage("setup", "--yes", settings={"AWS_S3_BUCKET": bucket})
    assert there() == before
