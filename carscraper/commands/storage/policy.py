"""``scrapy storage policy``: the least rights, as JSON."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any

from carscraper.command import Verb
from carscraper.exceptions import ConfigurationError
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from carscraper.command import Context
    from carscraper.maintenance import policies

_ROLES = ("crawl", "backfill", "admin")
_BUCKET = ("public", "cloudfront", "tls")


def scope(context: Context, bucket: str | None = None) -> policies.Scope:
    """Return what policies are about: the settings' bucket, or another one by its name."""
    from carscraper.maintenance import policies

    options = context.options
    outputs = None
    if context.settings.getbool("S3_UPLOAD_ON_COMPLETION"):
        from carscraper.storage.outputs import OutputOptions

        its = OutputOptions.from_settings(context.settings)
        outputs = policies.Outputs(bucket=its.s3.bucket, prefix=its.prefix, tags=bool(its.client))
    return policies.Scope(
        bucket=bucket or options.bucket,
        region=options.region,
        prefix=options.prefix,
        tags=bool(options.tags),
        sse=options.sse,
        distribution=context.settings.get("CLOUDFRONT_DISTRIBUTION_ID"),
        outputs=outputs,
    )


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", nargs="?", choices=_ROLES, help="whose rights, as an IAM policy")
    parser.add_argument("--bucket-policy", choices=_BUCKET, help="a policy of the bucket instead")
    parser.add_argument(
        "--distribution-arn",
        metavar="ARN",
        type=_distribution,
        help="the CloudFront distribution, for --bucket-policy cloudfront",
    )


def _distribution(text: str) -> str:
    if not re.fullmatch(r"arn:aws(-cn|-us-gov)?:cloudfront::[0-9]{12}:distribution/[A-Z0-9]+", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no distribution; write arn:aws:cloudfront::ACCOUNT:distribution/ID"
        )
    return text


def _run(context: Context, options: argparse.Namespace) -> int:
    from carscraper.maintenance import policies

    if bool(options.role) == bool(options.bucket_policy):
        raise ConfigurationError("Name one policy: crawl, backfill or admin, or --bucket-policy public|cloudfront|tls.")
    if bool(options.distribution_arn) != (options.bucket_policy == "cloudfront"):
        raise ConfigurationError("--bucket-policy cloudfront and --distribution-arn belong together.")
    where = scope(context)
    of_role = {"crawl": policies.crawl, "backfill": policies.backfill, "admin": policies.admin}
    found = of_role[options.role](where) if options.role else policies.document(_statement(options, where))
    context.console.result(found, json.dumps(found, ensure_ascii=False, indent=2))
    return ExitCode.SUCCESS


def _statement(options: argparse.Namespace, where: policies.Scope) -> dict[str, Any]:
    from carscraper.maintenance import policies

    if options.bucket_policy == "tls":
        return policies.tls_only(where)
    if options.bucket_policy == "public":
        return policies.public_read(where)
    return policies.cloudfront_read(where, options.distribution_arn)


VERB = Verb(
    "policy",
    "Print the least rights for a crawl, a backfill or the administration, or a policy for the bucket",
    _run,
    _arguments,
)
