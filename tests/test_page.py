"""The page in a real browser: nothing leaves it, no error, pictures load, a click sorts, a click hides; on a phone too."""

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otherview.config import to_yaml
from otherview.judgement import NOT_YET
from otherview.recipes.registry import find
from otherview.report.glossary import WORDS, glossary_of, linked
from otherview.report.page import Bar, Bars, Chart, Picture, Section, Table, write_page
from otherview.report.run_page import write_run_page

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with everything, in which names try to break out."""
    lines = {
        f"row {HOSTILE}": [(0.0, 0.2), (10.0, 0.4), (20.0, 0.3)],
        "other": [(0.0, 0.1), (20.0, 0.9)],
        "one": [(5.0, 0.5)],
    }
    rows = [["b", "0.30 ± 0.02"], [HOSTILE, "0.9"], ["c", "12.5"], ["a", "-1"], ["d", ""]]
    sections = [
        Section(
            "Is it learning?", [Chart("kNN.", HOSTILE, "step", lines, levels={"raw pixels": 0.3, "chance level": 0.29})]
        ),
        Section(
            "How good?",
            [
                Table("Scores.", "text", ("name", "value (train images 2,000, test images 500)"), rows),
                Bars(
                    "kNN.",
                    "above raw pixels",
                    [Bar("this encoder", 0.6, 0.5, 0.7, True), Bar(f"raw pixels {HOSTILE}", 0.4, 0.4, 0.4)],
                ),
            ],
        ),
        Section("Nothing", []),
        Section("What it sees", [Picture(HOSTILE, "text", PNG)]),
    ]
    write_page(
        tmp_path / "p.html", title=f"a run {HOSTILE}", verdict=["learning"], facts=[("seed", "0")], command="otherview demo",
        sections=sections,
    )  # fmt: skip
    return tmp_path / "p.html"


@pytest.fixture
def browser() -> Iterator[Any]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("needs Debian's chromium and chromium-driver on PATH: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


def opened(browser: Any, path: Path, width: int) -> None:
    browser.set_window_size(width, 900)
    browser.get(path.as_uri())


def check_quiet(browser: Any, path: Path) -> None:
    """No console line, and no request but for the page itself and what lies inside it."""
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} <= {path.as_uri()}


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_in_a_browser(browser: Any, page: Path, width: int) -> None:
    opened(browser, page, width)
    assert browser.title.startswith("a run </script>")  # as text, not as a script
    assert browser.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert len(browser.find_elements("css selector", "section")) == 4  # and the words
    assert all(link.get_attribute("title") for link in browser.find_elements("css selector", "a.word"))
    # Nothing is wider than the screen but what scrolls by itself.
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    cells = "[...document.querySelectorAll('td')]"
    cut_off = f"{cells}.filter(cell => cell.scrollWidth > cell.clientWidth).map(cell => cell.textContent)"
    assert browser.execute_script(f"return {cut_off}") == []

    def column(number: int) -> list[str]:
        return [cell.text for cell in browser.find_elements("css selector", f"tbody td:nth-child({number})")]

    track = browser.find_element("css selector", ".bar.mine .track").rect
    for part, left, share in ((".fill", 0.0, 0.6), (".whisker", 0.5, 0.2)):
        found = browser.find_element("css selector", f".bar.mine {part}").rect
        assert found["x"] - track["x"] == pytest.approx(left * track["width"], abs=1.5)
        assert found["width"] == pytest.approx(share * track["width"], abs=1.5)
    assert len(browser.find_elements("css selector", ".whisker")) == 1  # what has no interval has no whisker

    upper, lower = (one.rect for one in browser.find_elements("css selector", ".plot .name")[::-1])
    assert upper["y"] + 0.8 * upper["height"] <= lower["y"]  # names of near levels do not lie on each other

    short = [cell.text for cell in browser.find_elements("css selector", "td.short")]
    assert "0.30 ± 0.02" in short and HOSTILE not in short  # numbers are not broken, long words are

    heads = browser.find_elements("css selector", "th button")
    heads[1].click()
    assert column(2) == ["12.5", "0.9", "0.30 ± 0.02", "-1", ""]
    heads[1].click()
    assert column(2) == ["", "-1", "0.30 ± 0.02", "0.9", "12.5"]
    heads[0].click()
    assert column(1)[1:] == ["a", "b", "c", "d"]

    assert len(browser.find_elements("css selector", ".plot path")) == 3
    browser.find_elements("css selector", ".legend button")[1].click()
    assert len(browser.find_elements("css selector", ".plot path")) == 2
    plot = browser.find_element("css selector", ".plot svg")
    chains = pytest.importorskip("selenium.webdriver.common.action_chains")
    chains.ActionChains(browser).move_to_element_with_offset(plot, plot.size["width"] // 2 - 12, 0).perform()
    assert re.match(r"step 20: .* 0\.3, one 0\.5$", browser.find_element("css selector", ".value").text)
    check_quiet(browser, page)


@pytest.mark.slow
def test_a_run_s_page_in_a_browser(browser: Any, otherview: Callable, tmp_path: Path) -> None:
    done = otherview(
        "pretrain", "--recipe", "siamese_im_demo", "--data", "shapes:200", "--out", "r", "--training.log-every", "2",
        "--knn-bank", "shapes:60:val", "--knn-test", "shapes:40:test", "--knn-every", "4", OTHERVIEW_SHORTEN="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path = tmp_path / "r/report.html"
    before = path.read_text()
    judged = otherview("evaluate", "knn", "--weights", "r", "--train", "shapes:60:val", "--test", "shapes:40:test")
    assert judged.returncode == 0 and path.read_text() != before  # an evaluation refreshes the page
    opened(browser, path, 1400)
    headings = [one.text for one in browser.find_elements("css selector", "h2")]
    assert headings == ["Is it learning?", "What it sees", "How good is it?", "What it cost", "Words"]
    assert len(browser.find_elements("css selector", "figure.picture img")) == 4
    assert len(browser.find_elements("css selector", "tbody tr")) == 5
    charts = [one.text for one in browser.find_elements("css selector", "figure.chart figcaption b")]
    assert charts[:4] == ["Online kNN.", "Effective rank.", "Loss.", "Spectrum of C."]
    check_quiet(browser, path)


def test_a_page_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    from otherview.config import to_yaml
    from otherview.recipes.registry import find

    (tmp_path / "config.yaml").write_text(
        "# otherview pretrain --config config.yaml --data 'a b/'\n" + to_yaml(find("mae_cpu").make())
    )
    text = write_run_page(tmp_path).read_text()
    assert "the run has just begun" in text and "--data &#39;a b/&#39;" in text
    (tmp_path / "metrics.jsonl").write_text('{"step": 20, "loss": null, "spectrum": [null, 0.1], "grad_norm": 2.0}\n')
    assert "so far:" in write_run_page(tmp_path).read_text()


def test_special_words_are_links_to_their_meaning_and_everything_is_escaped() -> None:
    text = 'kNN <b>above</b> raw pixels, kNN again & "raw pixels"; knn_encoder is a name'
    found = str(linked(text))
    assert found.count('<a class="word"') == 2 and 'href="#word-raw-pixels"' in found and 'href="#word-knn"' in found
    assert (
        "&lt;b&gt;above&lt;/b&gt;" in found
        and "kNN again &amp; &#34;raw pixels&#34;" in found
        and "knn_encoder" in found
    )
    assert [one.word for one in glossary_of([text])] == ["kNN", "raw pixels"]
    assert all(one.meaning.endswith(".") for one in WORDS) and len({one.anchor for one in WORDS}) == len(WORDS)


def test_bad_news_stands_first_on_a_run_s_page(tmp_path: Path) -> None:
    """Raw pixels are ahead at the end: the page may not begin with "learning"."""
    config = find("siamese_im_cpu_adamw").make()
    (tmp_path / "config.yaml").write_text("# otherview pretrain --config config.yaml --data d\n" + to_yaml(config))
    looks: list[dict[str, Any]] = [
        {"step": step, "knn_mean": 0.3 + step / 5000, "knn_cls": 0.3} for step in (0, 500, 1000)
    ]
    looks[0] |= {"knn_images": 2000, "knn_pixels": 0.2, "knn_chance": 0.1}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in looks))
    score = {"value": 0.5, "unit": "accuracy", "n": 400, "spread": 0.02}
    line = {
        "scores": [{"name": "knn_encoder_mean", **score}], "control": [], "test": "t", "chance": 0.1, "weights": str(tmp_path),
        "conclusion": {"score": "knn_encoder_mean", "state": NOT_YET, "sentence": "not yet worth it: pixels are ahead."},
        "comparisons": [{"reference": "raw pixels", "value": 0.7, "spread": 0.02}],
    }  # fmt: skip
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
    text = write_run_page(tmp_path).read_text(encoding="utf-8")
    assert text.index('class="verdict first">not yet worth it') < text.index("so far: learning")
    names = re.findall(r'<span class="name">(?:<a[^>]*>)?([^<]+)', text)
    assert names == ["this encoder", "raw pixels", "chance level"]
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data[0]["levels"] == {"raw pixels": 0.2, "chance level": 0.1}


def test_a_checkpoint_s_conclusion_is_no_news_of_the_finished_encoder(tmp_path: Path) -> None:
    """However the folder was written when it was judged, and whatever else was."""
    config = find("siamese_im_cpu_adamw").make()
    (tmp_path / "config.yaml").write_text("# otherview pretrain --config config.yaml --data d\n" + to_yaml(config))
    known = {"steps": 1000, "config_hash": "c0"}
    ended = {**known, "data": "d", "images_per_second": 1.0, "waited_for_data_share": 0, "seconds": 9}
    (tmp_path / "summary.json").write_text(json.dumps(ended))
    (tmp_path / "metrics.jsonl").write_text("")
    score = {"name": "knn_encoder_mean", "value": 0.5, "unit": "accuracy", "n": 400, "spread": 0.02}
    said = {"score": score["name"], "state": NOT_YET}
    common: dict[str, Any] = {"scores": [score], "control": [], "test": "t", "config_hash": "c0"}
    lines = [
        {**common, "weights": "elsewhere/run@500", "steps": 500, "conclusion": {**said, "sentence": "half of it."}},
        {**common, "weights": "elsewhere/run/", "steps": 1000, "conclusion": {**said, "sentence": "all of it."}},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = write_run_page(tmp_path).read_text(encoding="utf-8")
    assert 'class="verdict first">all of it.</p>' in text
    assert 'class="verdict">half of it. (weights elsewhere/run@500)</p>' in text
