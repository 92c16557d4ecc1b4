"""Camera and time of gallery images, by their names or a table."""

import csv
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from assembly.gallery import shown

# cam3/0001/0002.jpg, 0007_c03_s001.jpg, 0002_c1s1_000451.jpg, camera-12-night.png
CAMERA = re.compile(r"(?:^|[/\\_\-. ])(?:camera|cam|c)[_\-]?(\d{1,4})(?![\da-rt-z])", re.IGNORECASE)
# 20240501_134510, 2024-05-01T13-45, 2024-05-01 13.45.10
TIME = re.compile(
    r"(?<!\d)((?:19|20)\d\d)-?(\d\d)-?(\d\d)[T_ \-]?(\d\d)[\-.:h]?(\d\d)(?:[\-.:m]?(\d\d))?(?!\d)", re.IGNORECASE
)
COLUMNS = ("image", "camera", "time")


class DetailsError(ValueError):
    """The table of cameras and times cannot be read; the message names the line."""


def camera_in(name: str) -> str:
    """The camera's number in a file's name or its folders', the last one; "" where there is none."""
    found = CAMERA.findall(name)
    return str(int(found[-1])) if found else ""


def time_in(name: str) -> np.datetime64:
    """The time in a file's name, as its camera's clock showed it; NaT where there is none."""
    for found in TIME.findall(name):
        try:
            year, month, day, hour, minute, second = (int(part or 0) for part in found)
            return np.datetime64(datetime(year, month, day, hour, minute, second), "s")
        except ValueError:  # digits that are no date
            continue
    return np.datetime64("NaT", "s")


def details_of(
    names: Sequence[str], listed: Mapping[str, tuple[str, np.datetime64]]
) -> tuple[np.ndarray, np.ndarray]:
    """
    names     of images, relative to the gallery
    listed    what `read_table` returned; it goes before what a name says
    returns   cameras (N,) str, "" where unknown, and times (N,) datetime64[s], NaT where unknown
    """
    cameras, times = [], []
    for name in names:
        camera, time = listed.get(Path(name).as_posix(), ("", np.datetime64("NaT", "s")))
        cameras.append(camera or camera_in(name))
        times.append(time_in(name) if np.isnat(time) else time)
    return np.array(cameras, dtype=str), np.array(times, dtype="datetime64[s]")


def read_table(path: Path) -> dict[str, tuple[str, np.datetime64]]:
    """By image, its camera and its time, of a CSV file with a header: image, and camera or time or both.

    raises   DetailsError
    """
    found: dict[str, tuple[str, np.datetime64]] = {}
    zones = set()
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, strict=True)  # else quotes that don't end swallow the rest
            columns = [*(table.fieldnames or [])]
            if "image" not in columns or not {"camera", "time"} & {*columns}:
                raise DetailsError(
                    f"{path} has the columns {', '.join(columns) or '(none)'}; it needs image, and camera or time or "
                    "both, separated by commas"
                )
            for row in table:
                where, image, time = f"{path}, line {table.line_num}", row["image"], (row.get("time") or "").strip()
                if None in row or not image:
                    raise DetailsError(
                        f"{where}: there is {'no image' if not image else 'a cell too many'}; fix the line"
                    )
                name = Path(image).as_posix()
                if name in found:
                    raise DetailsError(f"{where}: {shown(image)} was listed before; an image comes once")
                try:
                    stamp = datetime.fromisoformat(time) if time else None
                except ValueError:
                    raise DetailsError(f"{where}: {time!r} is no time such as 2024-05-01T13:45:10") from None
                if stamp:
                    zones.add(stamp.utcoffset())
                    stamp = stamp.replace(tzinfo=None)
                found[name] = (row.get("camera") or "").strip(), np.datetime64(stamp, "s")
                if len(zones) > 1:
                    raise DetailsError(
                        f"{where}: {time} is of another time zone than times before it; write all in one"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DetailsError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return found
