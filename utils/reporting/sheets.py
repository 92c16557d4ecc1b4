"""Sheets of images with captions and frames, drawn with Pillow: rankings (`ranking_sheet`), other grids (`sheet`).

Text is in the DejaVu Sans that comes with matplotlib: most alphabets, but no Chinese, Japanese or Korean characters,
which it shows as boxes. Where matplotlib is broken, Pillow's own font takes its place, which has Latin letters.
"""

import io
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from utils.output import OutputError, write_or_keep
from utils.reporting.drawing import plain_matplotlib

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
RIGHT, WRONG = "#178a3d", "#d62728"  # frame colours; a tick and a cross say the same without colour
GAP = 10       # pixels between images; twice that after a row's label and a ranking's query
BORDER = 3     # pixels that a frame is wide


class SheetError(ValueError):
    """A sheet without rows or without a format, or one that cannot be written."""


class Cell(NamedTuple):
    """An image of a sheet.

    image     in RGB; it is resized to the sheet's size
    caption   below it; may have several lines
    frame     a colour, or None for none; RIGHT and WRONG come with a tick and a cross
    """

    image: Image.Image
    caption: str = ""
    frame: str | None = None


def ranking_sheet(
    rows: Sequence[tuple[Image.Image, str, Sequence[tuple[Image.Image, str, str | None]]]],
    title: str = "",
    height: int = 128,
    width: int = 64,
) -> Image.Image:
    """A row for each query: its caption, its image, and what was found, the best first.

    rows            (query's image, its caption, [(image, caption, frame), ...]); captions may have several lines, a
                    frame is RIGHT, WRONG, another colour or None
    title           above the sheet
    height, width   of each image, in pixels
    raises          SheetError
    """
    longest = max((len(results) for *_, results in rows), default=0)
    return sheet(
        [(caption, [Cell(query), *(Cell(*result) for result in results)]) for query, caption, results in rows],
        columns=["query", *map(str, range(1, longest + 1))], title=title, height=height, width=width, apart={1},
    )


def sheet(
    rows: Sequence[tuple[str, Sequence[Cell | None]]],
    columns: Sequence[str] = (),
    title: str = "",
    height: int = 128,
    width: int = 64,
    apart: AbstractSet[int] = frozenset(),
) -> Image.Image:
    """A grid of images.

    rows            (label, cells); None leaves a cell blank
    columns         titles of the columns
    title           above the sheet
    height, width   of each image, in pixels
    apart           columns before which the gap is wider
    raises          SheetError
    """
    if not rows:
        raise SheetError("a sheet needs a row at least")
    font, large = (font_of(max(11, height // k)) for k in (11, 9))
    by_column = [*zip_longest(*(cells for _, cells in rows))]
    titles = [*columns, *[""] * (len(by_column) - len(columns))]
    widths = [
        max(width, *(text_size(text, font)[0] for text in [heading, *(cell.caption for cell in cells if cell)]))
        for heading, cells in zip(titles, by_column)
    ]
    label_width = max(text_size(label, font)[0] for label, _ in rows)
    left, x = [], label_width + 3 * GAP if label_width else GAP
    for column, column_width in enumerate(widths):
        x += GAP * (column in apart)
        left.append(x)
        x += column_width + GAP
    top = GAP + (text_size(title, large)[1] + GAP if title else 0)
    heading_height = max(text_size(heading, font)[1] for heading in ["", *titles])
    y = top + heading_height + BORDER + GAP // 2
    tops = []
    for label, cells in rows:
        tops.append(y)
        caption_height = max((text_size(cell.caption, font)[1] for cell in cells if cell), default=0)
        y += max(height + BORDER + caption_height, text_size(label, font)[1]) + 2 * GAP

    canvas = Image.new("RGB", (max(x, text_size(title, large)[0] + 2 * GAP), y), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, GAP), title, "black", large)
    for heading, x, column_width in zip(titles, left, widths):
        draw.multiline_text((x + column_width // 2, top), heading, "black", font, anchor="ma", align="center")
    for (label, cells), y in zip(rows, tops):
        draw.multiline_text((GAP, y), label, "black", font)
        for cell, x, column_width in zip(cells, left, widths):
            if cell:
                draw_cell(canvas, cell, x + (column_width - width) // 2, y, height, width)
                middle = x + column_width // 2, y + height + BORDER + 2
                draw.multiline_text(middle, cell.caption, "black", font, anchor="ma", align="center")
    return canvas


def draw_cell(canvas: Image.Image, cell: Cell, x: int, y: int, height: int, width: int) -> None:
    """The image with its upper left corner at (x, y), and its frame around it."""
    canvas.paste(cell.image.resize((width, height), Image.Resampling.LANCZOS), (x, y))
    if cell.frame is None:
        return
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((x - BORDER, y - BORDER, x + width + BORDER - 1, y + height + BORDER - 1), None, cell.frame, BORDER)
    if cell.frame in (RIGHT, WRONG):
        side = max(12, height // 9)
        u, v = x + width - side, y  # of the mark: the image's upper right corner
        draw.rectangle((u, v, x + width, v + side), cell.frame)
        strokes = [[(0.2, 0.5), (0.42, 0.75), (0.8, 0.25)]]  # a tick
        if cell.frame == WRONG:
            strokes = [[(0.22, 0.22), (0.78, 0.78)], [(0.22, 0.78), (0.78, 0.22)]]
        for stroke in strokes:
            draw.line([(u + side * a, v + side * b) for a, b in stroke], "white", max(2, side // 7), "curve")


def save(image: Image.Image, path: Path, quality: int = 75) -> None:
    """Write the image whole or not at all, in the format that the file's suffix names.

    quality   of a JPEG
    raises    SheetError, which says where the image is kept if it cannot be written there
    """
    file = io.BytesIO()
    try:
        image.save(file, format_of(path), quality=quality)
        write_or_keep({path: file.getvalue()})
    except OutputError as error:
        raise SheetError(str(error)) from None
    except (OSError, ValueError) as error:  # of the format: JPEG has 65,535 pixels on a side at most
        raise SheetError(f"{path} cannot be written ({error}); choose another format, or fewer images") from None


def format_of(path: Path) -> str:
    """Pillow's name for the format of a file that is to be written.

    raises   SheetError
    """
    name = Image.registered_extensions().get(path.suffix.lower())
    if name not in Image.SAVE:
        raise SheetError(f"{path} cannot be written (no format of images has its suffix); name it .png or .jpg")
    return name


@cache
def font_of(size: int) -> Font:
    """
    size   in pixels
    """
    try:
        file = Path(plain_matplotlib().get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
        return ImageFont.truetype(str(file), size)  # older Pillows take no Path
    except Exception:  # noqa: BLE001 - whatever is wrong with matplotlib: a sheet needs no more of it than the font
        return ImageFont.load_default(size)


def text_size(text: str, font: Font) -> tuple[int, int]:
    """(width, height) in pixels; "" has none."""
    if not text:
        return 0, 0
    *_, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font)
    return round(right), round(bottom)
