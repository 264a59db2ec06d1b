"""``upload DIR``: a local image folder moves to the bucket through the ledger."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from carscraper.cli.console import human_bytes, printable
from carscraper.cli.storage.audit import asked_only, spider_sources
from carscraper.cli.storage.discover import LEFT, end, others, say
from carscraper.cli.verb import DONE, PARTIAL, Context, Verb
from carscraper.exceptions import ConfigurationError, StoreError

if TYPE_CHECKING:
    import argparse

_QUIET = ("uploaded", "entered", "known", "stopped")
_LEFT = (*LEFT, "symlink", "not-a-file", "stopped")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the folder: IMAGES_STORE, or another laid out like it"
    )


def _run(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.storage.s3 import S3Store  # noqa: PLC0415 - boto3, obstore and SQLAlchemy only when used
    from carscraper.upkeep.entry import Cars, Entering, PhotoRules  # noqa: PLC0415
    from carscraper.upkeep.upload import FolderUpload, check_folder  # noqa: PLC0415

    options, console = context.options, context.console
    folder: Path = arguments.folder
    check_folder(folder)
    where = f"s3://{options.bucket}/{options.prefix}"
    shown = printable(str(folder))
    if not arguments.dry_run and not console.confirm(f"Upload the photos of {shown} to {where}?"):
        console.note("Nothing was uploaded.")
        return PARTIAL
    rules = PhotoRules.from_settings(context.settings)
    store = S3Store(options)
    if not arguments.dry_run:
        try:
            store.check()
        except StoreError as error:
            raise ConfigurationError(str(error)) from None
    outcomes: Counter[str] = Counter()
    with asked_only(context) if arguments.dry_run else context.database() as engine:
        work = FolderUpload(
            folder,
            store,
            engine,
            cars=Cars(engine=engine, prefix=options.prefix, named=spider_sources(context)),
            entering=Entering.into(options, rules),
            rules=rules,
            parallel=options.parallel,
        )
        for outcome in work.run(dry_run=arguments.dry_run):
            outcomes[outcome.what] += 1
            console.progress(f"{outcomes['uploaded'] + outcomes['entered']:,} uploaded, {outcomes['known']:,} known")
            if outcome.what not in _QUIET or (outcome.what != "known" and (arguments.dry_run or console.as_json)):
                console.end_progress()
                say(context, outcome)
    console.end_progress()
    done = outcomes["uploaded"] + outcomes["entered"]
    if work.stopped and not done:
        raise work.stopped
    if work.stopped:
        console.note(f"{work.stopped} What is uploaded is entered; run it again for the rest.")
    numbers = {"uploaded": done, "entered": outcomes["entered"], "known": outcomes["known"], **work.counts}
    verb = "Photos to upload" if arguments.dry_run else "Photos uploaded"
    text = (
        f"{verb} {done:,} ({human_bytes(work.counts['bytes'])}), new to the ledger {outcomes['entered']:,}, thumbnails "
        f"{work.counts['thumbnails']:,}; there already {outcomes['known']:,}"
        f"{others(outcomes, 'uploaded', 'entered', 'known')}."
    )
    if not context.settings.getbool("USE_S3_STORAGE"):
        text += f" Set USE_S3_STORAGE=true and crawls put their photos into {where}, too."
    end(context, {**outcomes, **numbers, "dry_run": arguments.dry_run}, [text])
    return PARTIAL if any(outcomes[what] for what in _LEFT) else DONE


VERBS: list[Verb] = [
    Verb(
        name="upload",
        summary="Move a local image folder to the bucket, through the ledger",
        arguments=_arguments,
        run=_run,
        changes=True,
    )
]
