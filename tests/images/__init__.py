"""Real photos of every format, small, made by Pillow; and EXIF blocks made by hand."""

from __future__ import annotations

import functools
import struct
from io import BytesIO
from typing import Any

from PIL import Image, ImageFilter

SIZE = (72, 48)
GPS_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="64,8.7N"/>'
    b"</rdf:RDF></x:xmpmeta>"
)
PLAIN_XMP = GPS_XMP.replace(b"exif:GPSLatitude", b"exif:ColorSpace")


@functools.cache
def picture(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture that does not compress to nothing, its left upper corner red."""
    canvas = Image.effect_noise(size, 80).filter(ImageFilter.GaussianBlur(1)).convert("RGB")
    canvas.paste((220, 20, 20), (0, 0, size[0] // 4, size[1] // 4))
    return canvas if mode == "RGB" else canvas.convert(mode)


def encode(image_format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    output = BytesIO()
    (image or picture()).save(output, image_format, **options)
    return output.getvalue()


@functools.cache
def photos() -> dict[str, tuple[str, bytes]]:
    """Name to format and bytes."""
    turned = picture().rotate(180)
    moving: dict[str, Any] = {"save_all": True, "append_images": [turned]}
    exif = tiff()
    return {
        "jpeg": ("JPEG", encode("JPEG")),
        "jpeg-exif": ("JPEG", encode("JPEG", exif=b"Exif\0\0" + exif, comment=b"hello")),
        "jpeg-progressive": ("JPEG", encode("JPEG", progressive=True)),
        "jpeg-restarts": ("JPEG", encode("JPEG", restart_marker_blocks=2)),
        "jpeg-grey": ("JPEG", encode("JPEG", picture("L"))),
        "jpeg-cmyk": ("JPEG", encode("JPEG", picture("CMYK"))),
        "png": ("PNG", encode("PNG")),
        "png-alpha": ("PNG", encode("PNG", picture("RGBA"))),
        "png-exif": ("PNG", encode("PNG", exif=exif)),
        "png-animated": ("PNG", encode("PNG", **moving)),
        "gif": ("GIF", encode("GIF")),
        "gif-animated": ("GIF", encode("GIF", comment=b"hello", **moving)),
        "webp": ("WEBP", encode("WEBP")),
        "webp-lossless": ("WEBP", encode("WEBP", lossless=True)),
        "webp-alpha": ("WEBP", encode("WEBP", picture("RGBA"), exif=exif, xmp=GPS_XMP)),
        "webp-animated": ("WEBP", encode("WEBP", **moving)),
        "avif": ("AVIF", encode("AVIF")),
        "avif-alpha": ("AVIF", encode("AVIF", picture("RGBA"), exif=exif, xmp=GPS_XMP)),
        # Pillow 13 crashes when it writes an animated AVIF that is turned.
        "avif-animated": ("AVIF", encode("AVIF", exif=tiff(orientation=1), **moving)),
    }


def pixels(data: bytes) -> list[bytes]:
    """What every frame shows."""
    frames = []
    with Image.open(BytesIO(data)) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(image.convert("RGBA").tobytes())
    return frames


def tiff(
    *,
    order: str = ">",
    private: bool = True,
    orientation: int | None = 6,
    thumbnail: bytes = b"",
    xmp: bytes = b"",
) -> bytes:
    """An EXIF block as cameras write it: IFD0, EXIF with a maker note, GPS, IFD1 with a thumbnail."""
    block = bytearray(struct.pack(order + "2sHI", b"MM" if order == ">" else b"II", 42, 8))
    ifd0: list[tuple[int, int, int, bytes | int]] = [(0x010F, 2, 6, b"Canon\0")]
    if orientation:
        ifd0.append((0x0112, 3, 1, struct.pack(order + "HH", orientation, 0)))
    if xmp:
        ifd0.append((0x02BC, 1, len(xmp), xmp))
    exif: list[tuple[int, int, int, bytes | int]] = [
        (0x9003, 2, 20, b"2026:11:20 10:00:00\0"),
        (0x920A, 5, 1, struct.pack(order + "II", 50, 1)),
    ]
    if private:
        exif += [
            (0x927C, 7, 28, b"MAKERNOTE private content 1\0"),
            (0xA430, 2, 12, b"Jon Jonsson\0"),
            (0xA431, 2, 10, b"SN1234567\0"),
            (0xA435, 2, 4, b"L77\0"),
        ]
    exif.append((0xA434, 2, 10, b"EF50 lens\0"))
    gps: list[tuple[int, int, int, bytes | int]] = [
        (1, 2, 2, b"N\0\0\0"),
        (2, 5, 3, struct.pack(order + "6I", 64, 1, 8, 1, 4321, 100)),
        (3, 2, 2, b"W\0\0\0"),
        (4, 5, 3, struct.pack(order + "6I", 21, 1, 55, 1, 1234, 100)),
        (27, 7, 12, b"ASCII\0\0\0GPS\0"),
    ]

    def write(entries: list[tuple[int, int, int, bytes | int]], pointer_at: int) -> int:
        """Append a table and its values; returns where its next-table offset stands."""
        start = len(block)
        block[pointer_at : pointer_at + 4] = struct.pack(order + "I", start)
        block.extend(bytes(2 + 12 * len(entries) + 4))
        struct.pack_into(order + "H", block, start, len(entries))
        for index, (tag, kind, count, value) in enumerate(entries):
            at = start + 2 + 12 * index
            struct.pack_into(order + "HHI", block, at, tag, kind, count)
            if isinstance(value, int):
                struct.pack_into(order + "I", block, at + 8, value)
            elif len(value) <= 4:
                block[at + 8 : at + 8 + len(value)] = value
            else:
                struct.pack_into(order + "I", block, at + 8, len(block))
                block.extend(value + bytes(len(value) % 2))
        return start + 2 + 12 * len(entries)

    ifd0.append((0x8769, 4, 1, 0))
    if private:
        ifd0.append((0x8825, 4, 1, 0))
    ifd0.append((0xC62E, 2, 4, b"end\0"))
    next_at = write(ifd0, 4)
    start = 8 + 2
    for index, (tag, *_) in enumerate(ifd0):
        if tag == 0x8769:
            write(exif, start + 12 * index + 8)
        elif tag == 0x8825:
            write(gps, start + 12 * index + 8)
    if thumbnail:
        at = write([(0x0201, 4, 1, 0), (0x0202, 4, 1, len(thumbnail))], next_at)
        struct.pack_into(order + "I", block, at - 24 + 8, len(block))
        block.extend(thumbnail)
    return bytes(block)


def segment(marker: int, payload: bytes) -> bytes:
    """A JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """The JPEG with segments right after its first marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]
