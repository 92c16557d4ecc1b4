"""Search images of one's own: which images of a folder show the person of a query.

    python scripts/search.py --checkpoint runs/sysu_cmfn --gallery photos --query night.jpg --output runs/search
    python scripts/search.py --checkpoint runs/sysu_cmfn --gallery photos --query nights/ --output runs/search --top 20
    python scripts/search.py --checkpoint runs/sysu_cmfn --gallery photos --query nights/ --output runs/b \\
        EMBEDDING.DIM 256

The gallery is embedded once, into an index; later calls embed what is new or changed. Ranked names and scores are
printed and written to ranking.csv and, as images, to ranking.jpg. docs/search.md explains scores, sizes and methods.
"""

import argparse
import csv
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

from PIL import Image

from assembly.errors import EXPECTED_ERRORS
from assembly.gallery import (
    CSV,
    MODALITIES,
    SCORES,
    SHEET,
    SearchError,
    add_missing,
    embed_queries,
    index_folder,
    index_settings,
    list_images,
    open_embedder,
    reason,
    searcher,
    shown,
)
from common.words import how_many
from data.formats import not_read
from data.pixels import open_image
from data.records import DataError
from utils.arguments import count
from utils.output import OutputError, require_files, require_folder, write_or_keep
from utils.reporting.sheets import SheetError, ranking_sheet, save
from utils.retrieval.compress import CompressionError
from utils.retrieval.index import SearchIndexError, open_index
from utils.retrieval.nearest import FaissMissing

SHEET_QUERIES, SHEET_RESULTS, SHEET_HEIGHT = 20, 20, 160  # rows and columns at most; of an image, in pixels


def query_paths(query: Path, others: list[str]) -> list[Path]:
    """
    others   as in `list_images`
    """
    if query.is_dir():
        return [query / name for name in list_images(query, others)]
    if not query.is_file():
        raise SearchError(f"--query is {query}, which is neither an image nor a folder")
    return [query]


def write_ranking(path: Path, ranking: list[tuple[Path, list[tuple[float, Path]]]]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["query", "rank", "score", "image"])
    for query, results in ranking:
        table.writerows(
            [shown(query), rank, f"{score:.5f}", shown(image)] for rank, (score, image) in enumerate(results, start=1)
        )
    write_or_keep({path: text.getvalue()})


def draw_ranking(
    ranking: list[tuple[Path, list[tuple[float, Path]]]], gallery: Path, height: int, width: int
) -> Image.Image:
    """A sheet of the first queries; height and width are the network's, of which the images get the shape.

    raises   SearchError for an image that is gone
    """
    height, width = SHEET_HEIGHT, max(1, round(SHEET_HEIGHT * width / height))

    def opened(path: Path) -> Image.Image:
        try:
            return Image.fromarray(open_image(str(path), height, width))
        except DataError as error:
            raise SearchError(f"{reason(error)}; was it moved since it was searched?") from None

    rows = [
        (opened(query), shortened(query.name), [
            (opened(image), f"{score:.3f}\n{shortened(image.relative_to(gallery))}", None)
            for score, image in results[:SHEET_RESULTS]
        ])
        for query, results in ranking[:SHEET_QUERIES]
    ]
    return ranking_sheet(rows, height=height, width=width)


def shortened(name: str | Path, most: int = 16) -> str:
    name = shown(name)
    return name if len(name) <= most else "..." + name[3 - most:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a file of train.py's, or a run's folder")
    parser.add_argument("--gallery", type=Path, required=True, help="the folder to search, with the folders in it")
    parser.add_argument("--gallery-modality", choices=MODALITIES, default="vis")
    parser.add_argument("--query", type=Path, required=True, help="an image, or a folder of images")
    parser.add_argument("--query-modality", choices=MODALITIES, default="ir")
    parser.add_argument("--top", type=count(1), default=10, help="how many images to name for each query")
    parser.add_argument("--output", type=Path, required=True, help="folder of ranking.csv, ranking.jpg and the index")
    parser.add_argument("--index", type=Path, help="the index's folder; default: a folder for each gallery in --output")
    parser.add_argument("--rebuild", action="store_true", help="throw the index away and embed everything anew")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the index's numbers")
    parser.add_argument("--score", choices=SCORES, default="cosine", help="inner: the inner product, as test.py ranks")
    parser.add_argument("--method", choices=("auto", "exact", "faiss"), default="auto")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the checkpoint's")
    args = parser.parse_intermixed_args()
    if not args.gallery.is_dir():
        raise SearchError(f"--gallery is {args.gallery}, which is no folder")
    others: dict[Path, list[str]] = {args.query: [], args.gallery: []}  # one folder may be both
    queries = query_paths(args.query, others[args.query])
    if not queries:
        left = not_read(others[args.query])
        raise SearchError(f"there is no query: the folder {args.query} has no image{left and f', {left}'}")
    table, sheet = args.output / CSV, args.output / SHEET
    folder = args.index or index_folder(args.output, args.gallery, args.gallery_modality)
    require_files(table, sheet, fix="choose another --output")
    require_folder(folder, fix="choose another --index")
    embed, cfg, settings = open_embedder(args.checkpoint, args.overrides, args.score)
    queries, query_embeddings, left_out = embed_queries(queries, args.query_modality == "ir", embed, cfg)

    settings = index_settings(settings, args.gallery, args.gallery_modality, args.dtype)
    others[args.gallery].clear()
    files = list_images(args.gallery, others[args.gallery])
    with open_index(folder, settings, args.rebuild) as index:
        left_out |= add_missing(index, args.gallery, files, args.gallery_modality == "ir", embed, cfg)
        current = index.rows(files)
        if not current.any():
            why = [*left_out.values(), *filter(None, [not_read(others[args.gallery])])]
            raise SearchError("\n".join([f"{args.gallery} has no image that can be searched", *why]))
        search = searcher(query_embeddings, index, current, args.top, args.method, args.query_modality)

    scores, rows = search()
    names = [[index.entries[row][0] for row in line] for line in rows.tolist()]
    ranking = [
        (query, [(score, args.gallery / name) for score, name in zip(*result)])
        for query, *result in zip(queries, scores.tolist(), names)
    ]
    write_ranking(table, ranking)
    save(draw_ranking(ranking, args.gallery, cfg.DATA.HEIGHT, cfg.DATA.WIDTH), sheet)
    for query, results in ranking:
        print(f"\n{shown(query)}")
        for rank, (score, image) in enumerate(results, start=1):
            print(f"{rank:4d}  {score:.4f}  {shown(image.relative_to(args.gallery))}")
    print(
        f"\n{how_many(len(queries), 'query', 'queries')}, {how_many(int(current.sum()), 'image')}: {shown(table)}, "
        f"{shown(sheet)}"
    )
    for folder, unread in others.items():
        if unread:
            print(f"note: in {shown(folder)}, {shown(not_read(unread))}")
    if left_out:
        said = f"warning: {how_many(len(left_out), 'image was', 'images were')} left out:"
        print(said, *map(shown, left_out.values()), sep="\n  ")


if __name__ == "__main__":
    fail_clearly(main, (
        *EXPECTED_ERRORS, CompressionError, FaissMissing, OutputError, SearchError, SearchIndexError, SheetError,
    ))
