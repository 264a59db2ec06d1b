"""``scrapy storage policy`` prints the least rights; ``lifecycle``: when objects change their class, or go."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any

from scrapy.spiderloader import get_spider_loader

from carscraper.command import Verb
from carscraper.commands.storage.common import typed
from carscraper.exceptions import ConfigurationError
from carscraper.logs import printable
from carscraper.maintenance import lifecycle
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from carscraper.command import Context
    from carscraper.maintenance import policies
    from carscraper.maintenance.lifecycle import Rule

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


def _policy_arguments(parser: argparse.ArgumentParser) -> None:
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


def _policy(context: Context, options: argparse.Namespace) -> int:
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


POLICY = Verb(
    "policy",
    "Print the least rights for a crawl, a backfill or the administration, or a policy for the bucket",
    _policy,
    _policy_arguments,
)


def _lifecycle_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=["show", "plan", "apply"], help="show the rules, or what would change, or do it"
    )
    parser.add_argument(
        "--transition",
        metavar="DAYS:CLASS",
        type=typed(lifecycle.parse_transition),
        action="append",
        default=[],
        help=f"move objects to {', '.join(lifecycle.CLASSES)}; may be repeated for further steps",
    )
    parser.add_argument(
        "--prefix",
        metavar="PREFIX",
        type=typed(lifecycle.checked_prefix),
        help="what --transition moves: names that begin so (S3_PREFIX unless given, which has thumbnails in it, too)",
    )
    parser.add_argument(
        "--expire",
        metavar="PREFIX:DAYS",
        type=typed(lifecycle.parse_expiry),
        action="append",
        default=[],
        help="delete what begins with PREFIX, such as thumbnails/:90; may be repeated",
    )
    parser.add_argument("--old-versions", metavar="DAYS", type=int, help="delete versions so long after their end")
    parser.add_argument("--multipart", metavar="DAYS", type=int, help="drop uploads that are not finished by then")
    parser.add_argument(
        "--remove", metavar="RULE-ID", action="append", default=[], help="take a rule of ours away; may be repeated"
    )


def _rules(options: argparse.Namespace, prefix: str) -> list[Rule]:
    """Return the rules that the options ask for.

    Raises:
        ConfigurationError: S3 would refuse one.
    """
    rules = [lifecycle.expiry(where, days) for where, days in options.expire]
    if len({where for where, _ in options.expire}) < len(rules):
        raise ConfigurationError("--expire names a prefix twice; write it once.")
    if options.transition:
        rules.insert(0, lifecycle.transitions(prefix if options.prefix is None else options.prefix, options.transition))
    elif options.prefix is not None:
        raise ConfigurationError("--prefix says what --transition moves; write --transition too.")
    if options.old_versions is not None:
        rules.append(lifecycle.old_versions(options.old_versions))
    if options.multipart is not None:
        rules.append(lifecycle.multipart(options.multipart))
    return rules


def _lifecycle(context: Context, options: argparse.Namespace) -> int:
    from carscraper.maintenance.bucket import Bucket
    from carscraper.maintenance.features import Change, Wanted, lifecycle_plan

    console, prefix = context.console, context.options.prefix
    rules = _rules(options, prefix)
    if bool(rules or options.remove) == (options.what == "show"):
        raise ConfigurationError(
            "`lifecycle show` takes no rules, plan and apply need some: --transition, --expire, --old-versions, "
            "--multipart or --remove."
        )
    its = Bucket(context.client, context.options)
    if not its.exists():
        raise ConfigurationError(f"There is no bucket {its.name}: `scrapy storage setup` makes it.")
    before = its.read("lifecycle")
    if options.what == "show":
        return _show_rules(context, (before or {}).get("Rules", []))
    after, lines = lifecycle_plan(before, rules, options.remove)
    folders = set(get_spider_loader(context.settings).list()) | {"archive"}  # what photos' keys begin with
    notes = lifecycle.warnings([each for each in rules if any(each["ID"] in line for line in lines)], prefix, folders)
    look = options.what == "plan" or options.dry_run
    say = console.note if console.as_json else console.line
    if not console.as_json or not (look or console.assume_yes):
        for line in lines or ["nothing to change"]:
            say(printable(line))
    for note in notes:
        console.note(f"Note: {printable(note)}")
    applied = bool(lines) and not look and console.confirm(f"Change the lifecycle rules of {its.name} like this?")
    if applied:
        change = Change(feature="lifecycle", before=before, after=after)
        if not console.assume_yes and its.read("lifecycle") != before:
            raise ConfigurationError("The rules were changed by somebody else in the meantime; nothing is done.")
        its.apply(change, Wanted(rules=tuple(rules)))
    data = {"bucket": its.name, "changes": lines, "before": before, "after": after, "applied": applied, "notes": notes}
    console.result(data, ["Done."] if applied else [] if look or not lines else ["Nothing was changed."])
    return ExitCode.SUCCESS


def _show_rules(context: Context, rules: list[Rule]) -> int:
    listed: list[dict[str, Any]] = [
        {
            "id": rule.get("ID"),
            "ours": str(rule.get("ID", "")).startswith(lifecycle.OURS),
            "says": lifecycle.describe(rule),
            "rule": rule,
        }
        for rule in rules
    ]
    lines = [f"{'*' if each['ours'] else ' '} {printable(each['says'])}" for each in listed]
    context.console.result(
        {"bucket": context.options.bucket, "rules": listed},
        [*lines, f"{len(rules)} rules; those with * are ours."] if rules else "The bucket has no lifecycle rules.",
    )
    return ExitCode.SUCCESS


LIFECYCLE = Verb(
    "lifecycle",
    "Show or change when objects move to cheaper classes and when they are deleted",
    _lifecycle,
    _lifecycle_arguments,
    changes=True,
)
