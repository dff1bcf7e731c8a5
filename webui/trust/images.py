"""Pictures as they are let in: decoded and encoded anew, so that nothing but the picture comes along."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageOps

from webui.records import Picture, Refused

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")
_BROKEN: Final = "This file is no picture that can be read; PNG, JPEG, WebP and GIF are taken."


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """`bytes` of the file; `pixels` once decoded; the longer `side` that is kept, larger ones are scaled down."""

    bytes: int = 10 * 1024 * 1024
    pixels: int = 40_000_000
    side: int = 2048


def admit(data: bytes, limits: ImageLimits) -> Picture:
    """The picture without metadata, upright, of at most `limits.side`. Raises Refused; takes a part of a second."""
    if len(data) > limits.bytes:
        raise Refused(f"The picture has {_mib(len(data))}; at most {_mib(limits.bytes)} are taken.")
    try:
        with _opened(data) as image:
            width, height = image.size
            if width * height > limits.pixels:
                raise _too_large(f"{width}×{height}", limits)
            return _encoded(_upright(image, limits.side), lossy=image.format == "JPEG")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large("more", limits) from None
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, MemoryError):
        raise Refused(_BROKEN) from None


def _opened(data: bytes) -> Image.Image:
    # Only the header is read here: what it says of the size is checked before anything is decoded.
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def _upright(image: Image.Image, side: int) -> Image.Image:
    """The first frame, turned as its metadata say, scaled down, on a canvas of its own."""
    # A JPEG decoder can scale while it decodes, which saves most of the work.
    image.draft("RGB", (side, side))
    transparent = image.has_transparency_data
    turned = ImageOps.exif_transpose(image).convert("RGBA" if transparent else "RGB")
    turned.thumbnail((side, side))
    bare = Image.new(turned.mode, turned.size)
    bare.paste(turned)
    return bare


def _encoded(image: Image.Image, *, lossy: bool) -> Picture:
    target = io.BytesIO()
    if lossy:
        image.convert("RGB").save(target, "JPEG", quality=90)
    else:
        image.save(target, "PNG")
    data = target.getvalue()
    return Picture(
        key=hashlib.sha256(data).hexdigest(),
        data=data,
        media_type="image/jpeg" if lossy else "image/png",
        width=image.width,
        height=image.height,
    )


def _too_large(size: str, limits: ImageLimits) -> Refused:
    return Refused(f"The picture has {size} pixels; at most {limits.pixels / 1e6:.0f} million are taken.")


def _mib(size: int) -> str:
    return f"{size / 1024**2:.1f} MiB"
