"""One page about one or more runs: ``python -m mmclvqa.evaluation.report RUN... [--out DIR]``.

RUN is the ``sweep.json`` of a sweep or the folder ``val_<exp>`` that holds one, or what ``eval_os.py`` wrote about the
multitask model or the chance level. The page is one HTML file with its images inside; the images and the numbers of
the comparison are written beside it as well.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Sequence
from pathlib import Path

from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.files import atomic_write, write_json
from mmclvqa.evaluation import comparison, history
from mmclvqa.evaluation.cli import one_line
from mmclvqa.evaluation.outcome import SWEEP_FILE
from mmclvqa.evaluation.published import published_comparisons
from mmclvqa.evaluation.runs import Bound, Run, read_bound, read_run

PAGE = "index.html"
NUMBERS = "comparison.json"
TEMPLATE = "report.html"


def read_all(paths: Sequence[str | Path]) -> list[Run | Bound]:
    """What is to be reported, in the order given.

    Raises:
        DataError: a file is missing, or neither a sweep nor a bound.
    """
    found: list[Run | Bound] = []
    for path in paths:
        names = [one.name for one in found if isinstance(one, Run)]
        found.append(read_bound(path) or read_run(path, names))
    return found


def write_report(entries: Sequence[Run | Bound], out: str | Path) -> Path:
    """Write the page, its images and the numbers of the comparison.

    Args:
        entries: at least one.
        out: folder to write into.

    Returns:
        The page.

    Raises:
        OSError: the folder cannot be written.
    """
    import jinja2

    from mmclvqa.evaluation import figures

    out = Path(out)
    runs = [one for one in entries if isinstance(one, Run)]
    rows = [comparison.row_of(one) for one in entries]
    pictures: dict[str, list[figures.Picture]] = {}
    for run in runs:
        drawn = [figures.matrix_picture(run.name, run.short_label, run.sweep)]
        if not run.sweep.stand_alone:
            drawn.append(figures.course_picture(run.name, run.short_label, run.sweep))
        if run.curves:
            drawn.append(figures.training_picture(run.name, run.short_label, run.curves))
        pictures[run.name] = drawn
    bars = None
    if len(rows) > 1:
        labels, averages, forgotten = zip(*((r.short_label, r.accuracy, r.forgetting) for r in rows), strict=True)
        bars = figures.comparison_picture(labels, averages, forgotten)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": comparison.percent,
        "image": lambda picture: f"data:image/png;base64,{base64.b64encode(picture.png).decode()}",
    }
    text = environment.get_template(TEMPLATE).render(
        runs=runs,
        rows=rows,
        header=comparison.HEADER,
        by_task=comparison.by_task(rows),
        pictures=pictures,
        comparison=bars,
        published=published_comparisons([run.sweep for run in runs]),
        average_share=history.average_share,
    )
    for picture in [*(p for drawn in pictures.values() for p in drawn), *([bars] if bars else [])]:
        with atomic_write(out / f"{picture.name}.png", "wb") as file:
            file.write(picture.png)
    write_json(out / NUMBERS, [row.as_json() for row in rows])
    page = out / PAGE
    with atomic_write(page) as file:
        file.write(text)
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit code: 0, or 1 when something a user can mend is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mmclvqa.evaluation.report", description="Write one HTML page, and its images, about runs."
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help=f"a {SWEEP_FILE}, or the folder val_<exp> it lies in, or the --json of eval_os.py chance or multitask",
    )
    parser.add_argument("--out", default="report", metavar="DIR", help="folder to write into (default: report)")
    args = parser.parse_args(argv)
    try:
        entries = read_all(args.runs)
        page = write_report(entries, args.out)
    except (CloveError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    print(comparison.table([comparison.row_of(one) for one in entries]))
    print(f"\npage: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
