"""The page as a person meets it: in a real browser, with a keyboard, on paper, on a phone."""

import re
from dataclasses import replace

import pytest

from orchestrator.report import render

from .conftest import evaluated

pytestmark = pytest.mark.slow

PAPER = 687
"""CSS pixels: A4 without its margins, 182 of 210 mm."""


@pytest.fixture(scope="module")
def made_up(evidence, search, tmp_path_factory):
    """The address of a page with every section: searched with cost, evaluated, registered."""
    searched = replace(search, request=search.request.model_copy(update={"searcher": "pareto"}))
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render(replace(evaluated(evidence), search=searched)))
    return file.as_uri()


@pytest.fixture(scope="module")
def real(finished_smoke_run):
    """The address of the page that a real run leaves."""
    return (finished_smoke_run / "runs/smoke/report.html").as_uri()


@pytest.fixture
def address(request):
    return request.getfixturevalue(getattr(request, "param", "made_up"))


on_both_pages = pytest.mark.parametrize("address", ["made_up", "real"], indirect=True)


@pytest.fixture
def open_page(browser, address):
    contexts = []

    def open_it(width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(180_000)
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.requests = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(address)
        return page

    yield open_it
    for context in contexts:
        context.close()


def luminance(colour):
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def rgb(colour):
    """`rgb()` of what Chromium computes for `color-mix`, `color(srgb 0.1 0.2 0.3)`."""
    if not colour.startswith("color(srgb"):
        return colour
    return f"rgb({', '.join(str(round(255 * float(part))) for part in re.findall(r'[0-9.]+', colour)[:3])})"


def contrast(one, other):
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def computed(page, selector, name):
    return page.eval_on_selector(selector, f"e => getComputedStyle(e)['{name}']")


@on_both_pages
def test_it_asks_the_network_for_nothing_and_complains_of_nothing(open_page, address):
    page = open_page()
    assert [url for url in page.requests if not url.startswith("data:")] == [address]
    assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_in_page_and_figures_stands_out_from_the_background(open_page, scheme):
    page = open_page(scheme=scheme)
    background = computed(page, "body", "backgroundColor")
    for selector in ("body", "figcaption", "caption", "nav a", "td.unclear"):
        assert contrast(computed(page, selector, "color"), background) >= 4.5, selector
    for colour in set(page.eval_on_selector_all("svg text", "all => all.map(e => getComputedStyle(e).fill)")):
        assert contrast(colour, background) >= 4.5, colour
    for cell in page.query_selector_all(".confusion td"):
        colour, behind = cell.evaluate(
            "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
        )
        assert contrast(colour, rgb(behind)) >= 4.5, cell.inner_text()
    for role in ("control", "teacher", "ensemble", "members", "averaged"):
        dot = page.evaluate(
            f"() => {{ const e = document.createElement('i'); e.style.color = 'var(--{role})';"
            "document.body.append(e); return getComputedStyle(e).color }"
        )
        assert contrast(dot, background) >= 3, role


def test_dark_is_dark_in_the_figures_too(open_page):
    light, dark = open_page(scheme="light"), open_page(scheme="dark")
    assert luminance(computed(light, "body", "backgroundColor")) > 0.9
    assert luminance(computed(dark, "body", "backgroundColor")) < 0.05
    assert computed(light, "svg text", "fill") != computed(dark, "svg text", "fill")


@pytest.mark.parametrize("width", [360, 1280])
def test_the_keyboard_reaches_everything_and_stops_only_where_something_scrolls(open_page, width):
    page = open_page(width=width)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.url.endswith("#results")
    reached = []
    while not reached or reached[-1] != "BODY":
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.tagName"))
        if reached[-1] == "SUMMARY":
            page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == 4
    scrolls = "all => all.filter(e => e.scrollWidth > e.clientWidth || e.tabIndex == 0).length"
    scrolling = page.eval_on_selector_all("main div, pre", scrolls)
    assert reached.count("DIV") + reached.count("PRE") == scrolling
    assert scrolling > 12 if width == 360 else scrolling < 4


@on_both_pages
def test_on_a_laptop_every_column_of_the_results_is_seen(open_page):
    page = open_page(width=1280)
    hidden = page.eval_on_selector_all(  # what was searched may have any number of columns
        "section:not(#search) > .scroll",
        "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.getAttribute('aria-label'))",
    )
    assert hidden == []


def test_a_screen_reader_hears_figures_tables_and_landmarks(open_page):
    heard = open_page().locator("body").aria_snapshot()
    for name in (
        'img "Accuracy against inference cost"',
        'img "Reliability before and after temperature scaling"',
        'img "Accuracy and calibration error under corruption"',
        'img "Risk against coverage"',
        'img "Trials of the search"',
        'img "Trials over their epochs"',
        'heading "Beyond the test set"',
        'heading "The search"',
        'navigation "Sections"',
        "main",
        'rowheader "averaged"',
        'columnheader "− control"',
        'heading "Lineage"',
        'img "training image of class 0"',
    ):
        assert name in heard, name


def unfold(page):
    page.eval_on_selector_all("details", "all => all.forEach(e => e.open = true)")


@on_both_pages
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_the_page_itself_never_scrolls_sideways(open_page, width):
    page = open_page(width=width)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@on_both_pages
def test_labels_of_figures_do_not_cover_each_other(open_page):
    """Texts of one figure, as boxes: none lies over another by more than a third."""
    page = open_page()
    boxes_of = "figure => [...figure.querySelectorAll('text')].map(t => t.getBoundingClientRect().toJSON())"
    for figure in page.query_selector_all("svg.chart"):
        boxes = figure.evaluate(boxes_of)
        for index, one in enumerate(boxes):
            for other in boxes[index + 1 :]:
                wide = min(one["right"], other["right"]) - max(one["left"], other["left"])
                high = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
                if wide > 0 and high > 0:
                    smaller = min(one["width"] * one["height"], other["width"] * other["height"])
                    assert wide * high < smaller / 3


@on_both_pages
def test_nothing_is_wider_than_the_paper(open_page):
    page = open_page(width=PAPER)
    page.emulate_media(media="print")
    unfold(page)
    right = "all => all.map(e => [e.getBoundingClientRect().right, e.textContent.trim().slice(0, 60)])"
    for end, text in page.eval_on_selector_all("table, svg, pre, dl, ul", right):
        assert end <= PAPER, text


def test_printed_it_is_a_few_light_pages_without_the_navigation(open_page):
    page = open_page(scheme="dark")
    page.emulate_media(media="print")
    assert luminance(computed(page, "body", "backgroundColor")) > 0.9
    assert not page.locator("nav").is_visible()
    paper = page.pdf(prefer_css_page_size=True)
    assert paper.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 16


@on_both_pages
def test_printed_nothing_stays_folded(open_page):
    page = open_page()
    closed = (
        "all => all.filter(e => !e.checkVisibility({contentVisibilityAuto: true})).map(e => e.textContent)"
    )
    folded = page.eval_on_selector_all("details td, details li", closed)
    assert any("mean of the teachers" in text for text in folded)
    page.emulate_media(media="print")
    assert page.eval_on_selector_all("td, th, li:not(nav li), p", closed) == []
    sizes = page.eval_on_selector_all("details td", "all => all.map(e => e.getBoundingClientRect().height)")
    assert min(sizes) > 0
