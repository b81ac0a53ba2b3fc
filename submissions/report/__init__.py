"""`report`: one folder of pages that open from the disk, without a server and without the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    from submissions.report.pictures import Pictures
    from submissions.report.ranked import look
    from submissions.report.sheets import sheet
    from submissions.report.study_page import study_page

    folder = Path(out) if out is not None else Path(configuration.competition.work) / "report"
    _check(folder)
    for asset in sorted(ASSETS.iterdir()):  # first: what is interrupted is known as a report's folder
        write_bytes(folder / "assets" / asset.name, asset.read_bytes())
    scene = look(configuration)
    pictures = Pictures(folder / "pictures")
    values: dict[str, Any] = {"board": leaderboard(scene), "metric": scene.metric, "convention": CONVENTION}
    pages = {"index.html": ("Leaderboard", "leaderboard.html", values)}
    sheets, listed = {}, figure_label(scene.listed_metric, configuration.competition.top_k)
    for split, title in SHEETS.items():
        if getattr(configuration.competition, split) is not None:
            found = sheet(scene, split, labels if split == "test" else None, pictures)
            if found is not None:
                sheets[split] = found
                pages[f"{split}.html"] = (title, "sheet.html", {"sheet": found, "metric": listed})
    place = pictures.make()
    for split, found in sheets.items():
        _write_data(folder, split, {**found, "pictures": place.as_posix(), "metric": listed})
    charted = {"study": study_page(scene), "ablations": ablations(scene), "data": data_health(configuration)}
    for name, charts in charted.items():
        if charts is not None:
            values = {"metric": scene.metric, "photos": name == "data" and _copied_photos(scene.work, folder)}
            values["health" if name == "data" else name] = charts
            pages[f"{name}.html"] = (name.capitalize(), f"{name}.html", values)
            _write_data(folder, name, {"charts": charts["charts"]})
    write_text(folder / "assets" / "plotly.min.js", get_plotlyjs())
    made = f"{datetime.now():%Y-%m-%d %H:%M}"
    navigation = [(file, title) for file, (title, _, _) in pages.items()]
    if (scene.work / "parts.html").is_file():
        part_page = (scene.work / "parts.html").read_bytes()
        write_bytes(folder / "parts.html", part_page.replace(b"<body>", BACK, 1))
        navigation.append(("parts.html", "Part detectors"))
    for file, (title, template, values) in reversed(pages.items()):  # the one to open comes last
        shown = {"title": title, "file": file, "made": made, "pages": navigation}
        shown["name"] = configuration.competition.name
        html = environment().get_template(template).render(**shown, **values)
        write_bytes(folder / file, html.encode("utf-8", "replace"))
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


def _write_data(folder: Path, name: str, values: Mapping) -> None:
    """Write what a page's script reads; a page opened from the disk may load scripts but not fetch files."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    write_text(folder / "data" / f"{name}.js", f"window.DATA = {text};\n")


def _copied_photos(work: Path, folder: Path) -> bool:
    """Copy the contact sheet of the simulated photos, the newest where there are several; whether there is one."""
    found = sorted(work.glob("dumps/simulated/*/contact_sheet.jpg"), key=lambda path: path.stat().st_mtime)
    if found:
        write_bytes(folder / "data" / "simulated.jpg", found[-1].read_bytes())
    return bool(found)


def _check(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder}: is a file: give --out the name of a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "assets" / MARK).is_file():
        raise ConfigurationError(
            f"{folder}: holds files that are no report: give --out a new or empty folder, or that of an earlier report"
        )
