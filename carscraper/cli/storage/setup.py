"""``scrapy storage setup``: makes the bucket, or makes one that is there what it shall be."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from carscraper.cli.console import printable
from carscraper.cli.storage.policy import scope
from carscraper.cli.verb import DONE, FAILED, PARTIAL
from carscraper.exceptions import ConfigurationError, StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.storage import bucket, lifecycle, policies

if TYPE_CHECKING:
    from carscraper.cli.verb import Context

_ARN = re.compile(r"arn:aws(?:-cn|-us-gov)?:(lambda|sqs):([a-z0-9-]+):[0-9]{12}:(.+)")


# --- what people type -------------------------------------------------------------------------------------------


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fallback-bucket", metavar="NAME", type=_name, help="if AWS_S3_BUCKET is somebody else's")
    parser.add_argument(
        "--public", action="store_true", help="everybody may read photos and thumbnails (else public access is blocked)"
    )
    parser.add_argument(
        "--sse",
        metavar="KIND",
        type=_sse,
        help="default encryption: AES256, aws:kms or aws:kms:KEY (else S3_SSE, else what is there, else AES256)",
    )
    parser.add_argument("--no-versioning", action="store_true", help="leave versioning as it is")
    parser.add_argument("--no-tls-only", action="store_true", help="do not refuse requests without TLS")
    parser.add_argument("--no-lifecycle", action="store_true", help="add no lifecycle rules")
    parser.add_argument(
        "--cors-origin",
        metavar="ORIGIN",
        type=_origin,
        action="append",
        default=[],
        help="a site whose scripts may read, such as https://www.example.com; may be repeated",
    )
    parser.add_argument("--notify-lambda", metavar="ARN", type=_function, help="a function that hears of new objects")
    parser.add_argument("--notify-sqs", metavar="ARN", type=_queue, help="a queue that hears of new objects")
    parser.add_argument(
        "--notify-prefix", metavar="PREFIX", help="only of names that begin so (S3_PREFIX unless given)"
    )
    parser.add_argument("--notify-suffix", metavar="SUFFIX", help="only of names that end so, such as .jpg")


def _name(text: str) -> str:
    try:
        return bucket.checked_name(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _sse(text: str) -> str:
    if not re.fullmatch(r"AES256|aws:kms(:[\w:/+=.@-]+)?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no encryption; write AES256, aws:kms or aws:kms:KEY")
    return text


def _origin(text: str) -> str:
    if text == "*":
        return text
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
        parts = urlsplit("")
    if not good or text != f"{parts.scheme}://{parts.netloc}" or "@" in text or text.count("*") > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no origin; write https://www.example.com, without a path")
    return text


def _function(text: str) -> str:
    found = _ARN.fullmatch(text)
    if not found or found[1] != "lambda" or not re.fullmatch(r"function:[\w-]+(:[\w$-]+)?", found[3], re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no function; write arn:aws:lambda:REGION:ACCOUNT:function:NAME")
    return text


def _queue(text: str) -> str:
    found = _ARN.fullmatch(text)
    if not found or found[1] != "sqs" or not re.fullmatch(r"[\w-]+", found[3], re.ASCII):
        hint = " (S3 sends nothing to FIFO queues)" if text.endswith(".fifo") else ""
        raise argparse.ArgumentTypeError(f"{text!r} is no queue{hint}; write arn:aws:sqs:REGION:ACCOUNT:NAME")
    return text


# --- the verb ---------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Outcome:
    """What came of a bucket; the JSON is made from it."""

    name: str
    steps: list[bucket.Step] = field(default_factory=list)
    """The plan, as it was shown."""
    done: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    """Parts that nobody tried any more."""
    notes: list[str] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)
    asked_in_vain: list[str] = field(default_factory=list)
    """Parts that were asked for by an option and that the server does not have."""
    applied: bool = False


def _run(context: Context, options: argparse.Namespace) -> int:
    wish = context.options
    if (
        options.notify_lambda is None
        and options.notify_sqs is None
        and (options.notify_prefix or options.notify_suffix)
    ):
        raise ConfigurationError(
            "--notify-prefix and --notify-suffix say what --notify-lambda or --notify-sqs hears of."
        )
    for arn in (options.notify_lambda, options.notify_sqs):
        if arn and arn.split(":")[3] != wish.region:
            raise ConfigurationError(f"{arn} is not in the bucket's region {wish.region}, where S3 wants it.")
    names = [wish.bucket, *([options.fallback_bucket] if options.fallback_bucket else [])]
    for number, name in enumerate(names, 1):
        admin = bucket.BucketAdmin(context.client, name, wish.region)
        try:
            outcome = _set_up(context, options, admin)
        except bucket.BucketTakenError as error:
            if number < len(names):
                context.console.note(f"{error} Trying {names[number]} (--fallback-bucket).")
                continue
            raise BucketNotOursError(str(error), admin.free_name()) from error
        return _report(context, outcome)
    raise AssertionError("every name was tried")  # pragma: no cover - the loop returns or raises


class BucketNotOursError(StoreRefusedError):
    """No name that was tried is ours. Raised by ``scrapy storage setup``."""

    def __init__(self, said: str, free: str | None) -> None:
        cure = f"{free} is free just now" if free else "a longer one is likely to be free"
        super().__init__(f"{said} Choose another name: {cure}; set AWS_S3_BUCKET, or say --fallback-bucket.")


def _set_up(context: Context, options: argparse.Namespace, admin: bucket.BucketAdmin) -> _Outcome:
    """Plan, ask, do.

    Raises:
        BucketTakenError: the name is somebody else's.
    """
    outcome = _Outcome(name=admin.bucket)
    wanted = _wanted(context, options, admin.bucket)
    there = admin.exists()
    found = admin.read() if there else bucket.Found(exists=False)
    outcome.steps = bucket.plan(found, wanted)
    _remark(outcome, found, options)
    changing = [step for step in outcome.steps if step.lines]
    _show(context, outcome, changing)
    if options.dry_run or not changing:
        outcome.applied = not options.dry_run
        return outcome
    if not context.console.confirm(f"Change the bucket {outcome.name} like this?"):
        outcome.left = [step.part for step in changing]
        return outcome
    outcome.applied = True
    if not there:
        admin.create()
        outcome.done.append("bucket")
        # What a new bucket is like by itself is not asked of it again; now it can also be seen what the server lacks.
        try:
            found = admin.read()
        except StoreError as error:
            outcome.refused["the rest"] = str(error)
            return outcome
        changing = [step for step in bucket.plan(found, wanted) if step.lines]
        _remark(outcome, found, options)
    elif not context.console.assume_yes and bucket.plan(admin.read(), wanted) != outcome.steps:
        raise ConfigurationError(
            "The bucket was changed by somebody else in the meantime; nothing is done, run it again."
        )
    _apply(admin, changing, outcome)
    return outcome


def _wanted(context: Context, options: argparse.Namespace, name: str) -> bucket.Wanted:
    wish, where = context.options, scope(context, name)
    plain = (wish.endpoint or "").startswith("http://")
    drop = [] if options.public else [policies.PUBLIC_READ]
    if options.no_tls_only:
        drop.append(policies.TLS_ONLY)
    prefix = wish.prefix if options.notify_prefix is None else options.notify_prefix
    rules = [] if options.no_lifecycle else lifecycle.defaults(wish.prefix)
    return bucket.Wanted(
        region=wish.region,
        # Over a plain endpoint it would lock us out.
        tls_only=None if options.no_tls_only or plain else policies.tls_only(where),
        public=policies.public_read(where) if options.public else None,
        drop=tuple(drop),
        sse=options.sse or wish.sse,
        versioning=not options.no_versioning,
        cors_origins=tuple(options.cors_origin),
        rules=tuple(rules),
        notifications=tuple(
            bucket.Notification(kind=kind, arn=arn, prefix=prefix, suffix=options.notify_suffix or "")
            for kind, arn in (("lambda", options.notify_lambda), ("sqs", options.notify_sqs))
            if arn
        ),
    )


def _remark(outcome: _Outcome, found: bucket.Found, options: argparse.Namespace) -> None:
    """Note what the plan does not say."""
    said = bucket.lacking(found)
    outcome.lacks = sorted(found.lacks)
    if said:
        outcome.notes.append(said)
    asked = {
        "policy": options.public,
        "encryption": options.sse,
        "CORS": options.cors_origin,
        "notifications": options.notify_lambda or options.notify_sqs,
    }
    outcome.asked_in_vain = [part for part, was in asked.items() if was and part in found.lacks]
    for step in outcome.steps:
        if step.part == "policy" and not options.public:
            if f"- {policies.PUBLIC_READ}" in step.lines:
                outcome.notes.append("Photos will not answer at their public address any more (no --public).")
            outcome.notes += [
                f"The bucket's policy has a statement ({printable(str(each.get('Sid', 'without a Sid')))}) that lets "
                "everybody in; with public access blocked it has no effect."
                for each in policies.statements_of(step.after)
                if policies.lets_everybody_in(each)
            ]


def _apply(admin: bucket.BucketAdmin, changing: list[bucket.Step], outcome: _Outcome) -> None:
    """Take every step that can be taken; one that is refused does not keep the others from theirs."""
    for number, step in enumerate(changing):
        if step.part == "policy" and "public access" in outcome.refused:
            outcome.left.append(step.part)  # S3 would refuse it, and refuse everything about the policy with it
            continue
        try:
            admin.apply(step)
        except StoreRefusedError as error:
            outcome.refused[step.part] = str(error)
        except StoreUnavailableError as error:
            outcome.refused[step.part] = str(error)
            outcome.left += [each.part for each in changing[number + 1 :]]
            return
        else:
            outcome.done.append(step.part)


# --- what is said -----------------------------------------------------------------------------------------------


def _show(context: Context, outcome: _Outcome, changing: list[bucket.Step]) -> None:
    """Show the difference: on stdout for people, beside the JSON where somebody is asked."""
    console = context.console
    say = console.note if console.as_json else console.line
    if console.as_json and console.assume_yes:
        return
    say(f"The bucket {outcome.name} in {context.options.region}:")
    for step in changing:
        for line in step.lines:
            say(f"  {line[0]} {step.part}: {printable(line[2:])}")
    unchanged = sum(step.unchanged for step in outcome.steps)
    say(f"  {unchanged} unchanged" if changing else f"  nothing to change ({unchanged} as they shall be)")
    for note in outcome.notes:
        console.note(note)


def _report(context: Context, outcome: _Outcome) -> int:
    console = context.console
    changed = bool(outcome.done)
    data: dict[str, Any] = {
        "bucket": outcome.name,
        "region": context.options.region,
        "plan": [
            {
                "part": step.part,
                "changes": list(step.lines),
                "unchanged": step.unchanged,
                "before": step.before,
                "after": step.after,
            }
            for step in outcome.steps
        ],
        "applied": outcome.applied,
        "done": outcome.done,
        "refused": outcome.refused,
        "not_done": outcome.left,
        "lacks": outcome.lacks,
        "notes": outcome.notes,
        "settings": {"AWS_S3_BUCKET": outcome.name} if outcome.name != context.options.bucket else {},
    }
    console.result(data, _lines(context, outcome))
    if outcome.refused:
        return PARTIAL if changed else FAILED
    return PARTIAL if outcome.asked_in_vain else DONE


def _lines(context: Context, outcome: _Outcome) -> list[str]:
    lines = []
    if outcome.done:
        lines.append(f"Done: {', '.join(outcome.done)}.")
        # Only now was the new bucket there to be asked.
        if outcome.done[0] == "bucket" and outcome.lacks:
            lines += [note for note in outcome.notes if note.startswith("This server")]
    lines += [f"Not done: {part}. {printable(why)}" for part, why in outcome.refused.items()]
    if outcome.left and outcome.applied:
        lines.append(f"Not tried: {', '.join(outcome.left)}.")
    elif outcome.left:
        lines.append("Nothing was changed.")
    if outcome.asked_in_vain:
        lines.append(f"Asked for, but this server does not have it: {', '.join(outcome.asked_in_vain)}.")
    if outcome.name != context.options.bucket and not outcome.left:
        lines.append(f"Set AWS_S3_BUCKET={outcome.name} before the first crawl, and make IAM policies for that name.")
    return lines


FUNCTIONS = {"setup": (_arguments, _run)}
