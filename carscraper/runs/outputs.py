"""A run's files: its items as JSON Lines (gzip), and its log, in a folder of the run's own.

They are copies for people: what is kept of a car is kept elsewhere. So a disk that is full costs these files, never the
crawl.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
import re
import time
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.exceptions import ConfigurationError
from carscraper.items import CarItem, GoneCar, utcnow
from carscraper.logs import LogFile, dress, printable
from carscraper.runs.record import FAILED, OFF, PARTIAL, PENDING, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from scrapy.settings import BaseSettings

logger = logging.getLogger(__name__)

_NOT_WHOLE = "not whole."
"""The end of a sentence about a file that lacks something, which no upload mends."""
ITEMS, LOG = "items.jsonl.gz", "run.log"
"""The files' names."""
FILE_KINDS = {ITEMS: ("items", "application/gzip"), LOG: ("log", "text/plain; charset=utf-8")}
"""Each file's tag ``type`` and its content type."""

_MARK = ".upload-pending"
"""Lies in a folder that is to be uploaded, until that is done: such a folder is not removed."""
_TIME = "%Y%m%d_%H%M%S"
_OURS = re.compile(r"([0-9]{8}_[0-9]{6})_[A-Za-z0-9._-]{1,80}")
_LONGEST_JOB = 64
_FLUSH_EVERY = 1.0  # seconds; each flush costs a few bytes of the compression
_APART = {"images", "image_urls", "card_hash", "gone", "shows_all", "give_up_photos"}
CAR_FIELDS = tuple(each.name for each in fields(CarItem) if each.name not in _APART)
"""The fields of a car that are written, its photos apart."""
_WRITTEN = {CarItem: CAR_FIELDS, GoneCar: tuple(each.name for each in fields(GoneCar) if each.name not in _APART)}
_OF_AN_IMAGE = ("identity", "url", "key", "status", "reason")


def folder_name(started_at: datetime, job_id: str) -> str:
    """Return the name of a run's folder, here and in the bucket: ``{yyyymmdd_hhmmss}_{job}``.

    A job id of other characters than those of file names, or too long, is cut short and gets a digest of the whole.

    >>> folder_name(datetime(2026, 11, 21, 7, 4, 9), "6487ec79947edab326d6db28a2d86511")
    '20261121_070409_6487ec79947edab326d6db28a2d86511'
    >>> folder_name(datetime(2026, 11, 21, 7, 4, 9), "../../etc")
    '20261121_070409_etc-74ccf3c5'
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", job_id).strip(".-")[:_LONGEST_JOB]
    if safe != job_id or not safe:
        digest = hashlib.sha256(job_id.encode("utf-8", "backslashreplace")).hexdigest()
        safe = f"{safe or 'job'}-{digest[:8]}"
    return f"{started_at.strftime(_TIME)}_{safe}"


def record_of(item: CarItem | GoneCar) -> dict[str, Any]:
    """Return the car's fields, and of each photo what names it and what became of it."""
    record: dict[str, Any] = {name: getattr(item, name) for name in _WRITTEN[type(item)]}
    if isinstance(item, CarItem):
        record["gone"] = item.gone
        record["images"] = [{name: getattr(image, name) for name in _OF_AN_IMAGE} for image in item.images]
    else:
        record["gone"] = True
    return record


def line_of(item: CarItem | GoneCar) -> bytes:
    """Return *item* as one line of JSON."""
    # Half a surrogate pair becomes JSON's escape for it.
    return _JSON.encode(record_of(item)).encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)


_JSON = json.JSONEncoder(ensure_ascii=False, default=_plain)  # json.dumps would make one for each car


def selected(settings: BaseSettings) -> list[str]:
    """Return the names of the files that are to be uploaded.

    Raises:
        ConfigurationError: the patterns leave none.
    """

    def fits(name: str, setting: str) -> bool:
        return any(fnmatchcase(name, pattern.strip()) for pattern in settings.getlist(setting))

    found = [name for name in FILE_KINDS if fits(name, "S3_OUTPUT_INCLUDE") and not fits(name, "S3_OUTPUT_EXCLUDE")]
    if not found:
        raise ConfigurationError(
            f"S3_OUTPUT_INCLUDE and S3_OUTPUT_EXCLUDE leave nothing to upload of {' and '.join(FILE_KINDS)}; "
            "set S3_UPLOAD_ON_COMPLETION=false if that is what you want."
        )
    return found


class JobFolder:
    """One run's folder, while the run lasts.

    The methods are for the thread of the crawl; none of them raises for what the disk does.
    """

    def __init__(self, path: Path, settings: BaseSettings) -> None:
        """Accept the folder, absolute, and checked settings; nothing is made before :meth:`open`."""
        self.path = path
        """The folder, absolute."""
        self.troubles: list[str] = []
        """Why files are missing or not whole, a sentence for each."""
        self._settings = settings
        self._enabled = settings.getbool("S3_UPLOAD_ON_COMPLETION")
        self._handler: LogFile | None = None
        self._items: gzip.GzipFile | None = None
        self._flushed = 0.0

    @classmethod
    def from_settings(cls, settings: BaseSettings, *, job_id: str, started_at: datetime) -> Self | None:
        """Read the settings, and ask the bucket of the upload; ``None`` if ``OUTPUTS_DIR`` is empty. Blocking.

        Args:
            settings: checked ones.
            job_id: anything.
            started_at: UTC, without a zone.

        Raises:
            ConfigurationError: an upload is asked for that can't be: no folder, bucket or credentials, no files, or
                the bucket is not there or refuses.
        """
        folder = settings.get("OUTPUTS_DIR")
        if settings.getbool("S3_UPLOAD_ON_COMPLETION"):
            from carscraper.storage.outputs import OutputOptions  # noqa: PLC0415 - boto3 only when used

            if not folder:
                raise ConfigurationError(
                    "S3_UPLOAD_ON_COMPLETION is on but OUTPUTS_DIR is empty: name the folder for a run's files."
                )
            selected(settings)
            options = OutputOptions.from_settings(settings)
            # The photos' bucket is asked for the photos.
            if (options.own_bucket or not settings.getbool("USE_S3_STORAGE")) and (away := options.check()):
                logger.warning("%s The items and the log are to go there; that is tried when the run has ended.", away)
        if not folder:
            return None
        return cls(Path(folder).absolute() / folder_name(started_at, job_id), settings)

    def open(self) -> None:
        """Remove old folders, make this one, and write the log into it from now on."""
        if days := self._settings.getfloat("OUTPUTS_KEEP_DAYS"):
            keep = timedelta(days=min(days, timedelta.max.days))
            remove_old(self.path.parent, utcnow(), keep)
        try:
            self.path.mkdir(parents=True)
            if self._enabled:
                (self.path / _MARK).touch()
            self._items = gzip.open(self.path / ITEMS, "xb", compresslevel=6)  # noqa: SIM115 - while the run lasts
            self._handler = _log_file(self.path / LOG, self._settings)
        except OSError as error:
            self._broken(error)
        else:
            self._handler.broken = lambda _, error: self._broken(error, LOG)
            logging.root.addHandler(self._handler)

    def write(self, item: Any) -> None:
        """Write one line for a car; anything else that a spider gives is left out."""
        if self._items is None or not isinstance(item, CarItem | GoneCar):
            return
        try:
            self._items.write(line_of(item))
            now = time.monotonic()
            if now - self._flushed > _FLUSH_EVERY:
                self._flushed = now
                self._items.flush()  # what is flushed can be read, whatever becomes of this process
        except OSError as error:
            self.close_items()
            self._broken(error, ITEMS)

    def close_items(self) -> None:
        """Close the items' file."""
        items, self._items = self._items, None
        if items is not None:
            try:
                items.close()
            except OSError as error:
                self._broken(error, ITEMS)

    def close_log(self) -> None:
        """Write no more of the log."""
        handler, self._handler = self._handler, None
        if handler is not None:
            logging.root.removeHandler(handler)
            try:
                handler.close()
            except OSError as error:
                self._broken(error, LOG)

    def output(self) -> dict[str, Any]:
        """Return the row's ``output`` while the run lasts."""
        return _output(self.path, enabled=self._enabled, errors=self.troubles)

    def _broken(self, error: OSError, name: str = "") -> None:
        what, are = (self.path / name, "it is") if name else (f"The run's folder {self.path}", "its files are")
        said = f"{what} can't be written ({error.strerror or error}); {are} {_NOT_WHOLE}"
        if said not in self.troubles:
            self.troubles.append(said)
            logger.error("%s The crawl goes on.", said)


def _log_file(path: Path, settings: BaseSettings) -> LogFile:
    handler = LogFile(path, mode="x", encoding="utf-8", errors="backslashreplace")
    dress(handler, settings)
    return handler


# --- old folders ------------------------------------------------------------------------------------------------


def remove_old(parent: Path, now: datetime, keep: timedelta) -> None:
    """Remove the folders of runs below *parent* that began longer ago than *keep*.

    Only those with a run's name and nothing but a run's files in them, to which nothing was added for as long; and
    none that is still to be uploaded.

    Args:
        parent: ``OUTPUTS_DIR``; need not be there.
        now: UTC, without a zone.
        keep: how old they may get.
    """
    waiting = 0
    try:
        for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
            if _is_old(folder, now, keep):
                waiting += not _remove(folder)
    except OSError as error:
        logger.warning("Old folders of runs in %s can't be removed (%s)", parent, error.strerror or error)
    if waiting:
        logger.info("%d old folders of runs stay in %s: they are still to be uploaded", waiting, parent)


def _is_old(folder: Path, now: datetime, keep: timedelta) -> bool:
    found = _OURS.fullmatch(folder.name)
    if not found or folder.is_symlink() or not folder.is_dir():
        return False
    try:
        began = datetime.strptime(found[1], _TIME)  # noqa: DTZ007 - UTC, as all times here
        changed = max((each.stat().st_mtime for each in folder.iterdir()), default=0)
    except (ValueError, FileNotFoundError):  # another run may be at it, too
        return False
    last = max(began, datetime.fromtimestamp(changed, UTC).replace(tzinfo=None))
    return now - last > keep


def _remove(folder: Path) -> bool:
    """Remove *folder*, or return false if it is still to be uploaded."""
    try:
        inside = {each.name for each in folder.iterdir()}
    except FileNotFoundError:
        return True
    if _MARK in inside:
        return False
    if inside <= FILE_KINDS.keys():
        for name in inside:
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
    return True


# --- the upload -------------------------------------------------------------------------------------------------


def upload_outputs(
    settings: BaseSettings,
    folder: Path,
    *,
    job_id: str,
    started_at: datetime,
    spider: str,
    troubles: Sequence[str] = (),
    asked: bool = False,
) -> dict[str, Any]:
    """Upload a run's files; blocks, for ``S3_OUTPUT_TIMEOUT`` seconds and a few more at most.

    What S3, the disk or a setting does is in the result, never raised.

    Args:
        settings: checked ones.
        folder: the run's.
        job_id: the run's.
        started_at: UTC, without a zone.
        spider: its name, for the log.
        troubles: ``JobFolder.troubles``.
        asked: upload though ``S3_UPLOAD_ON_COMPLETION`` is off.

    Returns:
        ``RunRecord.output``.
    """
    enabled = asked or settings.getbool("S3_UPLOAD_ON_COMPLETION")
    output = _output(folder, enabled=enabled, errors=troubles)
    if enabled:
        try:
            _upload(settings, folder, folder_name(started_at, job_id), output)
        except (ConfigurationError, OSError) as error:
            output["errors"].append(str(error))
        done = PARTIAL if output["filesUploaded"] else FAILED
        output["status"] = done if output["errors"] else SUCCESS
    if enabled and not asked and not output["errors"]:
        logger.info("%s: %d bytes uploaded: %s", spider, output["bytesUploaded"], ", ".join(output["s3Urls"]))
    elif enabled and not asked:
        # What went wrong is in the verdict's last line.
        logger.warning("%s: not all items and log are uploaded; `scrapy runs upload %s` does it again", spider, job_id)
    return output


def _upload(settings: BaseSettings, folder: Path, name: str, output: dict[str, Any]) -> None:
    from carscraper.storage import outputs  # noqa: PLC0415 - boto3 only when used

    names = selected(settings)
    options = outputs.OutputOptions.from_settings(settings)
    if folder.is_dir():
        (folder / _MARK).touch()
    there = [each for each in names if (folder / each).is_file() and not (folder / each).is_symlink()]
    if not output["errors"]:
        output["errors"] += [f"{folder / each} is not there." for each in names if each not in there]
    day = f"{name[:4]}-{name[4:6]}-{name[6:8]}"
    files = [
        outputs.OutputFile(path=folder / each, key=options.key(name, each), kind=kind, date=day, content_type=of_type)
        for each in there
        for kind, of_type in [FILE_KINDS[each]]
    ]
    done = outputs.upload_files(options, files) if files else outputs.Uploaded()
    output["errors"] += [printable(error) for error in done.errors]
    output |= {"s3Urls": done.urls, "filesUploaded": len(done.urls), "bytesUploaded": sum(done.sizes)}
    if done.urls:
        output["uploadedAt"] = datetime.now(UTC).isoformat(timespec="seconds")
    if len(done.urls) == len(names):
        (folder / _MARK).unlink(missing_ok=True)


def not_whole(output: Mapping[str, Any]) -> list[str]:
    """Return what the *output* of a run says of files that lack something, which no upload mends."""
    return [error for error in output.get("errors", ()) if error.endswith(_NOT_WHOLE)]


def is_missing(output: Mapping[str, Any]) -> bool:
    """Return whether files of a run's *output* are still to be uploaded."""
    status = output.get("status")
    return status == PENDING or (status in {PARTIAL, FAILED} and output["errors"] != not_whole(output))


def _output(folder: Path, *, enabled: bool, errors: Sequence[str]) -> dict[str, Any]:
    return {
        "enabled": enabled,
        "status": PENDING if enabled else OFF,
        "uploadedAt": None,
        "s3Urls": [],
        "filesUploaded": 0,
        "bytesUploaded": 0,
        "errors": list(errors),
        "folder": str(folder),
    }
