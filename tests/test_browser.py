"""The book and two notebooks in a real browser: `make browser`. Pictures of every page are kept in build/screenshots.

Skipped where playwright or a Chromium is missing; the book has to be built before. `make test` leaves them out.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import nbformat
import pytest

from scta_lab import Spec, load_runs
from scta_lab.base.files import ROOT
from scta_lab.judge.cost import parameters

sys.path.insert(0, str(ROOT / "docs"))
import book
from tables import BENCH

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browser")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: make browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HTML, SHOTS = book.BUILT / "html", ROOT / "build" / "screenshots"
WITH_CONTROLS = [path for path in [*book.LESSONS, *book.LAB] if "interactive(" in path.read_text()][:2]
PAGES = ["index", *(page for pages in book.GROUPS.values() for page in pages)]
WITH_FORMULAS = f"notebooks/lab/{book.LAB[0].stem}"
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SEMANTIC = Spec(method="semantic", vocab=1_000_000)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor google-chrome is installed"),
    pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="the book is not built: make book"),
]


@pytest.fixture(scope="module")
def browser():
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as start:
        browser = start.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page without a network, that collects what goes wrong on it."""
    with browser.new_context(viewport=DESK, offline=True) as context:
        page = context.new_page()
        page.wrong = []
        page.on("console", lambda said: said.type == "error" and page.wrong.append(said.text))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("requestfailed", lambda request: page.wrong.append(f"{request.url}: {request.failure}"))
        page.on("request", lambda asked: asked.url.startswith("http") and page.wrong.append(asked.url))
        yield page


def serious(page):
    """What axe finds on the page that would shut somebody out: rule and elements."""
    found = axe.Axe().run(page, options={"preload": False, "resultTypes": ["violations"]}).response["violations"]
    worst = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in worst]


def visit(page, name):
    page.goto((HTML / f"{name}.html").as_uri())
    page.evaluate("() => window.MathJax?.startup?.promise")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_without_a_network_and_can_be_read_by_everybody(page, name):
    visit(page, name)
    for picture in page.locator(".bd-article img").all():
        picture.scroll_into_view_if_needed()
    pictures = page.eval_on_selector_all("img", "all => all.map(i => [i.src.slice(-60), i.alt, i.naturalWidth])")
    assert [p for p in pictures if not p[1] or not p[2]] == []
    assert page.locator("mjx-merror, .MathJax_Error").count() == 0
    assert serious(page) == []
    assert (HTML / f"{name}.html").stat().st_size < 2_000_000
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.evaluate("() => scrollTo(0, 0)")
    page.screenshot(path=SHOTS / f"{name.replace('/', '-')}-1280.png")
    page.set_viewport_size(PHONE)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    page.wait_for_timeout(700)  # until the columns beside the text have slid away
    page.screenshot(path=SHOTS / f"{name.replace('/', '-')}-390.png")
    assert page.wrong == []


@pytest.mark.parametrize("name", PAGES)
def test_links_inside_work(page, name):
    visit(page, name)
    here = (HTML / f"{name}.html").as_uri()
    for address in set(page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)")):
        parts = urlsplit(address)
        if parts.scheme == "file":
            target = Path(unquote(parts.path))
            assert target.is_file(), address
            if parts.fragment and target.suffix == ".html":
                assert f'id="{unquote(parts.fragment)}"' in target.read_text(), (here, address)


@pytest.mark.parametrize(("button", "order"), [("right-next", PAGES), ("left-prev", PAGES[::-1])])
def test_previous_and_next_go_round_all_pages(page, button, order):
    visit(page, order[0])
    for name in order[1:]:
        page.locator(f"a.{button}").click()
        page.wait_for_url(f"**/{name}.html")
    assert page.locator(f"a.{button}").count() == 0


def test_the_search_works_without_a_network_and_finds_sections(page):
    page.goto((HTML / "search.html").as_uri() + "?q=step+times")
    page.wait_for_selector("ul.search li a:has-text('Step times')")
    assert "The long tables > Step times" in page.locator("ul.search").inner_text()
    assert page.wrong == []


@pytest.mark.parametrize("name", ["index", "docs/claims", WITH_FORMULAS])
def test_the_book_is_dark_for_those_who_want_it(browser, name):
    with browser.new_context(viewport=DESK, offline=True, color_scheme="dark") as context:
        page = context.new_page()
        visit(page, name)
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", colour)[:3])) < 80
        assert serious(page) == []
        page.screenshot(path=SHOTS / f"{name.replace('/', '-')}-dark.png")


def test_formulas_and_code_that_fits_are_no_tab_stops(page):
    visit(page, WITH_FORMULAS)
    page.wait_for_selector("mjx-container")
    assert page.locator("mjx-container[tabindex='0']").count() == 0
    fits = "all => all.filter(e => e.tabIndex == 0 && e.scrollWidth <= e.clientWidth).length"
    assert page.eval_on_selector_all(".bd-article pre", fits) == 0


# --- the first page


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def test_the_step_moves_with_the_keys_and_is_said_in_words(page):
    visit(page, "index")
    said, slider = page.locator("#step-said"), page.locator("#vocabulary")
    assert "With 1,000,000 tokens" in said.inner_text()
    page.locator("#methods button").nth(2).focus()
    press(page, "Enter")
    assert "reads 33,725 rows, writes 33,725" in said.inner_text()
    assert page.locator("#methods [aria-pressed=true]").inner_text() == "SEMANTIC, row-sparse"
    slider.focus()
    press(page, "Home")
    assert slider.get_attribute("aria-valuetext") == "50,000 tokens"
    rows = load_runs(BENCH).query("method == 'semantic' and optimizer == 'rows' and corpus != 'zipf'")
    ms = rows.groupby("vocab").step_ms.median()
    assert f"takes {ms[50_000]:.0f} ms" in said.inner_text()
    press(page, "ArrowRight")
    (between,) = re.findall(r"takes about (\d+) ms", said.inner_text())
    assert int(ms[50_000]) <= int(between) <= ms[200_000]
    assert page.wrong == []


def test_a_guess_gets_its_answer_and_a_word_its_neighbours(page):
    visit(page, "index")
    assert page.locator("#answer").inner_text() == ""
    page.locator("#guess button").first.focus()
    press(page, "Enter")
    assert "cannot say" in page.locator("#answer").inner_text()
    nearest = page.locator("#nearest")
    before = nearest.inner_text()
    page.locator("#word").fill("return")
    assert nearest.inner_text() != before
    assert nearest.locator("li").count() == 15
    page.locator("#word").fill("no such word")
    assert "is not among" in nearest.inner_text()
    assert page.wrong == []


def test_a_formula_moves_with_the_keys_and_is_said_in_words(page):
    visit(page, "docs/sliders")
    level, step, memory = page.locator(".front").all()
    assert "guessing has 3.50 nats, being always right 0.00" in level.inner_text()
    assert f"{7e-9 * sum(parameters(SEMANTIC)[part] for part in ('input', 'head')):.2f}" in step.inner_text()
    assert "3.84 TB: 3.84 GB on each of 1,000 machines" in memory.inner_text()
    for slider in page.locator("input[type=range]").all():
        before = page.locator("article").inner_text()
        slider.focus()
        press(page, "ArrowLeft")
        assert page.locator("article").inner_text() != before
    assert page.wrong == []


def test_whoever_wants_no_motion_gets_none(browser):
    count = """() => {
        const draw = CanvasRenderingContext2D.prototype.fillRect;
        window.drawn = 0;
        CanvasRenderingContext2D.prototype.fillRect = function (...box) { window.drawn++; draw.apply(this, box); };
    }"""
    with browser.new_context(viewport=DESK, offline=True, reduced_motion="reduce") as context:
        page = context.new_page()
        visit(page, "index")
        page.evaluate(count)
        page.locator("#methods button").first.click()
        page.wait_for_timeout(300)
        assert page.evaluate("() => window.drawn") == 4_000  # each square of the four once


# --- JupyterLab


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on copies of notebooks, at the size of the tests."""
    folder = tmp_path_factory.mktemp("lab")
    for path in WITH_CONTROLS:
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            small = cell.metadata.get("nbmake", {}).get("mock", {})
            cell.source += "".join(f"\n{name} = {value!r}" for name, value in small.items())
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / path.name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port, token = free.getsockname()[1], "t"
    settings = {"IdentityProvider.token": token, "ServerApp.root_dir": folder, "ServerApp.port_retries": 0}
    flags = ["--no-browser", "--expose-app-in-browser", "--allow-root", f"--port={port}"]
    flags += [f"--{name}={value}" for name, value in settings.items()]
    own = {f"{name}_DIR": str(folder / name) for name in ("JUPYTER_CONFIG", "JUPYTER_RUNTIME", "JUPYTERLAB_SETTINGS")}
    tracker = folder / "JUPYTERLAB_SETTINGS" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')  # every cell is on the page, also those out of sight
    log = (folder / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *flags], env=os.environ | own, stdout=log, stderr=log
    )
    try:
        for _ in range(120):
            try:
                urlopen(f"http://127.0.0.1:{port}/api").close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/doc/tree/{{}}?token={token}&reset"
    finally:
        server.terminate()
        server.wait()
        log.close()


def move(page, box):
    """Moves every control of a widget with a key; the number of its controls. Its picture has to change each time."""
    picture = box.locator("img")
    controls = [(handle, "ArrowLeft") for handle in box.locator(".noUi-handle").all()]
    groups = box.locator(".widget-toggle-buttons").all()
    controls += [(group.locator("button:not(.mod-active)").first, "Space") for group in groups]
    controls += [(check, "Space") for check in box.locator("input[type=checkbox]").all()]
    for control, key in controls:
        before = picture.get_attribute("src")
        control.focus()
        page.keyboard.press(key)
        page.wait_for_function("([image, before]) => image.src !== before", arg=[picture.element_handle(), before])
        assert page.evaluate("() => document.activeElement.closest('.jupyter-widgets') !== null")
    return len(controls)


@pytest.mark.parametrize("name", [path.stem for path in WITH_CONTROLS])
def test_in_jupyterlab_a_notebook_runs_to_its_end_and_its_controls_work_with_the_keys(browser, lab, name):
    with browser.new_context(viewport={"width": 1280, "height": 1600}) as context:
        page = context.new_page()
        page.set_default_timeout(300_000)  # a slow machine is no fault
        page.goto(lab.format(f"{name}.ipynb"))
        page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel")
        page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.ready")
        # the command ends when the last cell has
        assert page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
        cells = json.loads(page.evaluate("() => JSON.stringify(jupyterapp.shell.currentWidget.model.toJSON().cells)"))
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in code)
        assert [o for cell in code for o in cell["outputs"] if o["output_type"] == "error"] == []
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"lab-{name}.png")
        widgets = page.locator(".widget-vbox:has(img)").all()
        assert len(widgets) == sum("interactive(" in "".join(cell["source"]) for cell in code) > 0
        assert all(move(page, widget) for widget in widgets)
