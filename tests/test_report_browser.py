"""report.html in a browser: everything is drawn, nothing overflows, and touching the front shows the network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from nas import report
from nas.front import front
from tests.test_report_page import make_story, stopped_at, turned_away

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="takes Chromium or Chrome on the PATH")
WIDTHS = (1400, 390)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def story() -> report.Story:
    return make_story(40, stopped=[stopped_at(70)], turned=[turned_away(71, 3.5)])


@pytest.fixture(scope="module", params=WIDTHS)
def page(
    request: pytest.FixtureRequest, browser: Any, story: report.Story, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    report.write_report(story, path)
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 14")
    yield page
    page.close()


def test_every_figure_is_drawn_and_nothing_leaves_the_machine(page: Any) -> None:
    for name in report.FIGURES:
        figure = page.locator(f"#figure-{name.replace(' ', '-')}")
        assert figure.locator(".main-svg").count() >= 1, name
        assert figure.locator(".trace path, .heatmaplayer image, .hm image").count() >= 1, name
    assert [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.said == []


def test_nothing_is_wider_than_the_screen(page: Any) -> None:
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        page.evaluate(
            """() => [...document.querySelectorAll("h1, h2, h3, p, .plot:not(.lines), .map, table, .shown, pre")]
        .filter(each => each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"""
        )
        == []
    )


def test_figures_and_words_do_not_cover_each_other(page: Any) -> None:
    """Blocks of a section follow each other."""
    assert (
        page.evaluate(
            """() => [...document.querySelectorAll("section")].flatMap(section => {
            const boxes = [...section.children].map(each => [each, each.getBoundingClientRect()])
                .filter(([each, box]) => box.height > 0);
            return boxes.slice(1).filter(([each, box], k) => box.top < boxes[k][1].bottom - 9)
                .map(([each]) => each.outerHTML.slice(0, 80));
        })"""
        )
        == []
    )


def test_hovering_the_front_shows_the_placement(page: Any, story: report.Story) -> None:
    member = next(row for row in reversed(front(story.rows)) if row.architecture.placements)
    place = page.evaluate(
        """([x, y]) => {
            const plot = document.getElementById("figure-pareto"), layout = plot._fullLayout;
            plot.scrollIntoView({block: "center"});
            const box = plot.getBoundingClientRect();
            return [box.left + layout.margin.l + layout.xaxis.d2p(x), box.top + layout.margin.t + layout.yaxis.d2p(y)];
        }""",
        [member.latency_ms, 100 * member.accuracy],
    )
    page.mouse.move(place[0] - 40, place[1] - 40)
    page.mouse.move(*place)
    page.wait_for_selector("#figure-pareto .hoverlayer text")
    hovered = page.locator("#figure-pareto .hoverlayer").text_content()
    assert f"trial {member.trial}" in hovered
    for placement in member.architecture.placements:
        assert f"stage {placement.stage}: {placement.block}" in hovered
    panel = page.locator('.shown[data-for="figure-pareto"]')
    assert f"trial {member.trial}" in panel.inner_text()
    assert panel.locator(".strip .on").count() == len({each.stage for each in member.architecture.placements})
