"""``scrapy runs upload``: what a run wrote goes to the bucket again, with the settings of now."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.cli.console import human_bytes, printable
from carscraper.cli.runs.common import find, open_runs
from carscraper.cli.verb import DONE, FAILED, PARTIAL
from carscraper.db import runs
from carscraper.exceptions import ConfigurationError
from carscraper.runs import record as words

if TYPE_CHECKING:
    from carscraper.cli.verb import Context
    from carscraper.runs.record import RunRecord

_CODES = {words.SUCCESS: DONE, words.PARTIAL: PARTIAL, words.FAILED: FAILED}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="ID", help="the run's id, or its job's")


def _upload(context: Context, options: argparse.Namespace) -> int:
    from carscraper.runs.outputs import selected, upload  # noqa: PLC0415 - boto3 only when used
    from carscraper.storage.outputs import OutputOptions  # noqa: PLC0415

    with open_runs(context) as connection:
        record = find(connection, options.run)
    folder = folder_of(record)
    # What a setting forbids is said without a mark on the run.
    selected(context.settings)
    OutputOptions.from_settings(context.settings).check()
    output = upload(
        context.settings,
        folder,
        job_id=record.job_id,
        started_at=record.started_at,
        spider=record.spider,
        asked=True,
    )
    _write(context, record, output)
    files = "1 file" if output["filesUploaded"] == 1 else f"{output['filesUploaded']} files"
    text = [f"Run {record.id}: {files} uploaded ({human_bytes(output['bytesUploaded'])})."]
    context.console.result(output, [*text, *output["s3Urls"]])
    for error in output["errors"]:
        context.console.note(error)
    return _CODES[output["status"]]


def folder_of(record: RunRecord) -> Path:
    """Give the run's folder.

    Raises:
        ConfigurationError: it is not here, or not complete yet.
    """
    named = record.output.get("folder")
    if not named:
        raise ConfigurationError(f"Run {record.id} wrote no files: it never began, or OUTPUTS_DIR was empty.")
    if record.status == words.RUNNING:
        raise ConfigurationError(f"Run {record.id} is still under way on {printable(record.host)}; wait for its end.")
    folder = Path(named)
    if not folder.is_dir():
        here = socket.gethostname()
        where = f"{printable(record.host)}, which is not {here}" if record.host != here else "this machine"
        raise ConfigurationError(f"The files of run {record.id} are not there: {printable(named)} on {where}.")
    return folder


def _write(context: Context, record: RunRecord, output: dict[str, Any]) -> None:
    assert record.id is not None
    if record.output.get("filesUploaded") and not output["filesUploaded"]:
        context.console.note("What was uploaded before is still there; the run keeps that.")
        return
    with context.database(create=False) as engine, engine.begin() as connection:
        runs.save_output(connection, record.id, output)


FUNCTIONS = {"upload": (_arguments, _upload)}
