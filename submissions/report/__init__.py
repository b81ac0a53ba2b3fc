"""`report`: one folder of pages that open from the disk, without a server and without the network."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from competition.atomic import write_bytes, write_text
from competition.configuration import Configuration
from competition.errors import ConfigurationError
from competition.metrics import figure_label

ASSETS = Path(__file__).parent / "assets"
MARK = "report.js"  # in <folder>/assets: this is a report's folder
BACK = b'<body>\n<p><a href="index.html">back to the report</a></p>'
SHEETS = {"validation": "Validation sheet", "test": "Test sheet"}


def write_report(
    configuration: Configuration, out: Path | None = None, *, labels: Path | None = None
) -> Path:
    """Write the report into `out` (default <work>/report); returns the page to open.

    labels: of the test queries, where there are any. ConfigurationError where `out` holds something else.
    """
    from plotly.offline import get_plotlyjs

    from submissions.report.ablations import ablations
    from submissions.report.data_health import data_health
    from submissions.report.leaderboard_page import CONVENTION, leaderboard
    from submissions.report.ranked import look
    from submissions.report.sheets import Pictures, sheet
    from submissions.report.study_page import study_page

    folder = out or configuration.competition.work / "report"
    _check(folder)
    for asset in sorted(ASSETS.iterdir()):  # first: what is interrupted is known as a report's folder
        write_bytes(folder / "assets" / asset.name, asset.read_bytes())
    scene = look(configuration)
    pictures = Pictures(folder / "pictures")
    listed = figure_label(scene.listed_metric, configuration.competition.top_k)
    told = {"board": leaderboard(scene), "convention": CONVENTION}
    pages: dict[str, tuple[str, str, dict[str, Any]]] = {"index": ("Leaderboard", "leaderboard", told)}
    data: dict[str, dict] = {}  # what the scripts of the pages read
    for split, title in SHEETS.items():
        if getattr(configuration.competition, split) is not None:
            found = sheet(scene, split, labels if split == "test" else None, pictures)
            if found is not None:
                pages[split] = (title, "sheet", {"sheet": found, "metric": listed})
                data[split] = found
    place = pictures.make().as_posix()
    data = {split: {**found, "pictures": place, "metric": listed} for split, found in data.items()}
    charted = {"study": study_page(scene), "ablations": ablations(scene), "data": data_health(configuration)}
    for name, charts in charted.items():
        if charts is not None:
            pages[name] = (name.capitalize(), name, {name: charts})
            data[name] = {"charts": charts["charts"]}
    for name, values in data.items():  # a page opened from the disk may load scripts but not fetch files
        text = json.dumps(values, separators=(",", ":"), allow_nan=False)
        write_text(folder / "data" / f"{name}.js", f"window.DATA = {text};\n")
    write_text(folder / "assets" / "plotly.min.js", get_plotlyjs())
    photos = scene.work.glob("dumps/simulated/*/contact_sheet.jpg")
    newest = max(photos, key=lambda path: path.stat().st_mtime, default=None)
    if newest is not None:
        write_bytes(folder / "data" / "simulated.jpg", newest.read_bytes())
    navigation = [(f"{page}.html", title) for page, (title, _, _) in pages.items()]
    if (scene.work / "parts.html").is_file():
        part_page = (scene.work / "parts.html").read_bytes()
        write_bytes(folder / "parts.html", part_page.replace(b"<body>", BACK, 1))
        navigation.append(("parts.html", "Part detectors"))
    shown = {
        "name": configuration.competition.name,
        "made": f"{datetime.now():%Y-%m-%d %H:%M}",
        "pages": navigation,
        "metric": scene.metric,
        "photos": newest is not None,
    }
    for page, (title, template, values) in reversed(pages.items()):  # the one to open comes last
        own = {**shown, "title": title, "file": f"{page}.html", **values}
        html = environment().get_template(f"{template}.html").render(own)
        write_bytes(folder / f"{page}.html", html.encode("utf-8", "replace"))
    for path in folder.glob("*.html"):  # of an earlier report, and linked by none of these
        if path.name not in dict(navigation):
            path.unlink()
    return folder / "index.html"


def environment():
    """Return the templates' environment; every value is escaped."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _check(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder}: is a file: give --out the name of a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "assets" / MARK).is_file():
        raise ConfigurationError(
            f"{folder}: holds files that are no report: give --out a new or empty folder, or that of an earlier report"
        )
