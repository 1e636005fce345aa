"""The report in a real browser: what is drawn, sorted and saved, by keyboard, on a phone and without scripts."""

import base64
import csv
import io
import shutil
import urllib.parse

import numpy as np
import pytest

from promptbias.analysis import report
from promptbias.analysis.__main__ import main
from promptbias.analysis.accuracies import HEADING
from promptbias.analysis.commands import FIGURES
from promptbias.analysis.comparison import Comparison
from promptbias.analysis.exploration import explore
from promptbias.analysis.mistakes import Mistakes
from promptbias.analysis.sections import Section
from promptbias.interp.cache import capture

pytestmark = pytest.mark.slow
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --force-device-scale-factor=1"
)


@pytest.fixture(scope="module")
def exploration(runs):
    return explore(Comparison(runs["deep"]), 6)


@pytest.fixture(scope="module")
def page(exploration, tmp_path_factory):
    """The address of a page with links to all figures, of which one was made."""
    numbers = [["what", "value"], ["b", "10 ± 2"], ["a", "9"], ['"c", d', "-1"]]
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" width="600" height="80"/>'
    sections = [Section(name, "left", left_out="/a/path" + 60 * "_long") for name in FIGURES if name != "distance"]
    sections.append(Section("distance", "far", "Look.", [numbers], {"distance": drawing}))
    accuracy = Section("accuracy", "accuracy", tables=[[HEADING, ["a model with a long name", *"1234"]]])
    about = {"title": "t", "tuned run": "a/" * 60}
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(report.render(about, sections, Mistakes(total=3), exploration, accuracy))
    return path.as_uri()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """start(javascript): a browser, 360 pixels wide."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    started = []

    def new(javascript=True):
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
            options.add_argument(flag)
        if not javascript:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        started.append(webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)))
        size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        started[-1].execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        return started[-1]

    yield new
    for browser in started:
        browser.quit()


@pytest.fixture(scope="module")
def scripted(start):
    return start()


@pytest.fixture
def browser(scripted, page):
    scripted.get(page)
    return scripted


def css(browser, selector):
    return browser.find_element("css selector", selector)


def drawn(browser, model):
    wait = "return document.querySelector('#picture').complete"
    assert browser.execute_script(wait)
    return np.array(css(browser, f"#map-{model}").get_attribute("data-values").split(), float)


def choose(browser, selector, value):
    change = "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
    events = "for (const name of ['input', 'change']) e.dispatchEvent(new Event(name, {bubbles: true}));"
    browser.execute_script(change + events, selector, value)


def attention(exploration, image, model, block, head):
    found = exploration.images[image]
    maps = np.frombuffer(base64.b64decode(found[model]["attention"]), np.uint8)
    maps = maps.reshape(exploration.blocks, exploration.heads, -1)[block, head] / 255
    return maps * np.reshape(found["attention_scale"], (exploration.blocks, exploration.heads))[block, head]


def test_image_block_and_head_choose_what_is_drawn(browser, exploration):
    choose(browser, "#sort", "index")
    pixels = "return document.querySelector('#map-difference').toDataURL()"
    seen = set()
    for image, block, head in [(0, 1, 1), (1, 1, 1), (1, 2, 1), (1, 2, 2)]:
        css(browser, f"#strip button[data-image='{image}']").click()
        css(browser, "input[value=attention]").click()
        choose(browser, "#block", block)
        choose(browser, "#head", head)
        expected = [attention(exploration, image, model, block - 1, head - 1) for model in ("plain", "tuned")]
        browser.execute_async_script(
            "const done = arguments[0]; document.querySelector('#picture').decode().then(done)"
        )
        for model, values in zip(("plain", "tuned", "difference"), [*expected, expected[1] - expected[0]]):
            assert np.allclose(drawn(browser, model), values, rtol=1e-3, atol=1e-6)
        seen.add(browser.execute_script(pixels))
    assert len(seen) == 4


def test_what_is_drawn_are_the_numbers_of_the_figures_files(browser, exploration, runs, tmp_path):
    """`overlay` writes relevancy, and attention of [cls] in the last block; both over the average patch."""
    index = exploration.images[1]["index"]
    main(["overlay", "--model-dir", str(runs["deep"]), "--images", str(index), "--output", str(tmp_path)])
    written = np.load(tmp_path / "overlay.npz")
    choose(browser, "#sort", "index")
    css(browser, "#strip button[data-image='1']").click()
    for kind in ("relevancy", "attention"):
        css(browser, f"input[value={kind}]").click()
        choose(browser, "#block", exploration.blocks)
        choose(browser, "#head", 0)
        assert css(browser, "#about").text.startswith(f"Test image {index}: ")
        for model in ("plain", "tuned"):
            shown, expected = drawn(browser, model), written[f"image {index}: {kind}, {model}"].ravel()
            largest = max(written[f"image {index}: {kind}, {each}"].max() for each in ("plain", "tuned"))
            # A byte is 1/255 of the largest value of each head.
            assert np.allclose(shown / (1 if kind == "relevancy" else shown.mean()), expected, atol=largest / 100)
            assert np.ptp(expected) > largest / 10


def test_a_head_of_a_block_is_drawn_as_the_model_attends(browser, exploration, runs):
    comparison = Comparison(runs["deep"])
    image, _ = comparison.image(exploration.images[0]["index"])
    with capture(comparison.tuned.vision, "blocks.1.attn.pattern") as cache:
        comparison.tuned.image_features(image)
    expected = cache["blocks.1.attn.pattern"][0, 1, 0, 1 : 1 + comparison.plain.vision.patches]
    choose(browser, "#sort", "index")
    css(browser, "#strip button[data-image='0']").click()
    css(browser, "input[value=attention]").click()
    choose(browser, "#block", 2)
    choose(browser, "#head", 2)
    assert np.allclose(drawn(browser, "tuned"), expected, atol=float(expected.max()) / 100)


def test_a_word_tells_its_relevancy_when_it_has_the_focus(browser):
    token = css(browser, "#tokens-tuned .token:last-child")
    browser.execute_script("arguments[0].focus()", token)
    assert css(browser, "#token").text == f"“{token.text}”, tuned: " + token.get_attribute("aria-label").split(": ")[1]


def test_arrow_keys_move_through_the_images(browser):
    buttons = browser.find_elements("css selector", "#strip button")
    buttons[0].send_keys("\ue014")  # right
    assert browser.switch_to.active_element == buttons[1] and buttons[1].get_attribute("aria-pressed") == "true"
    buttons[1].send_keys("\ue012\ue012")  # left, to the last one
    assert [button.get_attribute("tabindex") for button in buttons] == ["-1"] * 5 + ["0"]


def test_images_are_sorted_and_filtered_by_what_tuning_changed(browser, exploration):
    order = ["corrected", "broken", "wrong in both", "right in both"]
    shown = [e.get_attribute("data-change") for e in browser.find_elements("css selector", "#strip button")]
    assert shown == sorted((image["change"] for image in exploration.images), key=order.index)
    choose(browser, "#filter", shown[0])
    assert len(browser.find_elements("css selector", "#strip button")) == shown.count(shown[0])


def test_a_table_is_sorted_and_saved(browser):
    table = "table[data-name='distance-1']"
    button = css(browser, f"{table} th:nth-child(2) button")
    for expected in (["-1", "9", "10 ± 2"], ["10 ± 2", "9", "-1"]):
        browser.execute_script("arguments[0].click()", button)
        cells = browser.find_elements("css selector", f"{table} td:nth-child(2)")
        assert [cell.get_attribute("textContent") for cell in cells] == expected
    stay = f'const a = document.querySelector("{table}").parentElement.nextElementSibling;'
    stay += "a.addEventListener('click', (e) => e.preventDefault()); a.click(); return [a.href, a.download]"
    address, name = browser.execute_script(stay)
    text = urllib.parse.unquote(address.partition(",")[2])
    assert name == "distance-1.csv"
    assert list(csv.reader(io.StringIO(text))) == [["what", "value"], ["b", "10 ± 2"], ["a", "9"], ['"c", d', "-1"]]


def test_tables_can_be_sorted_on_a_page_without_images_to_explore(scripted, tmp_path):
    path = tmp_path / "index.html"
    accuracy = Section("accuracy", "accuracy", tables=[[HEADING, ["a", *"2345"], ["b", *"1345"]]])
    path.write_text(report.render({"title": "t"}, [], Mistakes(total=3), accuracy=accuracy))
    scripted.get(path.as_uri())
    css(scripted, "th:nth-child(2) button").click()
    assert [row.text[0] for row in scripted.find_elements("css selector", "tbody tr")] == ["b", "a"]
    links = [a.get_attribute("href").partition("#")[2] for a in scripted.find_elements("css selector", "nav a")]
    assert all(scripted.find_elements("id", link) for link in links)


def test_the_page_fits_a_phone_and_asks_for_nothing(browser):
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    asked = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(address.startswith("data:") for address in asked)


def test_without_scripts_figures_and_tables_are_there(start, page):
    browser = start(javascript=False)
    browser.get(page)
    assert not css(browser, "#explore").is_displayed() and css(browser, "noscript p").is_displayed()
    assert (
        css(browser, "img[alt=distance]").is_displayed()
        and css(browser, "table[data-name='distance-1']").is_displayed()
    )
