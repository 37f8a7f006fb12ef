"""Pages as their readers use them: in Chromium, with the mouse and with the keyboard alone."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.browser import start_browser
from tests.command import run
from tests.tiny_folder import write_tiny_folder
from tests.tiny_gguf import write_tiny_llama

pytestmark = pytest.mark.slow

#: Names that would do something if a page took them for markup.
HOSTILE = [
    "<script>document.title='taken'</script>",
    "</script><img src=x onerror=document.title='taken'>",
    "<!-- model.layers.0.<b>bold</b>.weight",
    "]]><svg onload=document.title='taken'>.layers.1.'\"&amp;",
    "javascript:document.title='taken'",
    "\u202eback.layers.2.wards\x1b[2J",
]


@pytest.fixture(scope="module")
def browser():
    started = start_browser()
    yield started
    started.driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    write_tiny_llama(root / "tiny.gguf")
    page_of(root / "tiny.gguf", root / "tiny.html")
    for count in (1_000, 30_000):
        page_of(experts(root / f"{count}.safetensors", count), root / f"{count}.html")
    save_file(
        {name: np.ones((2, 3), np.float32) for name in HOSTILE}, root / "hostile.safetensors", {"key": HOSTILE[1]}
    )
    page_of(root / "hostile.safetensors", root / "hostile.html")
    write_tiny_folder(root / "tiny")
    run("convert", root / "tiny", root / "out.gguf", "--to", "Q4_K_M", "--html", root / "receipt.html")
    run("inspect", root / "tiny", "--values", "--html", root / "values.html")
    run("diff", root / "tiny", root / "out.gguf", "--values", "--html", root / "diff.html")
    return root


def page_of(model, page):
    result = run("inspect", model, "--html", page)
    assert result.exit_code == 0, result.output
    return page


def experts(path, count):
    """As many small tensors as a model with experts in 50 layers has; the last of them is the largest."""
    names = [f"model.layers.{n % 50}.mlp.experts.{n // 50}.up_proj.weight" for n in range(count - 1)]
    tensors = {name: np.zeros((1, 1 + n % 7), np.float16) for n, name in enumerate(names)}
    save_file(tensors | {"lm_head.weight": np.zeros((50, 40), np.float32)}, path)
    return path


def settled(browser):
    """No complaint of the browser, and nothing asked for but the page itself."""
    console, asked = browser.logs()
    assert console == []
    assert all(address.startswith("file://") and address.endswith(".html") for address in asked), asked


def test_the_table_is_sorted_by_its_heads(browser, pages):
    browser.open(pages / "tiny.html")
    in_file = browser.rows()
    head = "#tensor-table th[data-key=bytes]"
    browser.click(f"{head} button")
    values = [int(text.replace(",", "")) for text in browser.cells(5)]
    assert browser.find(head).get_attribute("aria-sort") == "descending"
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 2
    browser.click(f"{head} button")
    assert browser.find(head).get_attribute("aria-sort") == "ascending"
    browser.click("#tensor-table th[data-key=name] button")
    assert browser.rows()[0] == "blk.0.attn_k.weight"
    assert set(browser.rows()) == set(in_file)
    forwards = browser.rows()
    browser.click("#tensor-table th[data-key=name] button")
    assert browser.rows() == forwards[::-1]
    assert browser.find(head).get_attribute("aria-sort") == "none"
    settled(browser)


def test_a_search_narrows_the_table(browser, pages):
    browser.open(pages / "tiny.html")
    everything = browser.rows()
    browser.click("#query")
    browser.press("attn_q BLK.1")
    assert browser.rows() == [name for name in everything if "attn_q" in name and "blk.1" in name]
    assert browser.text("#found") == f"1 of {len(everything)}"
    browser.click("#type-choice")
    browser.press("F32", "ENTER")
    kinds = browser.cells(2)
    assert set(kinds) == {"F32"}
    settled(browser)


def test_a_place_in_the_charts_shows_its_tensors(browser, pages):
    browser.open(pages / "tiny.html")
    browser.click("[aria-label^='layer 1, attn_q:']")
    assert browser.rows() == ["blk.1.attn_q.weight"]
    assert browser.text("#place") == "layer 1, attn_q ✕"
    browser.click("#place")
    assert len(browser.rows()) > 10
    browser.click("[aria-label^='token_embd:']")
    assert browser.rows() == ["token_embd.weight"]
    settled(browser)


def test_errors_of_a_receipt_colour_the_layers_and_are_plotted(browser, pages):
    browser.open(pages / "receipt.html")
    assert browser.text("#layers-title") == "Bits per weight by layer and role"
    browser.click("#measure-choice")
    browser.press("relative", "ENTER")
    assert browser.text("#layers-title") == "Relative error by layer and role"
    copied = "layer 0, attn_norm: ="
    assert browser.find(f"[aria-label^='{copied}']").text == "="
    browser.click("#tensor-table th[data-key=error] button")
    worst, name = browser.cells(6)[0], browser.rows()[0]
    layer, role = name.removesuffix(".weight").removeprefix("blk.").split(".")
    assert browser.all(f"[aria-label^='layer {layer}, {role}: {worst} relative error']")
    assert browser.cells(6)[-1] == ""
    browser.click("#errors-plot .u-over")
    assert browser.text("#detail-title") in browser.rows()
    browser.press("ESCAPE")
    browser.click("[aria-label^='layer 1, attn_q:']")
    browser.click("#tensor-table tbody button")
    assert "rope(model.layers.1.self_attn.q_proj.weight)" in browser.text("#detail-facts")
    settled(browser)


def test_a_diff_begins_with_the_worst(browser, pages):
    browser.open(pages / "diff.html")
    assert browser.text("#layers-title") == "Relative error by layer and role"
    assert browser.find("#tensor-table th[data-key=error]").get_attribute("aria-sort") == "descending"
    errors = [float(error) for error in browser.cells(6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0 == errors[-1]
    settled(browser)


def test_a_histogram_opens_with_its_tensor(browser, pages):
    browser.open(pages / "values.html", dark=True)
    browser.click("#tensor-table th[data-key=std] button")
    assert len(browser.rows()) == 20
    assert [float(std) for std in browser.cells(4)] == sorted(map(float, browser.cells(4)), reverse=True)
    browser.click("#tensor-table tbody tr:nth-child(3) button")
    inked = """
        const canvas = document.querySelector('#detail-plot canvas');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        let blue = 0;
        for (let i = 0; i < pixels.length; i += 4) blue += pixels[i] === 47 && pixels[i + 1] === 117;
        return blue / (canvas.width * canvas.height)"""
    assert browser.run(inked) > 0.05
    before = browser.run("return document.querySelector('#detail-plot canvas').toDataURL()")
    browser.click("#detail-next")
    assert browser.run("return document.querySelectorAll('#detail-plot canvas').length") == 1
    assert browser.run("return document.querySelector('#detail-plot canvas').toDataURL()") != before
    browser.click("#detail-plot .u-over")
    assert "how many" in browser.text("#detail-plot .u-legend")
    browser.press("ESCAPE")
    browser.click("#measure-choice")
    browser.press("kurtosis", "ENTER")
    assert browser.text("#layers-title") == "Kurtosis by layer and role"
    settled(browser)


def test_a_tensor_opens_and_closes(browser, pages):
    browser.open(pages / "tiny.html")
    names = browser.rows()
    browser.click("#tensor-table tbody tr:nth-child(2) button")
    assert browser.text("#detail-title") == names[1]
    browser.click("#detail-next")
    assert browser.text("#detail-title") == names[2]
    browser.press("ARROW_LEFT", "ARROW_LEFT", "ARROW_LEFT")
    assert browser.text("#detail-title") == names[0]
    browser.press("ESCAPE")
    assert browser.all("dialog") == []
    assert browser.run("return document.activeElement.textContent") == names[1]
    settled(browser)


def test_the_keyboard_suffices(browser, pages):
    def focused():
        it = "const it = document.activeElement;"
        return browser.run(f"{it} return it.id || it.getAttribute('aria-label') || it.textContent")

    browser.open(pages / "tiny.html")
    browser.press("TAB")
    assert focused() == "Skip to the tensors"
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.run(outline) == "solid"
    browser.press("TAB")
    assert focused() == "theme"
    browser.press("TAB")
    first = focused()
    browser.press("ARROW_DOWN", "END")
    assert focused() != first
    browser.press("TAB", "ENTER")  # the largest role of the treemap
    assert 0 < len(browser.rows()) < 10
    assert browser.run("return document.getElementById('place').hidden") is False
    browser.open(pages / "tiny.html")
    everything = len(browser.rows())
    browser.press("TAB", "ENTER", "TAB")
    assert focused() == "query"
    browser.press("norm", "TAB", "TAB")
    assert 0 < len(browser.rows()) < everything
    assert focused() == "tensor"
    browser.press("ENTER")
    assert browser.rows()[0] == "blk.0.attn_norm.weight"
    browser.press("TAB", "TAB", "TAB", "TAB", "TAB", "TAB", "ENTER")
    assert browser.text("#detail-title") == browser.rows()[0]
    browser.press("ARROW_RIGHT")
    assert browser.text("#detail-title") == browser.rows()[1]
    settled(browser)


def test_cells_are_walked_and_told(browser, pages):
    browser.open(pages / "tiny.html")
    browser.press("TAB", "TAB", "TAB")
    label = "return document.activeElement.getAttribute('aria-label')"
    seen = set()
    for key in ("ARROW_DOWN", "ARROW_DOWN", "ARROW_DOWN", "ARROW_RIGHT", "ARROW_RIGHT"):
        browser.press(key)
        seen.add(browser.run(label))
    told = browser.text("#layers-status")
    assert len(seen) > 3
    assert told.startswith("layer 1, ")
    browser.press("ENTER")
    assert len(browser.rows()) == 1
    assert browser.run("return document.querySelectorAll('.heat [tabindex=\"0\"]').length") == 1
    settled(browser)


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark(browser, pages, dark):
    browser.open(pages / "tiny.html", dark=dark)
    brightness = (
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    )
    assert (browser.run(brightness) < 384) is dark
    browser.click("#theme")
    assert (browser.run(brightness) < 384) is not dark
    settled(browser)


@pytest.mark.parametrize("width", [360, 1920])
@pytest.mark.parametrize("name", ["tiny", "1000", "hostile", "receipt", "diff", "values"])
def test_narrow_and_wide(browser, pages, name, width):
    browser.open(pages / f"{name}.html", width=width)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    settled(browser)


def test_a_printer_gets_white_paper_and_every_row(browser, pages):
    browser.open(pages / "1000.html", dark=True)
    assert len(browser.rows()) == 100
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert len(browser.rows()) == 1000
    assert browser.run("return getComputedStyle(document.documentElement).colorScheme") == "light"
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert len(browser.rows()) == 100
    assert browser.run("return document.documentElement.dataset.theme") is None
    paper = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(paper["data"]) > 10_000
    settled(browser)


def test_a_page_of_30_000_tensors_holds_few_rows_at_a_time(browser, pages):
    browser.open(pages / "30000.html")
    assert (pages / "30000.html").stat().st_size < 1_500_000
    assert len(browser.rows()) == 100
    browser.click("#last")
    assert browser.text("#position") == "page 300 of 300"
    browser.click("#tensor-table th[data-key=parameters] button")
    assert browser.rows()[0] == "lm_head.weight"
    browser.click("#query")
    browser.press("layers.49. experts.599.")
    assert browser.text("#found") == "0 of 30,000"
    browser.press("BACKSPACE", "BACKSPACE", "8.")
    assert browser.rows() == ["model.layers.49.mlp.experts.598.up_proj.weight"]
    browser.find("#query").clear()
    browser.click("[aria-label^='layer 7,']")
    assert browser.text("#found") == "600 of 30,000"
    settled(browser)


def test_names_that_say_nothing_fill_no_charts(browser, pages):
    names = [f"part.{n}.thing{n}.weight" for n in range(3_000)]
    save_file({name: np.ones((1, 2), np.float32) for name in names}, pages / "names.safetensors")
    browser.open(page_of(pages / "names.safetensors", pages / "names.html"))
    assert browser.run("return document.querySelectorAll('.heat .place').length") == 60
    assert "2,940 more roles and 2,940 more layers are only in the table" in browser.text("#layers-status")
    assert browser.run("return document.querySelectorAll('#sizes-map rect').length") == 2 * 41
    browser.click("[aria-label^='2960 smaller roles:']")
    assert browser.text("#found") == "2,960 of 3,000"
    settled(browser)


def test_an_old_browser_says_so(browser, pages):
    """One that cannot unpack the tensors."""
    script = {"source": "delete window.DecompressionStream"}
    added = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    browser.driver.get((pages / "tiny.html").as_uri())
    browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    said = browser.text("#tensors")
    assert "need a newer browser (DecompressionStream is not defined)" in said
    assert browser.text("h1") == "tiny.gguf"


def test_names_of_a_model_are_text(browser, pages):
    browser.open(pages / "hostile.html")
    shown = [name.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b") for name in sorted(HOSTILE)]
    assert sorted(browser.rows()) == sorted(shown)
    for n in range(1, len(HOSTILE) + 1):
        browser.click(f"#tensor-table tbody tr:nth-child({n}) button")
        assert browser.text("#detail-title") in shown
        browser.press("ESCAPE")
    for cell in browser.all(".heat .place"):
        browser.run("arguments[0].dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))", cell)
    assert browser.run("return document.querySelectorAll('img, b, main script').length") == 0
    assert browser.driver.title == "hostile.safetensors (model)"
    assert HOSTILE[1] in browser.text(".list")
    settled(browser)


def test_the_page_may_connect_to_nothing(browser, pages):
    """Its policy forbids it, whoever would ask: not only do its own scripts not."""
    browser.open(pages / "tiny.html")
    script = "const end = arguments[0]; fetch('http://127.0.0.1:9/').then(() => end('asked'), () => end('refused'))"
    assert browser.driver.execute_async_script(script) == "refused"
    browser.run("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 1'}))"
    )
    assert browser.driver.title == "tiny.gguf (model)"
    console, _ = browser.logs()
    assert sum("Content Security Policy" in line for line in console) >= 3, console
