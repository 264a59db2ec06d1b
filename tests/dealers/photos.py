"""The photo factory: real pictures of invented cars, each with bytes of its own, cheap by the thousand.

A drawing is encoded once for every look and width. What makes the bytes of one photo unique is 69 bytes
more in the file: a fourth quantization table that no component uses, filled from the photo's name. Every
decoder reads and ignores it, and unlike a comment or EXIF segment no program that strips metadata takes
it out, so two different photos stay different however they are stored. The rest of the file is shared
and never copied.
"""

from __future__ import annotations

import colorsys
import dataclasses
import functools
import hashlib
import io
import random
import unicodedata
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFont

FULL = (1280, 853)
"""Width and height of the original."""
COLOURS = {
    "Svartur": (38, 40, 46),
    "Hvítur": (232, 234, 236),
    "Grár": (120, 126, 134),
    "Rauður": (178, 34, 40),
    "Blár": (36, 82, 160),
    "Grænn": (38, 110, 74),
    "Silfur": (186, 192, 198),
    "Brúnn": (112, 78, 54),
}
BODIES = ("Fólksbíll", "Jeppi", "Sendibíll", "Pallbíll")
VIEWS = 5
"""Side, other side, and closer: front, rear, wheel."""
_CLOSER = {2: (100, 280, 740, 707), 3: (540, 280, 1180, 707), 4: (190, 540, 490, 740)}


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What a drawing shows."""

    colour: str
    body: str
    label: str = ""
    """Text on the number plate strip; "" for drawings that many cars share."""


def size_for(w: int | None) -> tuple[int, int]:
    """The real size of the answer to ``w=``: the original's for none, or for more than the original has."""
    if w is None or not 16 <= w <= FULL[0]:
        return FULL
    return w, round(w * FULL[1] / FULL[0])


class PhotoFactory:
    """Makes photos of about *average_bytes* at full size.

    With *labelled* every car gets drawings with its own name on them (nice to look at, about 10 ms for
    each); without it cars of one colour and body share theirs (a benchmark with 10,000 photos draws some
    dozens).
    """

    def __init__(self, average_bytes: int = 60_000, *, labelled: bool = False) -> None:
        self.average_bytes = average_bytes
        self.labelled = labelled

    def photo(self, name: str, look: Look, view: int, w: int | None, kind: str) -> tuple[tuple[bytes, ...], str]:
        """The photo *name* as parts to be sent one after the other, and its content type.

        *kind* is a key of `KINDS`. The same arguments give the same bytes, in every process.
        """
        if not self.labelled:
            look = Look(look.colour, look.body)
        content_type, _ = KINDS[kind]
        if content_type != "image/jpeg":
            return (_other(look, view % VIEWS, w, kind, name),), content_type
        before, after = _split(look, view % VIEWS, w, _grain(self.average_bytes), kind)
        return (before + _mark(name), after), content_type

    def draw_all(self) -> None:
        """Draw everything that cars share at full size, so that no request has to wait for a pencil."""
        for colour in COLOURS:
            for body in BODIES:
                for view in range(VIEWS):
                    _split(Look(colour, body), view, FULL[0], _grain(self.average_bytes), "jpeg")


@functools.cache
def _grain(average_bytes: int) -> float:
    """Return the share of noise that brings a drawing to this size; grain makes real photos big."""
    low, high = 0.0, 0.9
    for _ in range(7):
        middle = (low + high) / 2
        sizes = [len(_jpeg(Look("Blár", "Jeppi"), view, None, middle)) for view in (0, 2, 4)]
        low, high = (middle, high) if sum(sizes) / 3 < average_bytes else (low, middle)
    return (low + high) / 2


@functools.cache
def placeholder() -> bytes:
    """The "no picture" picture."""
    image = Image.new("RGB", (400, 267), (214, 216, 220))
    draw = ImageDraw.Draw(image)
    draw.text((200, 133), "Engin mynd", fill=(120, 124, 130), font=_font(40), anchor="mm")
    return _saved(image, "JPEG", quality=80)


def _mark(name: str) -> bytes:
    """The unused quantization table (number 3, 8 bit) that makes a file unique."""
    digest = hashlib.blake2b(name.encode(), digest_size=64).digest()
    return b"\xff\xdb\x00\x43\x03" + digest.replace(b"\x00", b"\x01")


@functools.lru_cache(maxsize=1024)
def _split(look: Look, view: int, w: int | None, grain: float, kind: str) -> tuple[bytes, bytes]:
    data = _jpeg(look, view, w, grain, kind)
    at = data.index(b"\xff\xdb")  # before the first table: after JFIF and EXIF, where those have to be
    return data[:at], data[at:]


def _jpeg(look: Look, view: int, w: int | None, grain: float, kind: str = "jpeg") -> bytes:
    _, encode = KINDS[kind]
    image = _drawing(look, view)
    size = size_for(w)
    if size != FULL:
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return encode(Image.blend(image, _noise().crop((0, 0, *size)), grain) if grain > 0.01 else image)


@functools.lru_cache(maxsize=64)
def _other(look: Look, view: int, w: int | None, kind: str, name: str) -> bytes:
    """A picture in another format; a row of squares in its corner makes it unique."""
    image = _drawing(look, view).resize(size_for(w), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for place, byte in enumerate(hashlib.blake2b(name.encode(), digest_size=16).digest()):
        draw.rectangle((4 + 10 * place, 4, 12 + 10 * place, 12), fill=(byte, 255 - byte, (byte * 7) % 256))
    _, encode = KINDS[kind]
    return encode(image)


def _saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def _with_gps(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Prufa", "Sími 1"
    exif.get_ifd(0x8769)[0xA431] = "SERIAL-0123456789"
    exif.get_ifd(0x8825).update({1: "N", 2: (64.0, 8.0, 48.0), 3: "W", 4: (21.0, 56.0, 24.0)})
    return _saved(image, "JPEG", quality=85, exif=exif)


def _rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me a quarter clockwise"
    return _saved(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=85, exif=exif)


def _animated(image: Image.Image) -> bytes:
    return _saved(image, "GIF", save_all=True, append_images=[ImageChops.invert(image)], duration=300)


def _alpha(image: Image.Image) -> bytes:
    image.putalpha(200)
    return _saved(image, "PNG")


KINDS: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "jpeg": ("image/jpeg", lambda image: _saved(image, "JPEG", quality=85)),
    "jpeg-progressive": ("image/jpeg", lambda image: _saved(image, "JPEG", quality=85, progressive=True)),
    "jpeg-gps": ("image/jpeg", _with_gps),
    "jpeg-rotated": ("image/jpeg", _rotated),
    "jpeg-cmyk": ("image/jpeg", lambda image: _saved(image.convert("CMYK"), "JPEG", quality=85)),
    "png": ("image/png", lambda image: _saved(image, "PNG")),
    "png-alpha": ("image/png", _alpha),
    "png-16bit": ("image/png", lambda image: _saved(image.convert("I;16"), "PNG")),
    "webp": ("image/webp", lambda image: _saved(image, "WEBP", quality=80)),
    "avif": ("image/avif", lambda image: _saved(image, "AVIF", quality=60, speed=9)),
    "gif": ("image/gif", lambda image: _saved(image, "GIF")),
    "gif-animated": ("image/gif", _animated),
    "jpeg-without-end": ("image/jpeg", lambda image: _saved(image, "JPEG", quality=85)[:-2]),
    "png-without-end": ("image/png", lambda image: _saved(image, "PNG")[:-12]),
}
"""Content type and encoder by the name of the kind."""


# The drawings


@functools.cache
def _noise() -> Image.Image:
    grey = Image.frombytes("L", FULL, random.Random(853).randbytes(FULL[0] * FULL[1]))
    return Image.merge("RGB", (grey, grey, grey))


@functools.cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _plain(text: str) -> str:
    """Pillow's own font has no Š and no Ë."""
    return "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))


@functools.lru_cache(maxsize=8)
def _drawing(look: Look, view: int) -> Image.Image:
    """The original, free of grain. Callers must not draw on it."""
    image = _backdrop(look.colour).copy()
    draw = ImageDraw.Draw(image)
    paint = COLOURS.get(look.colour, COLOURS["Grár"])
    _side(draw, paint, look.body)
    if view == 1:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    elif view in _CLOSER:
        image = image.crop(_CLOSER[view]).resize(FULL, Image.Resampling.BILINEAR)
    if look.label:
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 765, FULL[0], FULL[1]), fill=(18, 22, 30))
        draw.text((40, 809), _plain(look.label)[:60], fill=(240, 242, 245), font=_font(44), anchor="lm")
    return image


@functools.cache
def _backdrop(colour: str) -> Image.Image:
    """An evening sky over a plain, in a tint that goes with the car."""
    hue = (sum(colour.encode()) % 100) / 100
    top = colorsys.hsv_to_rgb(hue, 0.25, 0.72)
    bottom = colorsys.hsv_to_rgb((hue + 0.08) % 1, 0.12, 0.97)
    strip = Image.new("RGB", (1, FULL[1]))
    for y in range(FULL[1]):
        if y < 520:
            share = y / 520
            shade = tuple(round(255 * (a + (b - a) * share)) for a, b in zip(top, bottom, strict=True))
        else:
            grey = 128 - (y - 520) // 6
            shade = (grey, grey + 2, grey + 6)
        strip.putpixel((0, y), shade)
    image = strip.resize(FULL)
    hills = [(0, 520), (0, 440), (180, 360), (330, 430), (520, 320), (700, 420), (900, 350), (1120, 430), (1280, 380)]
    far = tuple(round(255 * value * 0.75) for value in top)
    ImageDraw.Draw(image).polygon([*hills, (1280, 520)], fill=far)
    return image


def _shade(paint: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    red, green, blue = (min(255, round(value * factor)) for value in paint)
    return red, green, blue


_ROOFS: dict[str, list[tuple[int, int]]] = {
    "Fólksbíll": [(330, 470), (470, 345), (760, 335), (930, 465)],
    "Jeppi": [(300, 460), (400, 300), (950, 295), (1050, 455)],
    "Sendibíll": [(220, 470), (370, 250), (1100, 245), (1115, 470)],
    "Pallbíll": [(330, 460), (430, 310), (720, 305), (760, 455)],
}


def _side(draw: ImageDraw.ImageDraw, paint: tuple[int, int, int], body: str) -> None:
    roof = _ROOFS.get(body, _ROOFS["Fólksbíll"])
    glass, dark = (58, 74, 92), _shade(paint, 0.7)
    draw.ellipse((140, 640, 1140, 720), fill=(60, 62, 68))
    draw.polygon(roof, fill=paint)
    draw.rounded_rectangle((150, 450, 1130, 650), radius=60, fill=paint)
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = roof
    middle = (x1 + x2) // 2
    draw.polygon([(x0 + 45, y0 - 5), (x1 + 15, y1 + 22), (middle - 8, y1 + 22), (middle - 8, y0 - 5)], fill=glass)
    if body == "Sendibíll":
        draw.rectangle((middle - 8, y1, x3, y0), fill=paint)
    else:
        draw.polygon([(middle + 8, y0 - 5), (middle + 8, y2 + 22), (x2 - 12, y2 + 22), (x3 - 40, y3 - 5)], fill=glass)
    draw.rectangle((170, 575, 1110, 590), fill=dark)
    for x in (middle, x0 + 30):
        draw.line((x, y0, x, 640), fill=dark, width=4)
    draw.rounded_rectangle((middle - 70, 490, middle - 20, 502), radius=5, fill=dark)
    draw.rounded_rectangle((150, 500, 205, 540), radius=14, fill=(250, 240, 200))
    draw.rounded_rectangle((1090, 495, 1128, 545), radius=12, fill=(190, 30, 34))
    for x in (340, 940):
        _wheel(draw, x, 640, 92)


def _wheel(draw: ImageDraw.ImageDraw, x: int, y: int, radius: int) -> None:
    for share, fill in ((1.0, (24, 24, 28)), (0.66, (176, 180, 186)), (0.58, (110, 114, 122)), (0.16, (210, 212, 216))):
        size = round(radius * share)
        draw.ellipse((x - size, y - size, x + size, y + size), fill=fill)
    spoke = round(radius * 0.55)
    for dx, dy in ((0, 1), (0.87, 0.5), (0.87, -0.5), (0, -1), (-0.87, -0.5), (-0.87, 0.5)):
        draw.line((x, y, x + spoke * dx, y + spoke * dy), fill=(200, 203, 208), width=max(4, radius // 9))
