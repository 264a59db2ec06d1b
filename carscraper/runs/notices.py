"""Notices of how a run ended (``NOTIFY_URLS``, ``NOTIFY_ON``), by apprise.

The addresses were written by whoever runs the crawl: they may lead into a private network, and they are secrets.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from carscraper.logs import cleaned, printable
from carscraper.runs.monitors import failed
from carscraper.runs.record import FAILED, INTERRUPTED, PARTIAL

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

    from carscraper.runs.record import RunRecord
    from carscraper.settings import Secret

logger = logging.getLogger(__name__)

_ALL_WITHIN = 30.0  # seconds, for all notices: they are sent at the same time
_LONGEST = 600  # characters of one line; what a page said may be in it
_MOST_LINES = 20


def tell(settings: BaseSettings, record: RunRecord) -> None:
    """Send a notice of *record* to everybody; what can't be sent is a line of the log. Blocking; never raises."""
    secret: Secret | None = settings.get("NOTIFY_URLS")
    if not secret or record.status not in str(settings.get("NOTIFY_ON")).split(","):
        return
    lines = notice_lines(record)
    failures: dict[str, str] = {}
    threads = []
    for number, address in enumerate(secret.reveal().split(), 1):
        name = f"{number} ({_shown(address)})"
        failures[name] = f"no answer within {_ALL_WITHIN:g} s"
        # Not of a pool: the process does not wait for these at its end.
        threads.append(threading.Thread(target=_send, args=(address, lines, record, name, failures), daemon=True))
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _ALL_WITHIN
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    for name, why in sorted(failures.items()):
        logger.warning("Notice %s could not be sent: %s", name, why)


def notice_lines(record: RunRecord) -> list[str]:
    """Return the lines of the notice, for people; nothing in them is escaped for a markup."""
    where = ", ".join(
        part for part in (f"run {record.id}" if record.id is not None else "", f"job {record.job_id}") if part
    )
    lost = sum(record.images_failed.values())
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(record.images_failed.items(), key=lambda one: -one[1]))
    lines = [
        f"{record.spider}: {record.status} on {record.host or 'an unknown host'} ({where})",
        *(record.why or "").split("\n"),
        f"Cars: {record.cars} ({record.cars_new} new, {record.cars_changed} changed), {record.cars_gone} gone",
        f"Photos: {record.images_stored} stored ({record.bytes / 1e6:.1f} MB), {record.images_linked} linked, "
        f"{record.images_known} known before, {lost} failed" + (f" ({reasons})" if reasons else ""),
        f"Requests: {record.requests}" + _duration(record),
    ]
    if record.images_for_sale is not None:
        unstored = ", ".join(f"{n} {reason}" for reason, n in record.images_unstored.items())
        lines.append(
            f"Cars for sale: {record.images_for_sale_stored} of {record.images_for_sale} photos stored"
            + (f" (not stored: {unstored})" if unstored else "")
        )
    # They are among the verdict's lines, if it was given.
    lines += [f"Limit not kept: {said}" for said in failed(record.monitors) if said not in (record.why or "")]
    if record.output.get("status") in {FAILED, PARTIAL}:
        lines.append(f"Outputs: upload {record.output['status']}")
    # No service calls everybody for what a page says.
    lines = [re.sub(r"@(?=everyone|here|channel)", "@\u200b", printable(cleaned(line))) for line in lines if line]
    return [line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…" for line in lines][:_MOST_LINES]


def _duration(record: RunRecord) -> str:
    if record.finished_at is None or record.status == INTERRUPTED:
        return ""
    return f", in {max(0, round((record.finished_at - record.started_at).total_seconds()))} s"


def _send(address: str, lines: list[str], record: RunRecord, name: str, failures: dict[str, str]) -> None:
    """Send one notice and remove its name from *failures*, or write there why not."""
    try:
        why = _notify(address, lines, record)
    except Exception as error:  # a hundred services and their mistakes; none may cost the run its end
        why = type(error).__name__
    if why:
        failures[name] = why
    else:
        failures.pop(name, None)


def _notify(address: str, lines: list[str], record: RunRecord) -> str | None:
    import apprise  # noqa: PLC0415 - takes a while, and most runs need it for nothing

    # Its log quotes addresses.
    log = logging.getLogger("apprise")
    log.propagate = False
    log.handlers = [logging.NullHandler()]
    # Without redirects: the answer is the address's own, and what is told goes nowhere else.
    asset = apprise.AppriseAsset(
        storage_mode=apprise.PersistentStoreMode.MEMORY, allow_templates=False, http_redirects=False
    )
    title, body = lines[0], "\n".join(lines[1:])
    service = apprise.Apprise.instantiate(address, asset=asset)
    if service is None and (webhook := _slack_compatible(address)):
        # Slack's markup: these three letters begin a link or call a channel.
        title, body = "", escape("\n".join(lines), quote=False)
        service = apprise.Apprise.instantiate(webhook, asset=asset)
    if not isinstance(service, apprise.NotifyBase):
        return "apprise does not know such an address; see its list of services"
    kinds = {
        FAILED: apprise.NotifyType.FAILURE,
        INTERRUPTED: apprise.NotifyType.FAILURE,
        PARTIAL: apprise.NotifyType.WARNING,
    }
    sent = service.notify(
        title=title,
        body=body,
        notify_type=kinds.get(record.status, apprise.NotifyType.INFO),
        body_format=apprise.NotifyFormat.TEXT,
    )
    return None if sent else "it was not taken; `apprise -vv` shows what the service answers"


def _slack_compatible(address: str) -> str | None:
    """Return apprise's form of a plain webhook, which is sent ``{"text": …}``; ``None`` of another address.

    >>> _slack_compatible("https://chat.example.com/hooks/key?a=1")
    'jsons://chat.example.com/hooks/key?-a=1&:message=text&:title=&:type=&:version=&:attachments='
    """
    parts = urlsplit(address)
    schemes = {"http": "json", "https": "jsons"}
    if parts.scheme.lower() not in schemes:
        return None
    own = [f"-{each}" for each in parts.query.split("&") if each]
    query = "&".join([*own, ":message=text", ":title=", ":type=", ":version=", ":attachments="])
    return parts._replace(scheme=schemes[parts.scheme.lower()], query=query, fragment="").geturl()


def _shown(address: str) -> str:
    """Return of an address what is no secret.

    >>> _shown("https://hooks.example.com/services/T0/B0/key"), _shown("tgram://bot-token/chat")
    ('https://hooks.example.com/…', 'tgram://…')
    """
    parts = urlsplit(address)
    return f"{parts.scheme}://" + (f"{parts.hostname}/…" if parts.scheme.lower() in {"http", "https"} else "…")
