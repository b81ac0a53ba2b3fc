"""The report in a real browser: what it shows, how it is used, and that nothing in it comes from elsewhere or is run."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from competition.configuration import load_configuration
from features.components import Component, layer_component, short_names
from features.descriptors import open_components
from features.recipes.recipe import Recipe
from submissions.__main__ import main
from submissions.report import study_page, write_report
from submissions.report.ranked import look
from submissions.report.sheets import pulled_down
from submissions.report.study_page import trial_weights
from tests.benchmarks.report_screenshots import browser
from tuning.region import uniform_coordinates

PAGES = [
    "ablations.html",
    "data.html",
    "index.html",
    "parts.html",
    "study.html",
    "test.html",
    "validation.html",
]
WITHIN = """box => [...box.querySelectorAll("text")].filter(text => {
    const [own, all] = [text.getBoundingClientRect(), box.getBoundingClientRect()];
    return own.width && (own.left < all.left - 1 || own.right > all.right + 1);
}).map(text => text.textContent)"""  # texts of a chart that are cut
HOSTILE = "<script>document.title='read'<script>&amp;"


@pytest.fixture(scope="module")
def config(tiny_competition, tmp_path_factory) -> Path:
    """The tiny competition, one of its gallery images under a name that is HTML."""
    folder = tmp_path_factory.mktemp("hostile") / "competition"
    shutil.copytree(tiny_competition.parent, folder)
    (folder / "gallery" / "0000" / "n08.jpg").rename(folder / "gallery" / "0000" / f"{HOSTILE}.jpg")
    labels = folder / "val.csv"
    labels.write_text(labels.read_text().replace("n08", HOSTILE))
    return folder / "config.toml"


@pytest.fixture(scope="module")
def report(config, tmp_path_factory) -> Path:
    """The report of two recipes and three submissions of the hostile competition."""
    work = tmp_path_factory.mktemp("work")
    common = ("--config", str(config), "--work", str(work))
    assert main(["extract", *common]) == 0
    assert main(["tune", *common, "--folds", "2", "--repeats", "1"]) == 0
    for recipe in ("best", "untuned"):
        assert main(["submit", *common, "--recipe", recipe]) == 0
    assert main(["submit", *common, "--recipe", "best", "--split", "validation"]) == 0
    test = str(work / "submissions" / "best-test.csv")
    assert main(["leaderboard", *common, "--record", test, "0.25"]) == 0
    assert main(["parts", *common, "--top", "2"]) == 0
    assert main(["report", *common]) == 0
    return work / "report"


@pytest.fixture(scope="module")
def chromium():
    """Headless Chromium; without it the tests are skipped, but not where TOP7_BROWSER is set, as in CI."""
    try:
        with browser() as opened:
            yield opened
    except (RuntimeError, ImportError) as error:
        if os.environ.get("TOP7_BROWSER"):
            raise
        pytest.skip(f"the report's pages are not tested: {error}")


@pytest.fixture
def visit(chromium, report):
    """Open a page of the report; afterwards nothing was said on the console and nothing asked for from elsewhere."""
    said, asked, contexts = [], [], []

    def opened(name: str, width: int = 1280, scheme: str = "light"):
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((report / name).as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    inside = report.as_uri() + "/"
    assert [url for url in asked if not url.startswith((inside, "data:"))] == []


def pages(report: Path) -> list[str]:
    return sorted(path.name for path in report.glob("*.html"))


@pytest.mark.parametrize("name", PAGES)
def test_every_page_fits_and_is_legible_in_both_colour_schemes(visit, name):
    page = visit(name)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            paper, ink = page.evaluate(
                "(() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]; })()"
            )
            light = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
            assert (light[0] > light[1]) == (scheme == "light") and abs(light[0] - light[1]) > 400
        small = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => parseFloat(getComputedStyle(e).fontSize) < 12)"
            ".filter(e => e.textContent && !e.closest('svg')).map(e => e.outerHTML.slice(0, 80))"
        )
        assert small == []
    said = page.locator("main p").all_inner_texts()
    assert [text for text in said if re.search(r"[a-z]\.[A-Z]", text)] == []  # sentences stand apart
    assert page.evaluate("[...document.images].filter(e => !e.alt && !e.closest('dialog')).length") == 0


def test_the_folder_holds_these_pages(report):
    assert pages(report) == PAGES


def test_a_report_that_was_interrupted_is_written_by_the_next_call(config, report, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    configuration = load_configuration(config, work=report.parent)
    with monkeypatch.context() as patched:
        patched.setattr("submissions.report.study_page.study_page", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_report(configuration, tmp_path / "pages")
    assert write_report(configuration, tmp_path / "pages").is_file()


def test_a_trial_after_a_whitening_has_the_weights_of_a_region_without_order():
    components = tuple(Component(f"net/{layer}/spoc", "net/spoc", "net", layer, "spoc") for layer in (1, 2))
    provenance = {"sums": [-0.1, 0.2], "region": "similarity"}
    recipe = Recipe(
        "best", components, (0.5, 0.5), provenance=provenance, steps=({"step": "whiten", "dim": 8},)
    )
    distributions = {name: FloatDistribution(0, 1) for name in ("u0", "u1")}
    trial = create_trial(params={"u0": 0.2, "u1": 0.7}, distributions=distributions, value=0.5)
    shares = uniform_coordinates(np.array([0.2, 0.7]))
    assert trial_weights(recipe, trial).tolist() == shares.tolist()


def test_the_leaderboard_is_sorted_by_a_click_and_says_a_recipe_in_words(visit):
    page = visit("index.html")
    files = page.eval_on_selector_all("tbody tr td:nth-child(2)", "e => e.map(c => c.textContent.trim())")
    assert sorted(set(files)) == ["best-test.csv", "best-validation.csv", "untuned-test.csv", "–"]
    heads = page.locator("thead th").all_inner_texts()
    official = f"tbody tr td:nth-child({1 + heads.index('official')})"
    plotted = page.locator(".plot .what").all_inner_texts()
    assert {"best", "untuned"} <= set(plotted) and len(set(plotted)) == len(plotted)
    values = lambda: page.eval_on_selector_all(official, "e => e.map(c => c.textContent.trim())")  # noqa: E731
    page.click("th button:text-is('official')")
    assert values()[0] == "0.2500"
    page.click("th button:text-is('official')")
    assert values()[-1] == "0.2500"
    assert "simulated" not in heads and len(heads) == page.locator("tbody tr >> nth=0 >> td").count()
    page.click("button[data-recipe=best] >> nth=0")
    words = page.inner_text("dialog[open]")
    assert "test_resnet" in words and "{" not in words
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_a_sheet_shows_hits_and_misses_by_sign_filters_and_compares(visit, report):
    page = visit("validation.html")
    text = (report / "data" / "validation.js").read_text()
    data = json.loads(text.removeprefix("window.DATA = ").rstrip().removesuffix(";"))
    assert page.locator("article.query").count() == 8
    first = [each for each in data["lists"][0]["ranks"]]
    signs = page.locator("article.query figcaption b").all_inner_texts()
    hits = sum(image in data["correct"][query] for query, line in enumerate(first) for image in line)
    assert sum(sign.startswith("✓") for sign in signs) == hits > 0
    assert sum(sign.startswith("✗") for sign in signs) == 8 * 7 - hits
    shown = page.eval_on_selector_all("article.query", "e => e.map(a => a.dataset.query)")
    names = [name for name, _ in data["queries"]]
    worst = sorted(range(8), key=lambda query: (data["lists"][0]["precisions"][query], query))
    assert shown == [names[query] for query in worst]
    page.select_option("#order", "certain")
    shown = page.eval_on_selector_all("article.query", "e => e.map(a => a.dataset.query)")
    assert shown == [
        names[query] for query in sorted(range(8), key=lambda q: (data["lists"][0]["lead"][q], q))
    ]
    page.select_option("#order", "near")
    near = [
        q for q in range(8) if data["lists"][0]["missed"][q] and 0 < data["lists"][0]["missed"][q][0][1] <= 21
    ]
    assert page.locator("article.query").count() == len(near)
    page.select_option("#order", "differ")
    assert page.inner_text("#count") == "choose a second list"
    page.select_option("#second", "1")
    other = data["lists"][1]["ranks"]
    assert page.locator("article.query").count() == sum(set(a) != set(b) for a, b in zip(first, other))
    page.select_option("#order", "file")
    assert page.locator("article.query >> nth=0 >> section.list").count() == 2
    page.fill("#name", "v3")
    assert page.locator("article.query").count() == 1


def test_the_keyboard_walks_the_queries_and_the_large_view(visit):
    page = visit("validation.html")
    current = lambda: page.evaluate("document.activeElement.dataset.query")  # noqa: E731
    shown = page.eval_on_selector_all("article.query", "e => e.map(a => a.dataset.query)")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert current() == shown[1]
    page.keyboard.press("k")
    assert current() == shown[0]
    page.keyboard.press("Enter")
    caption = page.locator("#large figcaption >> nth=1")
    assert shown[0] in page.inner_text("#large") and "1, " in caption.inner_text()
    page.keyboard.press("ArrowRight")
    assert caption.inner_text()[2:4] == "2,"
    page.keyboard.press("Escape")
    assert page.locator("#large[open]").count() == 0


def test_a_file_name_that_is_html_shows_as_text(visit):
    page = visit("validation.html")
    page.select_option("#order", "file")
    page.click(f"article.query button[title={json.dumps(HOSTILE)}] >> nth=0")
    assert HOSTILE in page.inner_text("#large") and page.title().startswith("Validation sheet")


def test_the_test_sheet_has_no_labels_and_starts_with_the_least_certain(visit):
    page = visit("test.html")
    assert page.input_value("#order") == "certain" and page.locator("article.query").count() == 8
    assert "✓" not in page.inner_text("#sheet")


def test_every_chart_is_drawn_in_the_colours_of_the_page(visit, report):
    for name in ("study.html", "ablations.html", "data.html"):
        page = visit(name, scheme="dark")
        charts = page.locator("[data-chart]:visible")
        for number in range(charts.count()):
            charts.nth(number).scroll_into_view_if_needed()
            charts.nth(number).locator(".main-svg").first.wait_for()
        wanted = {"study.html": 4, "ablations.html": 3, "data.html": 0}[name]  # all images have one size
        assert charts.count() == wanted
    page = visit("study.html")
    title = page.locator("#map option").nth(1).inner_text()
    page.select_option("#map", label=title)
    page.locator(".map:visible .main-svg").first.wait_for()
    assert page.locator(".map:visible").count() == 1
    page.locator("[data-chart=importances]").scroll_into_view_if_needed()
    page.locator("[data-chart=importances] .main-svg").first.wait_for()
    names = " ".join(page.locator(".main-svg text").all_text_contents())
    assert "share of layer" in names and "u0" not in names and "Best Value" not in names
    page = visit("study.html", width=390)
    for chart in page.locator("[data-chart]:visible").all():
        chart.scroll_into_view_if_needed()
        chart.locator(".main-svg").first.wait_for()
        if chart.get_attribute("data-chart") != "slices":  # that one scrolls in a frame of its own
            assert chart.evaluate(WITHIN) == []


def test_the_weight_map_is_what_ranking_the_whole_gallery_gives(config, report):
    configuration = load_configuration(config, work=report.parent)
    scene = look(configuration)
    parts = scene.ranked["best"].recipe.components[:3]
    made = study_page.combination(scene, parts, "simplex")
    chart = study_page.whole_map(scene, made, np.array([0.2, 0.3, 0.5]), np.zeros((0, 3)))
    opened = [open_components(configuration, parts, split, None) for split in ("validation", "gallery")]
    cosines = [q.descriptors.astype(float) @ g.descriptors.astype(float).T for q, g in zip(*opened)]
    assert len(chart["points"]) == len(chart["values"]) > 300
    for weights, figure in list(zip(chart["points"], chart["values"]))[::17]:
        order = np.argsort(-sum(w * s for w, s in zip(weights, cosines)), axis=1, kind="stable")[:, :7]
        values = [naive(order[q], set(rows)) for q, rows in enumerate(scene.labelled.relevant)]
        assert figure == pytest.approx(np.mean(np.array(values)[scene.labelled.public]), abs=1e-5)
    assert chart["star"] == [[0.2, 0.3, 0.5]]
    sums = np.array([values.mean() for values in (s[scene.labelled.public] for s in cosines)])
    shallow = (1 / sums) / (1 / sums).sum()  # eq. 3 with equal w_l S_l: the vertex of the shallowest layer
    assert chart["similarity"][0] == pytest.approx(shallow.tolist(), abs=1e-4)


def naive(answers, correct) -> float:
    """AP@7 by the definition, over min(m, 7)."""
    hits, total = 0, 0.0
    for place, row in enumerate(answers, start=1):
        if row in correct:
            hits += 1
            total += hits / place
    return total / min(len(correct), 7)


def test_the_ablations_show_what_each_component_earns_alone(config, report):
    text = (report / "data" / "ablations.js").read_text()
    charts = json.loads(text.removeprefix("window.DATA = ").rstrip().removesuffix(";"))["charts"]
    scene = look(load_configuration(config, work=report.parent))
    lines = {}
    for row in charts["layers-0"]["rows"]:
        lines.setdefault(row["name"], {})[row["at"]] = row["mean"]
    assert list(lines) == ["spoc", "fcrow"] and list(lines["spoc"]) == ["0", "1", "2"]
    (component,) = [layer_component(scene.configuration.backbones[0], 2, "spoc")]
    opened = [
        open_components(scene.configuration, [component], split, None) for split in ("validation", "gallery")
    ]
    cosines = opened[0][0].descriptors.astype(float) @ opened[1][0].descriptors.astype(float).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :7]
    values = [naive(order[q], set(rows)) for q, rows in enumerate(scene.labelled.relevant)]
    assert lines["spoc"]["2"] == pytest.approx(np.mean(values), abs=1e-5)


def test_the_study_page_says_how_the_figure_spreads_over_the_folds(config, report, capsys):
    recipe = json.loads((report.parent / "recipes" / "best.json").read_text())
    page = (report / "study.html").read_text()
    mean, low, high, spread = map(
        float,
        re.search(
            r"scored on the rest: (\S+) \(95 % (\S+) to (\S+)\); .* spreads by (\S+) \(standard", page
        ).groups(),
    )
    assert mean == pytest.approx(recipe["scores"]["cross-validated"], abs=1e-4)
    assert low < mean < high and 0 < spread < 1
    capsys.readouterr()
    common = ["--config", str(config), "--work", str(report.parent)]
    assert main(["submit", *common, "--recipe", "best", "--out", str(report.parent / "again.csv")]) == 0
    assert f"cross-validated {mean:.4f}, 95 % {low:.4f} to {high:.4f}" in capsys.readouterr().out


def test_sizes_unreadable_and_equal_files_are_listed(visit, report):
    page = visit("data.html")
    text = page.inner_text("main")
    assert "All 24 images looked at have 48 × 48 pixels" in text and "images a second" in text
    limits = page.locator("ul.limits li").all_inner_texts()  # one a pass: gallery, validation, test
    assert len(limits) == 3
    assert all("% of the time waiting for images" in limit for limit in limits)
    assert all(limit.split(": ")[1].startswith(("network", "decoding")) for limit in limits)


def test_what_pulled_a_missed_image_down_adds_up(config, report):
    scene = look(load_configuration(config, work=report.parent))
    ranked = scene.ranked["untuned"]
    parts, weights = ranked.recipe.components, ranked.recipe.weights
    opened = [open_components(scene.configuration, parts, split, None) for split in ("validation", "gallery")]
    last, missed = ranked.lists.ranks[3, [6, 20]].tolist()
    differences = [
        w
        * float(q.descriptors[3].astype(float) @ (g.descriptors[missed].astype(float) - g.descriptors[last]))
        for w, q, g in zip(weights, *opened)
    ]
    words = pulled_down(scene, ranked)(3, missed, last)
    worst = short_names(parts)[int(np.argmin(differences))]
    assert words == f"{sum(differences):+.3f} to the last listed, most by {worst} ({min(differences):+.3f})"


def test_without_validation_queries_there_is_no_figure_and_the_test_sheet_stands(config, report, tmp_path):
    lines = [
        line for line in config.read_text().splitlines() if not line.startswith(("validation", "labels"))
    ]
    other = config.with_name("unlabelled.toml")
    other.write_text("\n".join(lines))
    out = tmp_path / "report"
    assert main(["report", "--config", str(other), "--work", str(report.parent), "--out", str(out)]) == 0
    assert pages(out) == ["data.html", "index.html", "parts.html", "test.html"]


def test_another_metric_is_named_and_used(config, report, tmp_path):
    other = config.with_name("recall.toml")
    other.write_text(config.read_text().replace("[competition]", '[competition]\nmetric = "recall"'))
    out = tmp_path / "report"
    assert main(["report", "--config", str(other), "--work", str(report.parent), "--out", str(out)]) == 0
    scene = look(load_configuration(config, work=report.parent))
    ranks = scene.ranked["untuned"].lists.ranks[:, :7]
    shares = [
        len(set(line) & set(rows)) / len(rows) for line, rows in zip(ranks.tolist(), scene.labelled.relevant)
    ]
    text = (out / "data" / "validation.js").read_text()
    data = json.loads(text.removeprefix("window.DATA = ").rstrip().removesuffix(";"))
    (untuned,) = [each for each in data["lists"] if each["name"] == "untuned"]
    assert data["metric"] == "recall@7" and untuned["map"] == pytest.approx(np.mean(shares))
    assert "recall@7" in (out / "index.html").read_text()


def test_a_second_report_makes_no_picture_again_and_keeps_none_that_is_gone(report, config):
    pictures = {path: path.stat().st_mtime_ns for path in report.glob("pictures/*/*.jpg")}
    stray = next(iter(pictures)).with_name("0" * 16 + ".jpg")
    stray.write_bytes(b"of an earlier report")
    (report / "studies.html").write_text("of an earlier report")
    assert main(["report", "--config", str(config), "--work", str(report.parent)]) == 0
    assert {path: path.stat().st_mtime_ns for path in report.glob("pictures/*/*.jpg")} == pictures
    assert pages(report) == PAGES


def test_a_folder_that_holds_something_else_is_refused(config, report, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    common = ("--config", str(config), "--work", str(report.parent))
    assert main(["report", *common, "--out", str(tmp_path)]) == 2
    assert "no report" in capsys.readouterr().err and list(tmp_path.iterdir()) == [tmp_path / "thesis.txt"]


def test_descriptors_made_elsewhere_are_in_the_weight_map_and_the_ablations(tiny_competition, tmp_path):
    folder, generator = tmp_path / "competition", np.random.default_rng(0)
    shutil.copytree(tiny_competition.parent, folder)
    text = '\n[[external]]\nname = "my-clip"\n'
    for split, images in (("gallery", "gallery"), ("validation", "val"), ("test", "test")):
        ids = sorted(path.stem for path in (folder / images).rglob("*.jpg"))
        rows = generator.standard_normal((len(ids), 8)).astype(np.float32)
        np.save(folder / f"{split}.npy", rows / np.linalg.norm(rows, axis=1, keepdims=True))
        (folder / f"{split}.ids").write_text("\n".join(ids) + "\n")
        text += f'{split} = "{split}.npy"\n'
    config = folder / "config.toml"
    config.write_text(config.read_text() + text)
    common = ("--config", str(config), "--work", str(tmp_path / "work"))
    assert main(["extract", *common]) == 0
    assert main(["tune", *common, "--trials", "4", "--folds", "0"]) == 0
    assert main(["report", *common]) == 0
    study = (tmp_path / "work" / "report" / "study.html").read_text()
    assert ", my-clip</option>" in study
    text = (tmp_path / "work" / "report" / "data" / "ablations.js").read_text()
    charts = json.loads(text.removeprefix("window.DATA = ").rstrip().removesuffix(";"))["charts"]
    (row,) = charts["externals"]["rows"]
    scene = look(load_configuration(config, work=tmp_path / "work"))
    gallery, queries = (np.load(folder / f"{split}.npy").astype(float) for split in ("gallery", "validation"))
    order = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")[:, :7]
    values = [naive(order[q], set(rows)) for q, rows in enumerate(scene.labelled.relevant)]
    assert (row["name"], row["at"]) == ("alone", "my-clip")
    assert row["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    drawing = (tmp_path / "work" / "report" / "assets" / "charts.js").read_text()
    assert "showlegend: true" in drawing  # one line has its name, too
