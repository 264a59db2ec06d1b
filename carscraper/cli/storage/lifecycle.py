"""``scrapy storage lifecycle``: when objects move to cheaper classes, and when they go."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from scrapy.spiderloader import get_spider_loader

from carscraper.cli.console import printable
from carscraper.cli.verb import DONE
from carscraper.exceptions import CarscraperError, ConfigurationError, StoreRefusedError
from carscraper.storage import bucket, lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy.settings import BaseSettings

    from carscraper.cli.verb import Context
    from carscraper.storage.lifecycle import Rule


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=["show", "plan", "apply"], help="show the rules, or what would change, or do it"
    )
    parser.add_argument(
        "--transition",
        metavar="DAYS:CLASS",
        type=_typed(lifecycle.parse_transition),
        action="append",
        default=[],
        help=f"move objects to {', '.join(lifecycle.CLASSES)}; may be repeated for further steps",
    )
    parser.add_argument(
        "--prefix",
        metavar="PREFIX",
        type=_typed(lifecycle.checked_prefix),
        help="what --transition moves: names that begin so (S3_PREFIX unless given, which has thumbnails in it, too)",
    )
    parser.add_argument(
        "--expire",
        metavar="PREFIX:DAYS",
        type=_typed(lifecycle.parse_expiry),
        action="append",
        default=[],
        help="delete what begins with PREFIX, such as thumbnails/:90; may be repeated",
    )
    parser.add_argument("--old-versions", metavar="DAYS", type=int, help="delete versions so long after their end")
    parser.add_argument("--multipart", metavar="DAYS", type=int, help="drop uploads that are not finished by then")
    parser.add_argument(
        "--remove", metavar="RULE-ID", action="append", default=[], help="take a rule of ours away; may be repeated"
    )


def _typed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse say what *parse* has against a value."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except CarscraperError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _rules(options: argparse.Namespace, prefix: str) -> list[Rule]:
    """Give the rules that the options ask for.

    Raises:
        ConfigurationError: S3 would refuse one.
    """
    rules = []
    if options.transition:
        where = prefix if options.prefix is None else options.prefix
        rules.append(lifecycle.transitions(where, options.transition))
    elif options.prefix is not None:
        raise ConfigurationError("--prefix says what --transition moves; say --transition too.")
    prefixes = [where for where, _ in options.expire]
    for where in prefixes:
        if prefixes.count(where) > 1:
            raise ConfigurationError(f"--expire names {where} twice; say it once.")
    rules += [lifecycle.expiry(where, days) for where, days in options.expire]
    if options.old_versions is not None:
        rules.append(lifecycle.old_versions(options.old_versions))
    if options.multipart is not None:
        rules.append(lifecycle.multipart(options.multipart))
    return rules


def _run(context: Context, options: argparse.Namespace) -> int:
    prefix = context.options.prefix
    rules = _rules(options, prefix)
    asked = bool(rules or options.remove)
    if asked == (options.what == "show"):
        raise ConfigurationError(
            "`lifecycle show` takes no rules; say plan or apply."
            if asked
            else f"`lifecycle {options.what}` needs to know what: --transition, --expire, --old-versions, --multipart "
            "or --remove."
        )
    admin = bucket.BucketAdmin(context.client, context.options.bucket, context.options.region)
    there = _read(admin)
    if options.what == "show":
        return _show(context, there)
    step = bucket.lifecycle_step(there, bucket.lifecycle_merged(there, rules, options.remove))
    old = {rule.get("ID"): rule for rule in step.before}
    changing = [rule for rule in rules if rule["ID"] not in old or not lifecycle.same(old[rule["ID"]], rule)]
    warnings = lifecycle.warnings(changing, prefix, _photo_folders(context.settings))
    return _carry_out(context, options, admin, step, warnings)


def _photo_folders(settings: BaseSettings) -> list[str]:
    """Give the first parts of photos' keys: the spiders' names, and a manifest's folder."""
    return sorted({*get_spider_loader(settings).list(), "archive"} - {"backfill"})


def _read(admin: bucket.BucketAdmin) -> Any:
    """Read the bucket's rules.

    Raises:
        ConfigurationError: there is no such bucket.
        StoreRefusedError: the server has no lifecycle rules, or refuses to tell.
    """
    if not admin.exists():
        raise ConfigurationError(f"There is no bucket {admin.bucket}: `scrapy storage setup` makes it.")
    found = admin.read(["lifecycle"])
    if "lifecycle" in found.lacks:
        raise StoreRefusedError("This server does not have lifecycle rules: nothing is sent.")
    return found.parts["lifecycle"]


def _show(context: Context, there: Any) -> int:
    rules = list((there or {}).get("Rules", []))
    listed = [
        {"id": rule.get("ID"), "ours": _is_ours(rule), "says": lifecycle.describe(rule), "rule": rule} for rule in rules
    ]
    lines = [f"{'*' if each['ours'] else ' '} {printable(each['says'])}" for each in listed]
    context.console.result(
        {"bucket": context.options.bucket, "rules": listed},
        [*lines, f"{len(rules)} rules; those with * are ours."] if rules else "The bucket has no lifecycle rules.",
    )
    return DONE


def _is_ours(rule: Rule) -> bool:
    return str(rule.get("ID", "")).startswith(lifecycle.OURS)


def _carry_out(
    context: Context,
    options: argparse.Namespace,
    admin: bucket.BucketAdmin,
    step: bucket.Step,
    warnings: list[str],
) -> int:
    console = context.console
    lines = [f"{line[0]} {printable(line[2:])}" for line in step.lines]
    lines.append(f"{step.unchanged} unchanged" if lines else f"nothing to change ({step.unchanged} rules)")
    only_look = options.what == "plan" or options.dry_run
    asking = bool(step.lines) and not only_look and not console.assume_yes
    if not console.as_json or asking:
        for line in lines:
            (console.note if console.as_json else console.line)(line)
    for warning in warnings:
        console.note(f"Note: {printable(warning)}")
    applied = False
    if step.lines and not only_look and console.confirm(f"Change the lifecycle rules of {admin.bucket} like this?"):
        if asking and bucket.lifecycle_step(_read(admin), step.after) != step:
            raise ConfigurationError("The rules were changed by somebody else in the meantime; nothing is done.")
        admin.apply(step)
        applied = True
    data = {
        "bucket": admin.bucket,
        "changes": list(step.lines),
        "unchanged": step.unchanged,
        "before": step.before,
        "after": step.after,
        "applied": applied,
        "notes": warnings,
    }
    console.result(data, ["Done."] if applied else ["Nothing was changed."] if asking else [])
    return DONE


FUNCTIONS = {"lifecycle": (_arguments, _run)}
