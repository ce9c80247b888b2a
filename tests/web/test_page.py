"""The page in a browser: it shows what `mmg-server status --json` says, and can be used without a mouse."""

import json
import shutil

import pytest

from tests.web.requests import PATIENCE_S, wait_until

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

WIDTHS = {"desk": 1280, "phone": 390}


@pytest.fixture(scope="module")
def browser():
    """A browser without a window, in which nothing but loopback is reached."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking",
                     "disable-dev-shm-usage", "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=webdriver.ChromeService(DRIVER), options=options)
    yield driver
    driver.quit()


def show(browser, place, width="desk", theme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": WIDTHS[width], "height": 900, "deviceScaleFactor": 1, "mobile": width == "phone"},
    )
    browser.get(place.url)
    wait_until(lambda: text_of(browser, "state") == "connected")


def text_of(browser, name):
    return browser.execute_script("return document.getElementById(arguments[0]).textContent", name)


def rows_of(browser, name):
    """Return the rows of a table: column -> text."""
    return browser.execute_script(
        """return [...document.querySelectorAll(`#${arguments[0]} > tr`)].map((row) =>
        Object.fromEntries([...row.children].map((cell) => [cell.dataset.label, cell.innerText.trim()])))""",
        name,
    )


def test_the_page_shows_what_the_server_says_of_a_job_with_a_death_and_a_skip(place, job, browser):
    show(browser, place)
    said = json.loads(place.commands.run("server", "status", "--json", place.where).stdout)
    (row,), (worker,) = said["jobs"], said["workers"]
    expected = {
        "Job": f"<b>a job</b>\n{row['id']}",
        "Submitted by": f"{row['user']}@{row['host']}\npid {row['pid']}",
        "Phase": "map",
        "Progress": f"{row['percent']:.1f} %, {row['done']} of 20",
        "Running": "1",
        "Skipped": "1",
        "Spilled": "0",
    }
    wait_until(lambda: any(expected.items() <= shown.items() for shown in rows_of(browser, "job-rows")))
    (shown,) = wait_until(lambda: rows_of(browser, "worker-rows"))
    assert (shown["Worker"], shown["Slots busy"], shown["Deaths"]) == ("node7", f"{worker['busy']} of 2", "1")
    assert shown["Last death"].startswith(worker["last_death"])
    assert shown["State"] == "ready"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_job_is_cancelled_with_the_keyboard(place, job, browser):
    from selenium.webdriver.common.keys import Keys

    show(browser, place)
    wait_until(lambda: rows_of(browser, "job-rows"))
    button = browser.find_element("css selector", "#job-rows button")
    assert button.get_attribute("aria-label") == "Cancel <b>a job</b>"
    button.send_keys(Keys.ENTER)
    browser.switch_to.active_element.send_keys(Keys.ENTER)  # the focus is on "Keep it"
    assert not browser.find_element("id", "ask").is_displayed()
    assert job.run.poll() is None
    button.send_keys(Keys.ENTER)
    browser.switch_to.active_element.send_keys(Keys.TAB)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    _, stderr = job.run.communicate(timeout=PATIENCE_S)
    assert "cancelled by" in stderr
    wait_until(lambda: not rows_of(browser, "job-rows"))
    assert browser.find_element("id", "no-jobs").is_displayed()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_and_can_be_read_in_the_dark_and_on_a_phone(place, job, browser, width, theme):
    show(browser, place, width, theme)
    wait_until(lambda: rows_of(browser, "job-rows"))
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    for text, least in (("body", 7), (".bad, .warn", 4.5), ("dt", 4.5), ("td small", 4.5), ("#state", 4.5)):
        assert contrast(browser, text) >= least, text
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('button, input')].filter((e) => e.offsetParent).map((e) => e.offsetHeight)"
    )
    assert min(sizes) >= 24  # pixels, what a finger hits


def contrast(browser, selector):
    """Return the contrast of a text to what is behind it, as WCAG 2 defines it."""
    return browser.execute_script(
        """
        const light = (color) => {
          const parts = color.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
            .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
          return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        let element = document.querySelector(arguments[0]);
        const text = light(getComputedStyle(element).color);
        while (element && /rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(element).backgroundColor)) {
          element = element.parentElement;
        }
        const behind = light(getComputedStyle(element).backgroundColor);
        return (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
        """,
        selector,
    )


def test_workers_are_found_by_name_and_only_some_are_drawn(place, browser):
    show(browser, place)
    wait_until(lambda: rows_of(browser, "worker-rows"))
    browser.execute_script(
        """apply({version: 0, whole: false, address: "", workers: {gone: [], rows:
        [...Array(10000).keys()].map((i) => ({number: 100 + i, name: `many${i}`, slots: 1, state: "ready"}))}})"""
    )
    assert len(rows_of(browser, "worker-rows")) == 200
    assert text_of(browser, "workers-count") == "showing 200 of 10,001"
    field = browser.find_element("id", "filter")
    field.send_keys("many777 ready")
    found = wait_until(lambda: (rows := rows_of(browser, "worker-rows")) and len(rows) == 11 and rows)
    assert {row["Worker"][:7] for row in found} == {"many777"}


def test_a_page_whose_dashboard_has_ended_says_so(place, browser):
    other = place.commands.start("dashboard", place.where)
    browser.get(other.stdout.readline().strip())
    wait_until(lambda: text_of(browser, "state") == "connected")
    other.terminate()
    other.wait(PATIENCE_S)
    wait_until(lambda: "does not answer" in text_of(browser, "state"))
