"""Who is told how a run ended (``NOTIFY_URLS``, ``NOTIFY_ON``): webhooks with Slack's JSON, and apprise's services.

The addresses were written by whoever runs the crawl: they may lead into a private network, and they are secrets.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from carscraper.logs import cleaned, printable
from carscraper.runs.monitors import failed
from carscraper.runs.record import FAILED, INTERRUPTED, PARTIAL

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

    from carscraper.runs.record import RunRecord
    from carscraper.settings import Secret

logger = logging.getLogger(__name__)

_ANSWER_WITHIN = 10.0  # seconds, for each step of one notice
_ALL_WITHIN = 30.0  # seconds, for all of them: they are sent at the same time
_LONGEST = 600  # characters of one line; what a page said may be in it
_MOST_LINES = 20


def tell(settings: BaseSettings, record: RunRecord) -> None:
    """Send a notice of *record* to everybody; what can't be sent is a line of the log. Blocking; never raises."""
    secret: Secret | None = settings.get("NOTIFY_URLS")
    if not secret or record.status not in str(settings.get("NOTIFY_ON")).split(","):
        return
    lines = text_of(record)
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


def text_of(record: RunRecord) -> list[str]:
    """Give the lines of the notice, for people; nothing in them is escaped for a markup."""
    where = ", ".join(
        part for part in (f"run {record.id}" if record.id is not None else "", f"job {record.job_id}") if part
    )
    lost = sum(record.images_failed.values())
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(record.images_failed.items(), key=lambda one: -one[1]))
    lines = [
        f"{record.spider}: {record.status} on {record.host or 'an unknown host'} ({where})",
        record.why or "",
        f"Cars: {record.cars} ({record.cars_new} new, {record.cars_changed} changed), {record.cars_gone} gone",
        f"Photos: {record.images_stored} stored ({record.bytes / 1e6:.1f} MB), {record.images_linked} linked, "
        f"{record.images_known} known before, {lost} failed" + (f" ({reasons})" if reasons else ""),
        f"Requests: {record.requests}" + _duration(record),
        *(f"Limit not kept: {said}" for said in failed(record.monitors)),
    ]
    if record.output.get("status") in {FAILED, PARTIAL}:
        lines.append(f"Outputs: upload {record.output['status']}")
    return [_cut(printable(cleaned(line))) for line in lines if line][:_MOST_LINES]


def _duration(record: RunRecord) -> str:
    if record.finished_at is None or record.status == INTERRUPTED:
        return ""
    return f", in {max(0, round((record.finished_at - record.started_at).total_seconds()))} s"


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _send(address: str, lines: list[str], record: RunRecord, name: str, failures: dict[str, str]) -> None:
    """Send one notice and take its name from *failures*, or write there why not."""
    is_webhook = urlsplit(address).scheme.lower() in {"http", "https"}
    try:
        why = _post(address, lines) if is_webhook else _by_apprise(address, lines, record)
    except Exception as error:  # a hundred services and their mistakes; none may cost the run its end
        why = _explained(error)
    if why:
        failures[name] = why
    else:
        failures.pop(name, None)


def _explained(error: BaseException) -> str:
    """Say what went wrong, without the address that some errors quote."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {printable(reason)}" if isinstance(reason, str) else type(error).__name__


def _shown(address: str) -> str:
    """Give of an address what is no secret.

    >>> _shown("https://hooks.example.com/services/T0/B0/key"), _shown("tgram://bot-token/chat")
    ('https://hooks.example.com/…', 'tgram://…')
    """
    parts = urlsplit(address)
    return f"{parts.scheme}://" + (f"{parts.hostname}/…" if parts.scheme.lower() in {"http", "https"} else "…")


# --- webhooks ---------------------------------------------------------------------------------------------------


def slack_text(lines: list[str]) -> str:
    r"""Give *lines* as Slack's markup: the three letters that could begin a link or call a channel are escaped.

    >>> slack_text(["a <!channel> & b", "c"])
    '*a &lt;!channel&gt; &amp; b*\nc'
    """
    escaped = [line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in lines]
    return "\n".join([f"*{escaped[0]}*", *escaped[1:]])


def _post(address: str, lines: list[str]) -> str | None:
    parts = urlsplit(address)
    headers = {"Content-Type": "application/json", "User-Agent": "carscraper"}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
    body = json.dumps({"text": slack_text(lines)}).encode()
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - the caller has seen that it is http or https
    # Without a handler for redirects: the answer is the address's own, and what is told goes nowhere else.
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()):
        opener.add_handler(handler)
    answer: http.client.HTTPResponse
    with opener.open(request, timeout=_ANSWER_WITHIN) as answer:
        return None if 200 <= answer.status < 300 else f"it answered with HTTP status {answer.status}"


# --- apprise ----------------------------------------------------------------------------------------------------


def _by_apprise(address: str, lines: list[str], record: RunRecord) -> str | None:
    import apprise  # noqa: PLC0415 - takes a while, and most runs need it for nothing

    # Its log quotes addresses.
    log = logging.getLogger("apprise")
    log.propagate = False
    log.handlers = [logging.NullHandler()]
    asset = apprise.AppriseAsset(
        storage_mode=apprise.PersistentStoreMode.MEMORY, allow_templates=False, service_timeout=_ALL_WITHIN
    )
    service = apprise.Apprise(asset=asset)
    if not service.add(address):
        return "apprise does not know such an address; see its list of services"
    kinds = {
        FAILED: apprise.NotifyType.FAILURE,
        INTERRUPTED: apprise.NotifyType.FAILURE,
        PARTIAL: apprise.NotifyType.WARNING,
    }
    sent = service.notify(
        title=lines[0],
        body="\n".join(lines[1:]),
        notify_type=kinds.get(record.status, apprise.NotifyType.INFO),
        body_format=apprise.NotifyFormat.TEXT,
    )
    return None if sent else "the service did not take it; see what apprise says of it (apprise -vv)"
