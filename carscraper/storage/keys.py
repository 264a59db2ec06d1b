"""What is stored, its name and its permanent URL: pure functions."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from carscraper.vehicles import make_slug, slug

if TYPE_CHECKING:
    from collections.abc import Iterable

THUMBNAILS_FOLDER = "thumbnails"
PROBES = "_test/"
"""Below ``S3_PREFIX``: where checks and rehearsals put what they remove again."""
IMMUTABLE = "public, max-age=31536000, immutable"
"""``Cache-Control`` of a photo: its key follows from its bytes."""

_SLUG = r"[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?"
_SCHEME = re.compile(
    rf"(?!{THUMBNAILS_FOLDER}/)(?P<spider>{_SLUG})/(?P<year>[1-9][0-9]{{0,4}}|unknown)/(?P<make>{_SLUG})/(?P<model>{_SLUG})/"
    r"(?P<external_id>[a-z0-9][a-z0-9-]{0,59})_(?P<hash>[0-9a-f]{12})\.(?P<extension>[a-z0-9]{2,5})"
)
_OUTPUT = re.compile(r"[0-9]{8}_[0-9]{6}_[A-Za-z0-9._-]{1,80}/[^/]+")  # as runs.outputs.folder_name() makes them
_THUMBNAIL = re.compile(rf"{THUMBNAILS_FOLDER}/(?P<name>[a-z0-9_-]+)/(?P<key>.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """One object on its way to the store."""

    name: str
    """The object's name in the store, prefix included."""
    data: bytes
    content_type: str
    metadata: dict[str, str] = field(default_factory=dict)
    """``source``, ``external-id``, ``source-url``: kept with the object."""
    row: dict[str, str | int | None] | None = None
    """What the ledger's row becomes once the bytes are safe; ``None`` for thumbnails, which have no row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyParts:
    """What a photo's key says."""

    spider: str
    year: int | None
    make: str
    """A slug, ``unknown`` for none; so is the model."""
    model: str
    external_id: str
    """As the key has it: an id of other characters than letters and digits is a slug with a digest there."""
    hash: str
    """The first 12 hexadecimal digits of the SHA-256 of the bytes."""
    extension: str


def normalise_prefix(prefix: str | None) -> str:
    """Return *prefix* with exactly one slash at its end, or nothing.

    >>> normalise_prefix("/cars//is"), normalise_prefix("cars/"), normalise_prefix("")
    ('cars/is/', 'cars/', '')
    """
    parts = [part for part in (prefix or "").split("/") if part]
    return "".join(f"{part}/" for part in parts)


def image_key(
    *,
    spider: str,
    year: int | None,
    make: str | None,
    model: str | None,
    external_id: str,
    sha256: str,
    extension: str,
) -> str:
    """Return the key of a photo: ``{spider}/{year}/{make}/{model}/{external_id}_{hash}.{ext}``.

    *sha256* is of the stored bytes; its first 12 digits are the hash. The key is decided once, when the photo is
    first stored.

    >>> image_key(spider="bilasolur", year=2019, make="ŠKODA", model="Þór 4x4", external_id="296487",
    ...           sha256="0123456789abcdef", extension="jpg")
    'bilasolur/2019/skoda/thor-4x4/296487_0123456789ab.jpg'
    """
    parts = (
        slug(spider),
        str(year) if year else "unknown",
        make_slug(make),
        slug(model),
        id_slug(external_id),
    )
    return f"{'/'.join(parts)}_{sha256[:12]}.{extension}"


def id_slug(external_id: str) -> str:
    """Return a car's id as keys have it."""
    # Ids are digits on every known site. Should one hold other characters, two ids must still give two slugs.
    if re.fullmatch(r"[a-z0-9]{1,40}", external_id):
        return external_id
    digest = hashlib.sha256(external_id.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{slug(external_id, max_length=40)}-{digest}"


def thumbnail_key(name: str, key: str) -> str:
    """Return the key of the thumbnail *name* of the photo at *key*.

    >>> thumbnail_key("small", "bilasolur/2019/skoda/octavia/1_ab.jpg")
    'thumbnails/small/bilasolur/2019/skoda/octavia/1_ab.jpg'
    """
    return f"{THUMBNAILS_FOLDER}/{name}/{key}"


def parse_key(name: str, prefix: str = "") -> KeyParts | None:
    """Read the object name of a photo; ``None`` for a thumbnail and for what is not of our scheme.

    *prefix* is ``S3_PREFIX`` as :func:`normalise_prefix` gives it.

    >>> found = parse_key("cars/bilasolur/2019/skoda/thor-4x4/296487_0123456789ab.jpg", "cars/")
    >>> found.spider, found.year, found.make, found.model, found.external_id, found.hash, found.extension
    ('bilasolur', 2019, 'skoda', 'thor-4x4', '296487', '0123456789ab', 'jpg')
    >>> parse_key("bilasolur/unknown/unknown/unknown/1_0123456789ab.png").year is None
    True
    >>> parse_key("thumbnails/small/bilasolur/2019/kia/rio/1_0123456789ab.jpg"), parse_key("notes.txt")
    (None, None)
    """
    found = _SCHEME.fullmatch(name[len(prefix) :]) if name.startswith(prefix) else None
    if found is None:
        return None
    parts = found.groupdict()
    year = parts.pop("year")
    return KeyParts(year=None if year == "unknown" else int(year), **parts)


def parse_thumbnail(name: str, prefix: str = "") -> tuple[str, str] | None:
    """Read the object name of a thumbnail: its own name, and the photo's key without the prefix.

    >>> parse_thumbnail("cars/thumbnails/small/bilasolur/2019/kia/rio/1_0123456789ab.jpg", "cars/")
    ('small', 'bilasolur/2019/kia/rio/1_0123456789ab.jpg')
    >>> parse_thumbnail("bilasolur/2019/kia/rio/1_0123456789ab.jpg") is None
    True
    """
    found = _THUMBNAIL.fullmatch(name[len(prefix) :]) if name.startswith(prefix) else None
    return (found["name"], found["key"]) if found else None


def kind_of(name: str, prefix: str, outputs: str | None = None) -> str:
    """Return what the object *name* is: ``photo``, ``thumbnail``, ``output`` of a run (below *outputs*) or ``other``.

    >>> kind_of("outputs/20261121_030000_br-1/run.log", "cars/", "outputs/"), kind_of("outputs/x", "", "outputs/")
    ('output', 'other')
    """
    if parse_key(name, prefix):
        return "photo"
    if outputs is not None and name.startswith(outputs) and _OUTPUT.fullmatch(name, len(outputs)):
        return "output"
    return "thumbnail" if parse_thumbnail(name, prefix) else "other"


def reserved_folders(prefix: str, outputs: str) -> tuple[str, ...]:
    """Return the folders below *prefix* that are not for photos: rehearsals clear the first.

    >>> reserved_folders("cars/", "cars/outputs/"), reserved_folders("cars/", "outputs/")
    (('_test/', 'thumbnails/', 'outputs/'), ('_test/', 'thumbnails/'))
    """
    ours = (PROBES, f"{THUMBNAILS_FOLDER}/")
    return (*ours, outputs.removeprefix(prefix)) if outputs.startswith(prefix) and outputs != prefix else ours


def permanent_url(key: str, base: str) -> str:
    """Return the address of *key* below *base*, percent-encoded.

    >>> permanent_url("a b/þ+%.jpg", "https://img.example.is")
    'https://img.example.is/a%20b/%C3%BE%2B%25.jpg'
    """
    return f"{base.rstrip('/')}/{quote(key, safe='/')}"


def published_bases(*, bucket: str | None, endpoint: str | None, public_url: str | None) -> list[str]:
    """Return what may stand before a key in the permanent URLs of this bucket, as a pattern for the whole host part.

    Earlier programs wrote Amazon's addresses in several styles, with and without the region, also by plain http.
    """
    bases = [re.escape(public_url.rstrip("/"))] if public_url else []
    if bucket:
        name = re.escape(bucket)
        bases += [
            rf"https?://{name}\.s3(?:[.-][a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?",
            rf"https?://s3(?:[.-][a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?/{name}",
        ]
        if endpoint:
            bases += [rf"{re.escape(endpoint.rstrip('/'))}/{name}", re.escape(_virtual(endpoint, bucket))]
    return bases


def key_of(url: str, bases: Iterable[str]) -> str | None:
    """Return the key that the permanent *url* names, ``None`` if it is none of ours.

    >>> bases = published_bases(bucket="cars", endpoint="http://127.0.0.1:9000", public_url=None)
    >>> key_of("https://cars.s3.eu-north-1.amazonaws.com/a/b%20c.jpg", bases)
    'a/b c.jpg'
    >>> key_of("http://127.0.0.1:9000/cars/a.jpg", bases), key_of("https://bilasolur.is/CarImage.aspx?c=1", bases)
    ('a.jpg', None)
    """
    for base in bases:
        found = re.fullmatch(rf"{base}/([^?#]+)(?:[?#].*)?", url.strip(), re.IGNORECASE)
        if found:
            return unquote(found.group(1))
    return None


def public_base(*, bucket: str, region: str, endpoint: str | None, virtual: bool) -> str:
    """Return what stands before the key at the S3 server.

    >>> public_base(bucket="b", region="eu-north-1", endpoint=None, virtual=True)
    'https://b.s3.eu-north-1.amazonaws.com'
    >>> public_base(bucket="b", region="eu-north-1", endpoint="http://127.0.0.1:9000", virtual=False)
    'http://127.0.0.1:9000/b'
    """
    server = endpoint or f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    return _virtual(server, bucket) if virtual else f"{server.rstrip('/')}/{bucket}"


def _virtual(server: str, bucket: str) -> str:
    scheme, _, rest = server.rstrip("/").partition("://")
    return f"{scheme}://{bucket}.{rest}"


def is_virtual(*, bucket: str, endpoint: str | None, style: str) -> bool:
    """Return whether the bucket's name is put before the host's, and not into the path: what boto3 does.

    Args:
        bucket: its name.
        endpoint: ``None`` is Amazon's.
        style: ``path``, ``virtual``, or ``auto``: virtual at Amazon's own address.

    >>> [is_virtual(bucket="b", endpoint=None, style=style) for style in ("auto", "virtual", "path")]
    [True, True, False]
    >>> [is_virtual(bucket="b", endpoint="http://s3.example", style=style) for style in ("auto", "virtual", "path")]
    [False, True, False]
    >>> [is_virtual(bucket=name, endpoint=None, style="virtual") for name in ("b.c", "b-c")]
    [False, True]
    >>> is_virtual(bucket="b", endpoint="http://127.0.0.1:9000", style="virtual")
    False
    """
    server = urlsplit(endpoint or "https://amazonaws.com")
    host = server.hostname or ""
    # No certificate is for a bucket's dots, and nothing stands before numbers.
    if (server.scheme == "https" and "." in bucket) or re.fullmatch(r"[0-9.]+|.*:.*", host):
        return False
    amazon = re.fullmatch(r"(?!.*\.vpce\.)(.*\.)?amazonaws\.com(\.cn)?", host)
    return style == "virtual" or (style == "auto" and amazon is not None)


def without_bucket(endpoint: str, bucket: str) -> str | None:
    """Return *endpoint* without the bucket's name, ``None`` if that is not part of it.

    >>> without_bucket("https://s3.example/x/cars", "cars"), without_bucket("https://s3.example/x", "cars")
    ('https://s3.example/x', None)
    >>> without_bucket("https://cars.s3.eu-north-1.amazonaws.com", "cars")
    'https://s3.eu-north-1.amazonaws.com'
    >>> without_bucket("https://cars.ams3.digitaloceanspaces.com", "cars"), without_bucket("https://cars.is", "cars")
    ('https://ams3.digitaloceanspaces.com', None)
    """
    if endpoint.endswith(f"/{bucket}") and urlsplit(endpoint).path:
        return endpoint.removesuffix(f"/{bucket}")
    # A server may be called as the bucket is: it must look like a service's address.
    services = r"[\w.-]*\bs3\b|.*\.(?:digitaloceanspaces|cloudflarestorage)\.com"
    found = re.match(rf"(https?://){re.escape(bucket)}\.((?:{services}).*)", endpoint)
    return f"{found[1]}{found[2]}" if found else None
