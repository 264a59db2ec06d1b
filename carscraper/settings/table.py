"""Every setting of carscraper, in one table: checks, ``.env.example`` and ``docs/settings.md`` are made from it.

To add one: a line here, then ``python scripts/settings_docs.py``. To take one away: move its name to ``REMOVED``.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from carscraper.settings import kinds
from carscraper.settings.kinds import BOOLEAN, OPTIONAL, OPTIONAL_SHARE, TEXT, Kind, number, whole
from carscraper.settings.secret import Secret, plain

REMOVED: dict[str, str] = {
    "IMAGES_STORE_MAX_BYTES": "the hot cache is nginx, whose limit is max_size in deploy/nginx.conf",
    "SHARED_PACE": "one process a dealer is what politeness allows, and CRAWL_LOCK sees to it",
}
"""Settings that earlier versions had, and the rest of "NAME is no setting any more: …." (what to use instead).

Whoever still sets one is told, wherever it is written.
"""


@dataclass(frozen=True)
class Setting:
    """One setting, read from ``-s``, the environment and ``.env``."""

    name: str
    default: Any
    kind: Kind
    common: bool = False
    """It is in ``.env.example``, with its default."""
    example: str = ""
    """The same, with this in place of a default."""
    secret: bool = False
    """It is never printed."""
    empty: bool = False
    """Set to nothing it is nothing, where others have their default then."""
    variable: str = ""
    """Another environment variable, which wins."""
    _: KW_ONLY
    help: str

    def read(self, value: Any) -> Any:
        """Return the typed value.

        Raises:
            ConfigurationError: it is wrong.
        """
        typed = self.kind.read(self.name, plain(value))
        return Secret(typed) if self.secret and typed is not None else typed


# One entry is two or three lines, as in a table.
# fmt: off
SECTIONS: dict[str, tuple[Setting, ...]] = {
    "Who crawls": (
        Setting("CONTACT", None, OPTIONAL, example="you@example.com",
                help="Who runs this crawl: a mail address or URL at which dealers can reach you; becomes part of the "
                     "User-Agent."),
        Setting("USER_AGENT", None, OPTIONAL,
                help="Made from the version and `CONTACT` unless set."),
    ),
    "Where photos go": (
        Setting("USE_S3_STORAGE", False, BOOLEAN, common=True,
                help="Photos go to S3 (true) or to the folder `IMAGES_STORE` (false)."),
        Setting("IMAGES_STORE", "var/images", TEXT, common=True, empty=True,
                help="The folder for photos when S3 is off. Set to nothing, photos are not kept at all."),
        Setting("AWS_S3_BUCKET", None, kinds.BUCKET, example="my-car-photos",
                help="The bucket's name. Needed when `USE_S3_STORAGE` is true."),
        Setting("AWS_S3_REGION", None, kinds.REGION, example="eu-north-1",
                help="The bucket's region. Unless set, that of the AWS profile or `AWS_DEFAULT_REGION`, else "
                     "eu-north-1."),
        Setting("AWS_ACCESS_KEY_ID", None, OPTIONAL, common=True, secret=True,
                help="Credentials for S3. Without them boto3 looks for a profile or a role (`AWS_PROFILE`, instance "
                     "metadata)."),
        Setting("AWS_SECRET_ACCESS_KEY", None, OPTIONAL, common=True, secret=True,
                help="The key's secret."),
        Setting("AWS_SESSION_TOKEN", None, OPTIONAL, secret=True,
                help="The token of temporary credentials."),
        Setting("AWS_PROFILE", None, OPTIONAL, common=True,
                help="A named profile of the AWS configuration files, instead of keys."),
        Setting("AWS_ENDPOINT_URL", None, kinds.ENDPOINT, example="http://127.0.0.1:9000",
                variable="AWS_ENDPOINT_URL_S3",
                help="Another S3 server than Amazon's, without the bucket's name."),
        Setting("S3_ADDRESSING_STYLE", "auto", kinds.ADDRESSING_STYLE,
                help="Whether the bucket's name is part of the path or of the host's name (virtual). auto: as the AWS "
                     "profile says, else virtual for Amazon, path for other servers and names with dots."),
        Setting("AWS_CA_BUNDLE", None, OPTIONAL, common=True,
                help="A PEM file with the certificate authority of a private S3 server."),
        Setting("S3_PREFIX", "", kinds.PREFIX, example="cars/",
                help="What stands before every key in the bucket, such as `cars/`."),
        Setting("IMAGES_PUBLIC_URL", None, kinds.HTTP_URL, example="https://images.example.com",
                help="The public address before the key: a CDN or web server. Makes permanent URLs, also for a "
                     "folder: decide it before the first crawl."),
        Setting("CLOUDFRONT_DISTRIBUTION_ID", None, kinds.DISTRIBUTION, example="E2QWRUHEXAMPLE",
                help="The CloudFront distribution in front of the bucket; deleted photos leave its caches."),
        Setting("PRICES_FILE", None, OPTIONAL,
                help="A TOML file of your own prices for `scrapy storage estimate`, in place of the list prices that "
                     "come with it (`carscraper/data/prices.toml`)."),
        Setting("IMAGES_THUMBS", {}, kinds.THUMBNAILS, example="'{\"small\": [320, 240]}'",
                help="Thumbnails to make, under `thumbnails/{name}/{key}`: name and box in pixels, as JSON."),
        Setting("SPOOL_DIR", "var/spool", TEXT, common=True,
                help="Folder for bytes that S3, and cars that the database, can't take just now: on a disk that is "
                     "not cleared, as nothing else has them."),
        Setting("SPOOL_MAX_BYTES", 2 * 1024**3, whole(0),
                help="Bytes that the spool may hold; beyond that photos stay `pending` (`store-error`) for the next "
                     "run."),
        Setting("S3_STORAGE_CLASS", None, kinds.STORAGE_CLASS, common=True,
                help="Storage class of new objects; empty means the bucket's default."),
        Setting("S3_SSE", None, kinds.ENCRYPTION, example="AES256",
                help="Server-side encryption; empty means the bucket's default."),
        Setting("S3_TAGS", {}, kinds.TAGS,
                help='Tags of new objects. Tags need one more right, and some servers '
                     "damage tagged objects."),
        Setting("S3_MAX_PARALLEL_UPLOADS", 16, whole(1),
                help="How many photos are uploaded at the same time."),
        Setting("S3_UPLOAD_TIMEOUT", 60, number(1),
                help="Seconds for one upload with all its retries; what takes longer goes to the spool."),
        Setting("S3_MAX_RETRIES", 5, whole(0),
                help="Retries of one upload after its first try."),
    ),
    "Which photos are kept": (
        Setting("IMAGES_WIDTH", 1280, whole(1), common=True,
                help="Width in pixels that is asked of the dealer for every photo (1280 is the widest in use on "
                     "bilasolur.is)."),
        Setting("IMAGES_MIN_WIDTH", 200, whole(0),
                help="Narrower pictures are refused as `too-small` (icons, spacers)."),
        Setting("IMAGES_MIN_HEIGHT", 150, whole(0),
                help="Lower pictures are refused as `too-small`."),
        Setting("IMAGES_MAX_PIXELS", 40_000_000, whole(1),
                help="Pictures of more pixels are refused as `too-large` before anything is decoded."),
        Setting("IMAGES_MAX_BYTES", 20 * 1024**2, whole(1),
                help="Larger files are refused as `too-large`."),
        Setting("IMAGES_PLACEHOLDER_CARS", 3, kinds.PLACEHOLDER_CARS, common=True,
                help="The same bytes on this many unrelated cars (other make or model) are a placeholder, not a "
                     "photo; 0 switches it off."),
        Setting("IMAGES_NOT_PLACEHOLDERS", "", kinds.HASHES,
                help="SHA-256 (comma separated) of pictures that are photos though many cars show them."),
        Setting("IMAGES_FINAL_AFTER", 3, whole(1),
                help="Days (UTC) on which a dealer must have given the same answer for a photo, such as `http-404` "
                     "or a page instead of a picture, until nobody asks for it again."),
        Setting("IMAGES_STRIP_METADATA", True, BOOLEAN,
                help="Keep of the file only what draws the picture: no positions, names, serial numbers or other "
                     "metadata."),
        Setting("IMAGES_ALLOWED_HOSTS", "", TEXT, common=True,
                help="Hosts (or `host:port`), comma separated, that photos may come from though they are inside a "
                     "private network."),
        Setting("IMAGES_MAX_IN_FLIGHT", 64, whole(1),
                help="Photos between the start of their download and their safe storage; bounds the memory."),
    ),
    "The database": (
        Setting("DATABASE_URL", "sqlite:///var/carscraper.db", kinds.DATABASE_URL, common=True, secret=True,
                help="SQLite in a file, or `postgresql://user:password@host/name` (percent-encode special characters "
                     "of the password)."),
        Setting("DATABASE_TIMEOUT", 30, number(1),
                help="Seconds one database operation may take before it counts as unanswered."),
        Setting("DATABASE_PATIENCE", 120, number(0),
                help="Seconds a database may be unreachable during a crawl; after that cars go to the spool and the "
                     "crawl ends."),
    ),
    "What is read": (
        Setting("DETAILS_MAX_AGE_DAYS", 7, number(0), common=True,
                help="Days after which a car's details page is read again even if its card did not change, spread "
                     "over the days."),
        Setting("CRAWL_MIN_SHARE", 0.5, kinds.SHARE,
                help="A complete crawl that sees less than this share of the known active cars is a failed one, not "
                     "a big sale."),
        Setting("CRAWL_MAX_LOOKUPS", 1000, whole(0),
                help="Cars missing from a complete crawl that are looked up at their own pages; the rest wait for "
                     "the next crawl."),
        Setting("CRAWL_MAX_PAGES", 1000, whole(1),
                help="Result pages of one crawl at most; beyond that the crawl is reported as capped."),
        Setting("CRAWL_LOCK", True, BOOLEAN,
                help="Never crawl a source twice at the same time: the second crawl says so, fetches nothing and "
                     "exits with 0."),
        Setting("LINK_SAME_CARS", True, BOOLEAN, common=True,
                help="At the end of each crawl, link the listings of one car at several sites "
                     "(`car_listings.same_as`)."),
        Setting("HENRY_URL", None, kinds.FEED_URL, example="https://feed.example.com/get.aspx",
                help="The address of the Rögg platform's XML feed, with or without `get.aspx` at its end; the key is "
                     "not part of it."),
        Setting("HENRY_API_KEY", None, kinds.API_KEY, common=True, secret=True,
                help="The dealer's key to the feed. It is sent to `HENRY_URL` only, and shown nowhere."),
        Setting("HENRY_STORE_IMAGES", False, BOOLEAN, common=True,
                help="Store the feed's photos. Customers report that its terms allow links only: ask the platform's "
                     "owner first."),
        Setting("CHROMIUM_PATH", None, kinds.PROGRAM, example="/usr/bin/chromium",
                help="The Chromium (or Chrome) for sites whose pages are made by scripts; looked for in the usual "
                     "places unless set."),
    ),
    "Politeness": (
        Setting("DOWNLOAD_DELAY", 0.4, number(0), common=True,
                help="Seconds between two pages on average (Scrapy varies it by half); AutoThrottle makes it longer."),
        Setting("IMAGES_DOWNLOAD_DELAY", None, number(0, optional=True),
                help="Seconds between two photos; a quarter of `DOWNLOAD_DELAY` unless set."),
        Setting("IMAGES_CONCURRENCY", 8, whole(1), common=True,
                help="Photos that are fetched at the same time."),
        Setting("AUTOTHROTTLE_ENABLED", True, BOOLEAN,
                help="Scrapy's default is False; slows down with the dealer's own latency."),
        Setting("DOWNLOAD_TIMEOUT", 30, number(1),
                help="Scrapy's default is 180 s: a photo or page of this size that takes longer will not come."),
        Setting("RETRY_TIMES", 3, whole(0),
                help="Retries of a page or photo after its first try (Scrapy's default is 2; ours pause longer each "
                     "time)."),
        Setting("RETRY_BACKOFF", 1.0, number(0),
                help="Seconds before the first retry; three times longer each time (1, 3, 9)."),
        Setting("RETRY_AFTER_MAX", 120, number(0),
                help="The longest `Retry-After` in seconds that is waited for; a longer one fails the request."),
    ),
    "More than one machine": (
        Setting("WORKER_SCHEDULE", {}, kinds.SCHEDULE, example='\'{"bilasolur": "17 3,15 * * *"}\'',
                help="Crawls that workers put into the queue by themselves; times as in a crontab, UTC."),
        Setting("WORKER_RETRIES", 3, whole(0),
                help="How often a crawl that did not end well is tried again, before it stays failed."),
        Setting("WORKER_RETRY_DELAY", 300, whole(0),
                help="Seconds until a partial crawl is tried again, as many more each time; a failed one waits "
                     "four times as long."),
        Setting("WORKER_HEARTBEAT", 15, number(0.1),
                help="Seconds between two heartbeats of a worker; after four without one another worker takes its "
                     "crawls over."),
    ),
    "What a run leaves": (
        Setting("OUTPUTS_DIR", "var/jobs", TEXT, common=True, empty=True,
                help="The folder in which each run gets a folder of its own for its items and its log. Set to "
                     "nothing: none is written."),
        Setting("OUTPUTS_KEEP_DAYS", 30, number(0), common=True,
                help="Days after which a run's folder is removed, at the start of another; 0 keeps all. One not yet "
                     "uploaded stays."),
        Setting("S3_UPLOAD_ON_COMPLETION", False, BOOLEAN, common=True,
                help="At the end of each run, upload its items and its log to S3; they stay in `OUTPUTS_DIR`, too."),
        Setting("S3_OUTPUT_BUCKET", None, kinds.BUCKET, example="my-car-outputs",
                help="The bucket for them; `AWS_S3_BUCKET` unless set. Server, region, credentials and `S3_SSE` are "
                     "those of photos."),
        Setting("S3_OUTPUT_PREFIX", "outputs/", kinds.OUTPUT_PREFIX, common=True, empty=True,
                help="What stands there before a run's folder, `{yyyymmdd_hhmmss}_{job}/`; `S3_PREFIX` is not put "
                     "before it."),
        Setting("S3_OUTPUT_INCLUDE", "*", TEXT,
                help="Which files are uploaded: patterns of their names, comma separated, such as `*.log`."),
        Setting("S3_OUTPUT_EXCLUDE", "", TEXT,
                help="Which of those are not uploaded."),
        Setting("S3_OUTPUT_TIMEOUT", 300, number(1),
                help="Seconds for the upload of a run's files with all retries."),
        Setting("S3_OUTPUT_RETRIES", 3, whole(0),
                help="Retries of each request after its first try."),
        Setting("S3_OUTPUT_TAGS", True, BOOLEAN,
                help="Tag the objects with client, type (`items` or `log`) and date. Off for servers that do not "
                     "know tags."),
        Setting("S3_OUTPUT_CLIENT", "carscraper", kinds.OUTPUT_CLIENT,
                help="The value of the tag `client`: whose outputs these are."),
    ),
    "What people see": (
        Setting("LOG_LEVEL", "INFO", kinds.LOG_LEVEL, common=True,
                help="`DEBUG` shows every request and photo."),
        Setting("LOG_FILE", None, OPTIONAL, common=True,
                help="A file for the log, instead of standard error."),
        Setting("LOG_FORMAT", "%(asctime)s [%(name)s] %(levelname)s: %(message)s", kinds.LOG_FORMAT, example="json",
                help="A line of the log: `json` makes each line a JSON object, anything else is a %-format."),
        Setting("PROGRESS_INTERVAL", 60, number(0.1),
                help="Seconds between two progress lines when the output is not a terminal."),
    ),
    "Limits and notices": (
        Setting("MONITOR_MIN_CARS", 0, whole(0),
                help="The fewest cars that a whole crawl of a dealer sees; 0 means no limit. A run that misses a "
                     "limit exits with 3."),
        Setting("MONITOR_MAX_FAILED_PHOTOS", None, OPTIONAL_SHARE,
                help="The share of a run's photos that may fail, such as `0.05`; not set, there is no limit."),
        Setting("MONITOR_MIN_STORED", None, OPTIONAL_SHARE, example="0.99",
                help="The share of the photos of cars for sale that must be stored; not set, there is no limit."),
        Setting("MONITOR_MIN_FILL", {}, kinds.FIELD_SHARES,
                help='Share of the cars that have a field, at least, as JSON: `{"price": 0.8, "photo": 0.9}`.'),
        Setting("MONITOR_IGNORE_FIELDS", "", kinds.IGNORED_FIELDS, common=True,
                help="Dealers whose fields may vanish without making a crawl partial, or fields of one, such as "
                     "`henry,br.fuel`."),
        Setting("MONITOR_MAX_DROP", None, OPTIONAL_SHARE, example="0.3",
                help="The share by which a whole crawl's cars may be fewer than the median of earlier ones; not set, "
                     "there is no limit."),
        Setting("MONITOR_HISTORY", 10, whole(1),
                help="How many earlier runs `MONITOR_MAX_DROP` looks at: the last complete ones of the spider with "
                     "the same arguments."),
        Setting("NOTIFY_URLS", None, kinds.NOTIFY_URLS, common=True, secret=True,
                help="Who is told how a run ended: webhooks (`https://…`) and addresses of apprise (`mailtos://…`), "
                     "comma separated."),
        Setting("NOTIFY_ON", "failed,partial", kinds.ENDINGS, common=True,
                help="Which ends of a run are told: `failed`, `partial`, `success`, `skipped`, `interrupted`."),
        Setting("METRICS_DIR", None, OPTIONAL, common=True,
                help="The node exporter's textfile folder: each spider has a file of metrics there. Not set, none is "
                     "written."),
    ),
}
# fmt: on

SETTINGS: dict[str, Setting] = {setting.name: setting for section in SECTIONS.values() for setting in section}
