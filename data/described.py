"""What a data set's files hold, whatever its reader thinks of it: counts, sizes, copies, broken images."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from common.words import how_many
from data.files import files_beside
from data.formats import by_kind, endings
from data.parallel import in_parallel
from data.pixels import read_image
from data.records import Benchmark, DataError, Record

AT_ONCE: dict[str, Any] = {"name": "images", "chunk": 32, "fewer": "--workers"}


def described(benchmark: Benchmark, workers: int) -> dict:
    """All that is found, ready for JSON; paths are relative to the root. Every image is read once.

    parts           counts by part and modality
    names           of identities that are no numbers, by number
    sizes           {"WIDTHxHEIGHT": images}, the most frequent first
    one_modality    by part, the identities whom one modality alone shows
    copies          groups of images of the same bytes: {"images", "identities", "parts"}; of more than one identity, or
                    part, one of them is wrong, or the test shows what was trained on
    broken          why, by path
    not_listed      images in the root that no part has
    other_files     of each kind how many, in words
    """
    root = f"{benchmark.root.as_posix()}/"
    records = {part: benchmark.records(part) for part in ("train", "test")}
    said: dict[str, list[tuple[str, Record]]] = {}
    for part, of in records.items():
        for record in of:
            said.setdefault(record.path, []).append((part_of(benchmark, part, record), record))
    paths = [*said]
    sizes: Counter[str] = Counter()
    broken: dict[str, str] = {}
    same: dict[str, list[str]] = {}
    for path, (digest, size, why) in zip(paths, in_parallel(look_at, paths, workers, **AT_ONCE)):
        if why:
            broken[path.removeprefix(root)] = why.replace(root, "")
        else:
            sizes["{}x{}".format(*size)] += 1
        if digest:
            same.setdefault(digest, []).append(path)
    beside = files_beside(benchmark.root, {*paths})
    images = [path for path in beside if path.lower().endswith(endings())]
    parts: dict[str, list[Record]] = {}
    for part, record in (entry for entries in said.values() for entry in entries):
        parts.setdefault(part, []).append(record)
    return {
        "name": benchmark.name,
        "root": str(benchmark.root),
        "fingerprint": fingerprint(benchmark),
        "parts": {part: counted(of) for part, of in parts.items()},
        "names": {number: name for name, number in getattr(benchmark, "people", {}).items() if name != str(number)},
        "sizes": dict(sizes.most_common()),
        "one_modality": {part: alone(of) for part, of in parts.items()},
        "copies": [
            {
                "images": [path.removeprefix(root) for path in group],
                "identities": sorted({record.identity for path in group for _, record in said[path]}),
                "parts": sorted({part for path in group for part, _ in said[path]}),
            }
            for group in same.values() if len(group) > 1
        ],
        "broken": broken,
        "not_listed": [path.removeprefix(root) for path in images],
        "other_files": by_kind(path.removeprefix(root) for path in {*beside} - {*images}),
    }


def part_of(benchmark: Benchmark, part: str, record: Record) -> str:
    return "validation" if part == "train" and record.identity in benchmark.held_out else part


def fingerprint(benchmark: Benchmark) -> str | None:
    """None where a file is empty or gone, which is said of it anyhow."""
    try:
        return benchmark.fingerprint()
    except DataError:
        return None


def look_at(path: str) -> tuple[str, tuple[int, int], str]:
    """(SHA-256 of a file, width and height of its image, "" or why it is none); "" for what cannot be told."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        digest = hashlib.sha256(content).hexdigest() if content else ""  # empty files are no copies
    except OSError:
        digest = ""  # `read_image` says why
    try:
        return digest, read_image(path).size, ""
    except DataError as error:
        return digest, (0, 0), str(error).rsplit(";", 1)[0]


def counted(records: Sequence[Record]) -> dict:
    """By modality: identities, images, cameras, and the fewest and most images of an identity."""
    found = {}
    for modality, infrared in (("visible", False), ("infrared", True)):
        chosen = [record for record in records if record.infrared == infrared]
        each = Counter(record.identity for record in chosen).values()
        found[modality] = {
            "identities": len(each), "images": len(chosen), "cameras": sorted({record.camera for record in chosen}),
            "images_of_an_identity": [min(each, default=0), max(each, default=0)],
        }
    return found


def alone(records: Sequence[Record]) -> list[int]:
    """Identities of one modality, where the records show both."""
    shown = [{record.identity for record in records if record.infrared == infrared} for infrared in (False, True)]
    return sorted(shown[0] ^ shown[1]) if all(shown) else []


def findings(found: dict) -> list[str]:
    """What is to be looked at, a sentence each."""
    said = []
    people = {part: ids for part, ids in found["one_modality"].items() if ids}
    for part, ids in people.items():
        said.append(
            f"{part}: {how_many(len(ids), 'identity is', 'identities are')} shown by one modality alone: "
            f"{some([found['names'].get(number, number) for number in ids])}"
        )
    across = [copy for copy in found["copies"] if len(copy["parts"]) > 1]
    mixed = [copy for copy in found["copies"] if len(copy["identities"]) > 1]
    rest = [copy for copy in found["copies"] if copy not in across and copy not in mixed]
    for copies, what in (
        (across, "in several parts, which leaks what was trained on into the test"),
        (mixed, "of several identities, of which one alone can be right"), (rest, "of one identity"),
    ):
        if copies:
            said.append(
                f"{how_many(len(copies), 'group')} of images of the same bytes {what}: {some(copies[0]['images'])}"
            )
    if found["broken"]:
        said.append(f"{how_many(len(found['broken']), 'image')} cannot be read: {some([*found['broken'].values()], 3)}")
    if found["not_listed"]:
        said.append(
            f"{how_many(len(found['not_listed']), 'image is', 'images are')} in no part: {some(found['not_listed'])}"
        )
    return said


def some(items: Sequence, most: int = 10) -> str:
    return ", ".join(map(str, items[:most])) + (" ..." if len(items) > most else "")


def table(found: dict) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("part", "modality", "identities", "images", "of an identity", "cameras")]
    for part, modalities in found["parts"].items():
        for modality, of in modalities.items():
            low, high = of["images_of_an_identity"]
            each = f"{low} to {high}" if low != high else str(low)
            cameras = some(of["cameras"])
            rows.append((part, modality, str(of["identities"]), str(of["images"]), each, cameras))
    return rows
