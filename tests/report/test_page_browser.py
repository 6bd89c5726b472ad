"""The leaderboard in headless Chromium, opened from disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from cxrzoo.report import page as pages
from cxrzoo.report.grid import measure
from tests.report.test_page import HOSTILE, card_folder, seeds

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten encoders; two protocols, two benchmarks, one external test set and a control."""
    folder = tmp_path_factory.mktemp("site")
    records = []
    for i, name in enumerate(["random-init", "supervised-imagenet", *(f"moco-{k}" for k in "cab")]):
        for size, more in ((20, 0.0), (100, 0.1), ("full", 0.15)):
            records += seeds(name, 0.6 + 0.02 * i + more, budget=size, external=["montgomery"])
            records += seeds(name, 0.7 - 0.02 * i + more, benchmark="rsna", budget=size)
    for i, name in enumerate(["swav-x", "swav-y", "byol-z"]):
        state = ("exposed", "unknown", "clean")[i]
        tier = ("resnet50", "lite", "lite")[i]
        records += seeds(name, 0.95, budget=100, exposure=state, tier=tier, reason=f"why {state}")
    records += seeds("byol-z", 0.5, budget=20, control="view", tier="lite")
    records += seeds("moco-c", 0.5, budget=20, control="view")
    protocol = {"name": "finetune-v1"}
    records += (
        seeds("moco-a", 0.8, protocol=protocol) + seeds("moco-b", 0.85, protocol=protocol)[:2]
    )
    records += seeds(HOSTILE, 0.55, budget=100, benchmark="rsna", notes=[HOSTILE], reason=HOSTILE)
    card_folder(
        folder / "runs/x", "x", "a" * 64, f"{HOSTILE}\n\n[j](javascript:alert(1)) ![i](i.png)"
    )
    records += seeds("x", 0.56, budget=100, benchmark="rsna", weights="a" * 64)
    verified = {r.digest: "rerun" for r in records if r.spec.encoder.name == "moco-a"}
    verified |= {r.digest: "recomputed" for r in records if r.spec.encoder.name == "moco-b"}
    grid = measure(records, verified=verified)
    pages.build(grid, folder / "site", [folder / "runs"])
    return folder / "site"


@pytest.fixture
def opened(chromium: Browser, site: Path) -> Iterator[Page]:
    """A page that fails its test when it says anything or asks for anything but the site."""
    yield from _watched(chromium, site)


def _watched(chromium: Browser, site: Path, **settings: object) -> Iterator[Page]:
    page = chromium.new_page(**settings)  # type: ignore[arg-type]
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(5000)
    yield page
    page.close()
    assert said == []
    root = site.as_uri() + "/"
    assert [url for url in asked if not url.startswith(root)] == []
    assert asked, "the test opened no page"


def go(page: Page, site: Path, view: str = "", name: str = "index.html") -> None:
    page.goto((site / name).as_uri() + view)


def shown(page: Page) -> list[str]:
    return page.locator("#board tbody a").all_inner_texts()


def columns(page: Page) -> list[str]:
    found = page.locator("#board thead tr").last.locator("button")
    return [b.get_attribute("aria-label") or "" for b in found.all()]


def scores(page: Page, column: int) -> list[str]:
    """The means of a column of scores, by the order of the rows; empty where there is none."""
    texts = page.locator(f"#board tbody tr td:nth-of-type({column + 2})").all_inner_texts()
    return [(re.match(r"0\.\d{3}", text) or [""])[0] for text in texts]


def header(page: Page, key: str):
    return page.locator(f'#board th[data-key="{key}"]')


# Sorting.


def test_the_page_opens_sorted_by_mean_rank_without_asking_for_anything(opened, site):
    go(opened, site)
    expect(header(opened, "rank")).to_have_attribute("aria-sort", "ascending")
    ranks = opened.locator("#board tbody tr td:nth-of-type(1) > span").all_inner_texts()
    numbers = [float(r) for r in ranks if r[0].isdigit()]
    assert numbers == sorted(numbers)
    assert len(numbers) == 5
    assert not any(r[0].isdigit() for r in ranks[len(numbers) :])


def test_a_click_sorts_highest_first_and_another_lowest_first_with_gaps_last(opened, site):
    go(opened, site)
    button = header(opened, "nlmtb @100").locator("button")
    for direction, reverse in (("descending", True), ("ascending", False)):
        button.click()
        expect(header(opened, "nlmtb @100")).to_have_attribute("aria-sort", direction)
        found = scores(opened, 1)
        known = [s for s in found if s]
        assert known == sorted(known, reverse=reverse)
        assert len(known) == 8
        assert found[8:] == [""] * (len(found) - 8)
    assert opened.locator("#board th[aria-sort]").count() == 1


def test_equal_scores_keep_their_order_in_both_directions(opened, site):
    go(opened, site)
    button = header(opened, "nlmtb @100").locator("button")
    for _ in range(2):
        button.click()
        tied = [n for n in shown(opened) if n in ("swav-x", "swav-y", "byol-z")]
        assert tied == ["byol-z", "swav-x", "swav-y"]


@pytest.mark.parametrize("key", ["Enter", " "])
def test_a_heading_sorts_by_the_keyboard_and_keeps_the_focus(opened, site, key):
    go(opened, site)
    button = header(opened, "name").locator("button")
    button.focus()
    opened.keyboard.press(key)
    expect(header(opened, "name")).to_have_attribute("aria-sort", "ascending")
    expect(button).to_be_focused()
    names = shown(opened)
    assert names[0] == HOSTILE
    assert names[1:] == sorted(names[1:])
    expect(opened.locator("#status")).to_contain_text("by name, A to Z")


FOCUSED = """() => {
  const e = document.activeElement;
  if (e === document.body) return null;
  const name = e.id || e.getAttribute("aria-label") || e.className || e.textContent;
  return [name, getComputedStyle(e).outlineStyle];
}"""


def test_everything_is_reached_by_tab_alone_and_shows_the_focus(opened, site):
    go(opened, site)
    reached = []
    while len(reached) < 200:
        opened.keyboard.press("Tab")
        found = opened.evaluate(FOCUSED)
        if found is None:
            break  # past the last element
        reached.append(found)
    names = [name for name, _ in reached]
    for name in ("skip", "protocol", "budget", "exposure", "search", "reset", "scroll tall"):
        assert name in names
    assert "nlmtb, 100 labelled images" in names
    assert "Draw the curve of moco-a" in names
    assert {outline for _, outline in reached} == {"solid"}


# Filters.


def test_protocol_shows_the_columns_of_another(opened, site):
    go(opened, site)
    opened.select_option("#protocol", "finetune-v1")
    assert columns(opened) == ["nlmtb, 100 labelled images"]
    assert shown(opened) == ["moco-b", "moco-a"]
    expect(opened.locator("#board")).to_contain_text("2 of 3 seeds")


def test_budget_and_benchmarks_choose_columns(opened, site):
    go(opened, site)
    assert len(columns(opened)) == 9
    opened.select_option("#budget", "full")
    assert columns(opened) == [
        f"{b}, full (345) labelled images" for b in ("nlmtb", "nlmtb → montgomery", "rsna")
    ]
    opened.locator("#benchmarks summary").click()
    opened.get_by_role("checkbox", name="rsna", exact=True).uncheck()
    assert len(columns(opened)) == 2
    opened.locator("#none").click()
    assert columns(opened) == []
    expect(opened.locator("#status")).to_have_text("No record fits these filters.")
    opened.get_by_label("nlmtb [control view]").check()
    opened.select_option("#budget", "20")
    assert columns(opened) == ["nlmtb [control view], 20 labelled images"]
    opened.locator("#every").click()
    assert len(columns(opened)) == 3


def test_tier_verification_and_search_choose_encoders(opened, site):
    go(opened, site)
    opened.select_option("#tier", "resnet50")
    assert shown(opened) == ["swav-x"]
    expect(opened.locator("#status")).to_contain_text("1 of 10 encoders")
    opened.locator("#reset").click()
    assert len(shown(opened)) == 10
    opened.select_option("#verification", "rerun")
    assert shown(opened) == ["moco-a"]
    opened.select_option("#verification", "recomputed")
    assert set(shown(opened)) == {"moco-a", "moco-b"}
    opened.select_option("#verification", "all")
    opened.fill("#search", "MOCO  moco-b lite")
    assert shown(opened) == ["moco-b"]


def test_exposure_hides_cells_and_encoders_left_without_any(opened, site):
    go(opened, site)
    assert {"swav-x", "swav-y", "byol-z"} <= set(shown(opened))
    mark = opened.locator("#board abbr").first
    assert mark.get_attribute("title") in ("exposed: why exposed", "unknown: why unknown")
    opened.select_option("#exposure", "unexposed")
    assert "swav-x" not in shown(opened)
    opened.select_option("#exposure", "clean")
    assert "swav-y" not in shown(opened)
    assert "byol-z" in shown(opened)


def test_the_address_holds_the_view(opened, site, chromium):
    go(opened, site)
    opened.select_option("#budget", "100")
    opened.fill("#search", "moco")
    header(opened, "rsna @100").locator("button").click()
    seen, address = shown(opened), opened.url
    assert "budget=100" in address
    opened.goto("about:blank#")
    opened.goto(address)
    assert shown(opened) == seen
    assert opened.input_value("#search") == "moco"
    expect(header(opened, "rsna @100")).to_have_attribute("aria-sort", "descending")


def test_an_address_of_nonsense_opens_the_ordinary_view(opened, site):
    go(opened, site, "#protocol=nope&budget=-1&sort=%3Cb%3E&curve=none&tier=x&order=up")
    assert len(shown(opened)) == 10
    assert opened.input_value("#protocol") == "linear-v1"


def test_back_to_another_view_by_its_address(opened, site):
    go(opened, site)
    opened.evaluate("location.hash = '#tier=resnet50'")
    expect(opened.locator("#board tbody tr")).to_have_count(1)


# What is best.


def test_the_best_and_its_ties_are_those_of_the_grid(opened, site):
    go(opened, site, "#budget=100")
    best = opened.locator("#board td.best strong")
    assert best.count() == 3
    row = opened.locator("#answer tbody tr").last
    expect(row).to_contain_text("rsna")
    expect(row).to_contain_text("0.800")
    expect(row).to_contain_text("of 7 compared")
    nlmtb = opened.locator("#answer tbody tr").first
    expect(nlmtb).to_contain_text("of 7 compared")  # of the eight one is exposed


def test_a_best_that_the_filters_hide_is_still_named(opened, site):
    go(opened, site, "#budget=20&search=moco-c")
    row = opened.locator("#answer tbody tr").first
    expect(row).to_contain_text("moco-b (hidden by the filters)")
    expect(row).to_contain_text("of those shown: moco-c 0.640")


# Curves.


def curves(page: Page) -> dict[str, int]:
    """How many curves each panel has."""
    return {
        panel.locator("figcaption").inner_text(): panel.locator("g.series").count()
        for panel in page.locator("#curves figure").all()
    }


def test_curves_begin_with_the_references_and_the_best_by_rank(opened, site):
    go(opened, site)
    names = opened.locator("#legend a").all_inner_texts()
    assert names[:2] == ["random-init", "supervised-imagenet"]
    assert len(names) == 6
    assert set(curves(opened)) == {"nlmtb", "nlmtb → montgomery", "rsna"}


def test_curves_follow_the_filters(opened, site):
    go(opened, site)
    opened.fill("#search", "moco-a")
    assert curves(opened) == {"nlmtb": 1, "nlmtb → montgomery": 1, "rsna": 1}
    opened.locator("#benchmarks summary").click()
    opened.get_by_role("checkbox", name="rsna", exact=True).uncheck()
    assert curves(opened) == {"nlmtb": 1, "nlmtb → montgomery": 1}
    opened.select_option("#protocol", "finetune-v1")
    assert curves(opened) == {"nlmtb": 1}


def test_ticks_choose_curves_eight_at_most(opened, site):
    go(opened, site)
    boxes = opened.locator("#board tbody input")
    opened.get_by_label("Draw the curve of random-init").uncheck()
    assert "random-init" not in opened.locator("#legend a").all_inner_texts()
    for name in ("random-init", "swav-x", "swav-y"):
        opened.get_by_label(f"Draw the curve of {name}").check()
    assert opened.locator("#legend li").count() == 8
    assert opened.locator("#board tbody input:disabled").count() == boxes.count() - 8
    assert "curve=swav-x" in opened.url


def test_a_panel_says_its_numbers_and_tells_curves_apart_without_colour(opened, site):
    go(opened, site)
    panel = opened.get_by_role("img", name="rsna: macro AUROC by number of labelled images")
    expect(panel.locator("desc")).to_contain_text("moco-a: 0.640 with 20, 0.740 with 100, 0.790")
    samples = opened.locator("#legend svg")
    looks = {
        tuple(
            p.get_attribute(a) for p in s.locator("path").all() for a in ("stroke-dasharray", "d")
        )
        for s in samples.all()
    }
    assert len(looks) == samples.count() == 6


# Hostile texts, and pages of encoders.


def test_a_hostile_name_is_shown_as_text_on_every_page(opened, site):
    go(opened, site)
    link = opened.locator("#board tbody a", has_text=HOSTILE)
    expect(link).to_have_text(HOSTILE)
    expect(opened.locator("#notes ~ details")).to_contain_text(HOSTILE)
    link.click()
    expect(opened.locator("h1")).to_have_text(HOSTILE)
    assert opened.locator("script").count() == 1


def test_a_hostile_card_is_shown_as_text(opened, site):
    go(opened, site, name="encoders/x.html")
    expect(opened.locator(".card")).to_contain_text(HOSTILE)
    expect(opened.locator(".card")).to_contain_text("[j](javascript:alert(1))")
    assert opened.locator(".card a, .card img, .card script").count() == 0


def test_an_encoder_page_copies_its_commands(opened, site):
    go(opened, site, name="encoders/moco-a.html")
    button = opened.locator(".commands button").first
    assert (button.get_attribute("aria-label") or "").startswith("Copy: cxrzoo eval -e ")
    button.click()
    expect(button).to_have_text(re.compile("Copied|Marked"))


def test_the_records_can_be_downloaded(opened, site):
    go(opened, site, name="encoders/moco-a.html")
    with opened.expect_download() as download:
        opened.get_by_role("link", name="Download its").click()
    assert download.value.suggested_filename == "moco-a.zip"


def test_without_a_script_the_page_points_to_the_numbers(chromium, site):
    for page in _watched(chromium, site, java_script_enabled=False):
        go(page, site)
        expect(page.locator(".warning")).to_be_visible()
        expect(page.locator("#filters")).to_be_hidden()
        assert page.locator(".warning a").count() == 11


# Widths, colours, paper.


@pytest.mark.parametrize("name", ["index.html", "encoders/moco-a.html"])
@pytest.mark.parametrize("width", [320, 360, 1280])
def test_no_page_is_wider_than_its_window(chromium, site, name, width):
    for page in _watched(chromium, site, viewport={"width": width, "height": 700}):
        go(page, site, name=name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = page.locator(".scroll").all()
        assert boxes
        assert all(b.get_attribute("tabindex") == "0" for b in boxes)


def test_the_encoders_stay_in_view_when_the_table_is_scrolled(chromium, site):
    for page in _watched(chromium, site, viewport={"width": 360, "height": 700}):
        go(page, site)
        page.locator("#board").evaluate("t => t.parentElement.scrollLeft = 300")
        box = page.locator("#board tbody th").first.bounding_box()
        assert box is not None
        assert 0 <= box["x"] < 20


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility()) continue;
    const colour = e.closest("svg") ? getComputedStyle(e).fill : getComputedStyle(e).color;
    const [a, b] = [light(parse(colour)), light(behind(e))].sort((x, y) => y - x);
    const name = `${e.tagName}.${e.className.baseVal ?? e.className}`;
    found[name] = Math.min(found[name] ?? 99, (a + 0.05) / (b + 0.05));
  }
  return found;
}"""


@pytest.mark.parametrize("name", ["index.html", "encoders/moco-b.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(chromium, site, scheme, name):
    for page in _watched(chromium, site, color_scheme=scheme):
        go(page, site, name=name)
        found = page.evaluate(CONTRAST)
        assert len(found) > 12
        assert {k: round(v, 2) for k, v in found.items() if v < 4.5} == {}


def test_colours_follow_the_scheme_and_curves_stand_out(chromium, site):
    backs = set()
    for scheme in ("light", "dark"):
        for page in _watched(chromium, site, color_scheme=scheme):
            go(page, site)
            backs.add(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert len(backs) == 2


def test_paper_has_the_whole_table_and_no_controls(chromium, site):
    for page in _watched(chromium, site, viewport={"width": 1100, "height": 700}):
        go(page, site, "#budget=100")
        page.emulate_media(media="print")
        expect(page.locator("#protocol")).to_be_hidden()
        expect(page.locator("#reset")).to_be_hidden()
        expect(page.locator("#board tbody tr").last).to_be_visible()
        expect(header(page, "name")).to_be_visible()
        assert page.locator(".tall").evaluate("e => getComputedStyle(e).overflow") == "visible"
        assert page.pdf()[:5] == b"%PDF-"
