"""``scrapy storage setup`` makes the bucket or brings it into shape, ``check`` tests the connection."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from carscraper.command import Verb
from carscraper.commands.storage.common import typed
from carscraper.commands.storage.rules import scope
from carscraper.exceptions import ConfigurationError, StoreError, StoreRefusedError
from carscraper.logs import printable
from carscraper.maintenance import lifecycle
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from carscraper.command import Context
    from carscraper.maintenance.bucket import Bucket
    from carscraper.maintenance.features import Change, Wanted

_ARNS = {
    "lambda": r"arn:aws(?:-cn|-us-gov)?:lambda:([a-z0-9-]+):[0-9]{12}:function:[\w-]+(:[\w$-]+)?",
    "sqs": r"arn:aws(?:-cn|-us-gov)?:sqs:([a-z0-9-]+):[0-9]{12}:[\w-]+",
}


def _setup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fallback-bucket", metavar="NAME", type=_bucket, help="if AWS_S3_BUCKET is somebody else's")
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
    parser.add_argument(
        "--upload", action="store_true", help="those sites may write, too, with what presign --put or --post gives them"
    )
    parser.add_argument(
        "--notify-lambda", metavar="ARN", type=_arn("lambda"), help="a function that is told of new objects"
    )
    parser.add_argument("--notify-sqs", metavar="ARN", type=_arn("sqs"), help="a queue that is told of new objects")
    parser.add_argument(
        "--notify-prefix", metavar="PREFIX", help="only of names that begin so (S3_PREFIX unless given)"
    )
    parser.add_argument("--notify-suffix", metavar="SUFFIX", default="", help="only of names that end so, such as .jpg")


def _bucket(text: str) -> str:
    from carscraper.maintenance.bucket import checked_name

    name: str = typed(checked_name)(text)
    return name


def _sse(text: str) -> str:
    if not re.fullmatch(r"AES256|aws:kms(:[\w:/+=.@-]+)?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no encryption; write AES256, aws:kms or aws:kms:KEY")
    return text


def _origin(text: str) -> str:
    try:
        parts = urlsplit(text)
        good = text == f"{parts.scheme}://{parts.netloc}" and parts.scheme in {"http", "https"} and parts.port != 0
    except ValueError:
        good = False
    if text != "*" and (not good or "@" in text or text.count("*") > 1 or text.endswith("//")):
        raise argparse.ArgumentTypeError(f"{text!r} is no origin; write https://www.example.com, without a path")
    return text


def _arn(kind: str) -> Any:
    def read(text: str) -> str:
        if not re.fullmatch(_ARNS[kind], text, re.ASCII):
            hint = " (S3 sends nothing to FIFO queues)" if text.endswith(".fifo") else ""
            like = f"arn:aws:{kind}:REGION:ACCOUNT:{'function:NAME' if kind == 'lambda' else 'NAME'}"
            raise argparse.ArgumentTypeError(f"{text!r} is no ARN for that{hint}; write {like}")
        return text

    return read


_WORKS = "stored, read and removed"

# --- the verb ---------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Outcome:
    """What came of a bucket, as ``--json`` prints it."""

    bucket: str
    region: str
    settings: dict[str, str]
    """Those to change before a crawl."""
    plan: list[Change] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)
    """Features that the server does not have."""
    done: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    not_tried: list[str] = field(default_factory=list)
    taken_back: dict[str, str] = field(default_factory=dict)
    """Features with which the server refuses photos, and its words."""
    left: list[str] = field(default_factory=list)
    """Photos of the test that could not be removed."""
    photo: str = "not tried"
    """:data:`_WORKS`, or why that failed."""
    notes: list[str] = field(default_factory=list)


def _setup(context: Context, options: argparse.Namespace) -> int:
    from carscraper.maintenance.bucket import Bucket, BucketTakenError

    ours = context.options
    arns = [arn for arn in (options.notify_lambda, options.notify_sqs) if arn]
    if not arns and (options.notify_prefix or options.notify_suffix):
        raise ConfigurationError("--notify-prefix and --notify-suffix need --notify-lambda or --notify-sqs.")
    if options.upload and not options.cors_origin:
        raise ConfigurationError("--upload needs --cors-origin: say which sites may write.")
    for arn in arns:
        if arn.split(":")[3] != ours.region:
            raise ConfigurationError(f"{arn} is not in the bucket's region {ours.region}, where S3 wants it.")
    its = Bucket(context.client, ours)
    try:
        return _set_up(context, options, its)
    except BucketTakenError as error:
        if options.fallback_bucket:
            context.console.note(f"{error} Trying {options.fallback_bucket} (--fallback-bucket).")
            return _set_up(context, options, Bucket(context.client, ours, name=options.fallback_bucket))
        free = its.free_name()
        fix = f"{free} is free just now" if free else "a longer one is likely to be free"
        raise StoreRefusedError(
            f"{error} Choose another name: {fix}; set AWS_S3_BUCKET, or use --fallback-bucket."
        ) from error


def _set_up(context: Context, options: argparse.Namespace, its: Bucket) -> int:
    """Plan, ask, do, and try a photo.

    Raises:
        BucketTakenError: the name is somebody else's.
    """
    console, wanted = context.console, _wanted(context, options, its.name)
    other = {"AWS_S3_BUCKET": its.name} if its.name != context.options.bucket else {}
    outcome = _Outcome(bucket=its.name, region=context.options.region, settings=other)
    exists = its.exists()
    outcome.plan, outcome.lacks, outcome.refused = its.plan(wanted, exists=exists)
    changing = [change for change in outcome.plan if change.lines]
    outcome.notes = _notes(outcome.plan, options)
    _show(context, outcome, exists)
    if options.dry_run:
        return _report(context, options, outcome)
    if changing or not exists:
        if not console.confirm(f"Change the bucket {its.name} like this?"):
            outcome.not_tried = [change.feature for change in changing]
            return _report(context, options, outcome)
        if not exists:
            its.create()
            outcome.done.append("bucket")
        # A new bucket is asked now what it is like by itself.
        plan, outcome.lacks, outcome.refused = its.plan(wanted)
        if exists and not console.assume_yes and any(each not in outcome.plan for each in plan):
            raise ConfigurationError(
                "The bucket was changed by somebody else in the meantime; nothing is done, run it again."
            )
        _apply(its, wanted, plan, outcome)
    _try_photo(its, outcome)
    return _report(context, options, outcome)


def _wanted(context: Context, options: argparse.Namespace, name: str) -> Wanted:
    from carscraper.maintenance import policies
    from carscraper.maintenance.features import Notification, Wanted

    ours, where = context.options, scope(context, name)
    # Over a plain endpoint it would lock us out.
    tls_only = not options.no_tls_only and not (ours.endpoint or "").startswith("http://")
    drop = ((policies.PUBLIC_READ, not options.public), (policies.TLS_ONLY, options.no_tls_only))
    prefix = ours.prefix if options.notify_prefix is None else options.notify_prefix
    return Wanted(
        tls_only=policies.tls_only(where) if tls_only else None,
        public=policies.public_read(where) if options.public else None,
        drop=tuple(sid for sid, goes in drop if goes),
        sse=options.sse or ours.sse,
        versioning=not options.no_versioning,
        cors_origins=tuple(options.cors_origin),
        cors_upload=options.upload,
        rules=() if options.no_lifecycle else tuple(lifecycle.defaults(ours.prefix)),
        notifications=tuple(
            Notification(kind=kind, arn=arn, prefix=prefix, suffix=options.notify_suffix)
            for kind, arn in (("lambda", options.notify_lambda), ("sqs", options.notify_sqs))
            if arn
        ),
    )


def _notes(plan: list[Change], options: argparse.Namespace) -> list[str]:
    """Return what the plan does not say about photos that are public."""
    from carscraper.maintenance import policies

    policy = next((change for change in plan if change.feature == "policy"), None)
    if policy is None or options.public:
        return []
    notes = []
    if f"- {policies.PUBLIC_READ}" in policy.lines:
        notes.append("Photos will not answer at their public address any more (no --public).")
    for statement in filter(policies.lets_everybody_in, policies.statements_of(policy.after)):
        name = statement.get("Sid", "without a Sid")
        notes.append(
            f"A statement of the bucket's policy ({name}) lets everybody in; blocked public access takes its effect."
        )
    return notes


def _apply(its: Bucket, wanted: Wanted, plan: list[Change], outcome: _Outcome) -> None:
    """Make every change that can be made; one that is refused does not keep the others from theirs."""
    from carscraper.maintenance.bucket import FeatureMissingError

    outcome.plan = plan
    for change in plan:
        name = change.feature
        if not change.lines:
            continue
        try:
            outcome.refused |= its.apply_parts(change, wanted)
            outcome.done.append(name)
        except FeatureMissingError:
            outcome.lacks.append(name)
        except StoreError as error:
            outcome.refused[name] = str(error)


def _try_photo(its: Bucket, outcome: _Outcome) -> None:
    """Store, read and remove a photo; take back what makes it fail."""
    from carscraper.maintenance.bucket import is_busy

    outcome.photo = _WORKS
    try:
        its.try_photo()
    except StoreError as error:
        changes = [] if is_busy(error) else outcome.plan
        works, lost = its.take_back_what_breaks_photos(changes)
        if works:
            outcome.taken_back = lost
        else:
            outcome.photo = str(error)
            outcome.refused |= lost
        outcome.done = [each for each in outcome.done if each not in lost]
    outcome.left = its.remove_probes()


# --- output -----------------------------------------------------------------------------------------------------


def _show(context: Context, outcome: _Outcome, exists: bool) -> None:
    """Show the difference: on stdout for people, beside the JSON where somebody is asked."""
    console = context.console
    say = console.note if console.as_json else console.line
    if not (console.as_json and console.assume_yes):
        say(f"The bucket {outcome.bucket} in {outcome.region}:")
        if not exists:
            say("  + bucket: it is made")
        for change in outcome.plan:
            # Such a server says that it is off, and never that it can't be on.
            unsure = ", if this server has it" if change.feature == "versioning" and context.options.endpoint else ""
            for line in change.lines:
                say(f"  {line[0]} {change.feature}: {printable(line[2:])}{unsure}")
    for note in outcome.notes:
        console.note(printable(note))


def _report(context: Context, options: argparse.Namespace, outcome: _Outcome) -> int:
    from carscraper.maintenance.features import FEATURES

    console = context.console
    asked = {
        "policy": options.public,
        "encryption": options.sse,
        "CORS": options.cors_origin,
        "notifications": options.notify_lambda or options.notify_sqs,
    }
    in_vain = [feature for feature, was in asked.items() if was and feature in outcome.lacks]
    fine = outcome.photo in {"not tried", _WORKS}
    # Not before the photo was tried: that may show what to change.
    quiet = fine and not (outcome.done or outcome.refused or outcome.taken_back)
    lines = ["  nothing to change"] if quiet and not any(change.lines for change in outcome.plan) else []
    lines += [f"Done: {', '.join(outcome.done)}."] if outcome.done else []
    lines += [f"Not done: {feature}. {printable(why)}" for feature, why in outcome.refused.items()]
    if outcome.not_tried:
        lines.append(f"Not done: {', '.join(outcome.not_tried)}.")
    if outcome.lacks:
        titles = ", ".join(FEATURES[feature].title for feature in outcome.lacks)
        lines.append(f"This server does not have: {titles}.")
    if in_vain:
        lines.append(f"Asked for, but this server does not have it: {', '.join(in_vain)}.")
    for feature, why in outcome.taken_back.items():
        title = FEATURES[feature].title
        lines.append(f"With {title} this server refuses photos ({printable(why)}): that was taken back.")
    if outcome.left:
        lines.append(f"Left in the bucket, to be removed by hand: {printable(', '.join(outcome.left))}.")
    if outcome.photo != "not tried":
        lines.append(f"A photo, as a test: {printable(outcome.photo)}")
    if outcome.settings and outcome.done:
        lines.append(f"Set AWS_S3_BUCKET={outcome.bucket} before the first crawl, and make IAM policies for that name.")
    console.result(asdict(outcome), lines)
    if not fine and not outcome.done:
        return ExitCode.FAILED
    whole = fine and not (outcome.refused or in_vain or outcome.taken_back or outcome.left)
    return ExitCode.SUCCESS if whole else ExitCode.PARTIAL


SETUP = Verb(
    "setup",
    "Make the bucket, or bring one that is there into shape: access, encryption, versions, rules",
    _setup,
    _setup_arguments,
    changes=True,
)


_MARKS = {True: "✓", False: "✗", None: "–"}


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--public", dest="public", action="store_true", default=None, help="photos should be readable by anybody"
    )
    which.add_argument(
        "--private",
        dest="public",
        action="store_false",
        help="nobody should read photos without credentials; without either word it is public if IMAGES_PUBLIC_URL is "
        "set or the bucket's policy lets everybody read",
    )


def _check(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.maintenance.check import check_bucket

    options, console = context.options, context.console
    if not context.settings.getbool("USE_S3_STORAGE"):
        console.note("USE_S3_STORAGE is off: crawls keep photos elsewhere.")
    steps = []
    for step in check_bucket(options, public=arguments.public):
        steps.append(step)
        if not console.as_json:
            said = f"{step.detail} → {step.fix}" if step.fix else step.detail
            console.line(f"{_MARKS[step.ok]} {step.name:17}  {printable(said)}")
    good = all(step.ok is not False for step in steps)
    if console.as_json:
        where = {"bucket": options.bucket, "endpoint": options.endpoint}
        console.result({"ok": good, **where, "steps": [asdict(step) for step in steps]}, "")
    return ExitCode.SUCCESS if good else ExitCode.FAILED


CHECK = Verb(
    "check",
    "Test the connection: credentials, bucket, objects, addresses; each failure with its fix",
    _check,
    _check_arguments,
)
