"""The page in a browser: it shows what `mmg-server status --json` says, and can be used without a mouse."""

import json
import os
import re
import shlex
import shutil
import threading
from types import SimpleNamespace

import pytest

from mmgevent.cli.opening import redirect_file
from mmgevent.web.busiest import MAX_LISTED
from tests.integration.commands import Commands
from tests.trust.raw_peer import PASSWORD, RawPeer, hello_of, running_server
from tests.trust.raw_peer import wait_until as wait_for_crowd
from tests.trust.raw_server import hostile_server
from tests.trust.test_crowds import CROWD_S, Crowd
from tests.trust.test_hostile_listings import Liar, of_job, of_jobs
from tests.web.requests import PATIENCE_S, fetch, wait_until

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
    browser.get("about:blank")
    browser.get_log("browser")  # what the page before said, of a dashboard that has ended
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
    deaths = str(worker["deaths"])
    assert (shown["Slots busy"], shown["Deaths"]) == (f"{worker['busy']} of 2", deaths)
    assert shown["Worker"] == f"node7\n{worker['address']}"
    assert shown["Last death"].startswith(worker["last_death"])
    assert shown["State"] == "ready"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_job_is_cancelled_with_the_keyboard(place, job, browser):
    from selenium.webdriver.common.keys import Keys

    show(browser, place)
    wait_until(lambda: rows_of(browser, "job-rows"))
    button = browser.find_element("css selector", "#job-rows td:last-child button")
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


def look_into(browser, place, job):
    """Show the page, and wait until it shows what happened in a job."""
    show(browser, place)
    wait_until(lambda: rows_of(browser, "job-rows"))
    assert text_of(browser, "view-title") == "<b>a job</b>"  # the only job is looked into by itself
    assert text_of(browser, "view-note") == job.row["id"]
    browser.execute_script("document.getElementById('lanes-details').open = true")
    return wait_until(lambda: rows_of(browser, "lane-rows"))


def drawn(browser, kind):
    """Return how many lanes have bars of a kind."""
    return browser.execute_script(
        "return [...document.querySelectorAll(`#lane-plot path.${arguments[0]}`)].filter((p) => p.getAttribute('d')).length",
        kind,
    )


def about(place, job):
    return fetch(place, f"/api/job?id={job.row['id']}")


def test_lanes_show_what_the_server_says_of_slots_with_the_death_marked(place, job, browser):
    look_into(browser, place, job)
    wait_until(lambda: drawn(browser, "bad"))
    said = wait_until(lambda: (known := about(place, job))["running"] and known)
    lanes = {(lane["worker"], lane["slot"]): lane for lane in said["work"]["lanes"]}
    assert sum(lane["faults"] for lane in lanes.values()) == 1

    def agrees():
        rows = rows_of(browser, "lane-rows")
        counts = {row["Slot"]: (row["Tasks"], row["Died or failed"]) for row in rows}
        return counts == {
            f"{worker}\nslot {slot}": (str(lane["tasks"]), str(lane["faults"]))
            for (worker, slot), lane in lanes.items()
        }

    wait_until(agrees)
    (running,) = said["running"]
    row = next(row for row in rows_of(browser, "lane-rows") if row["Runs now"])
    assert row["Slot"] == f"node7\nslot {running['slot']}"
    assert row["Runs now"].startswith(f"map task {running['task']}")
    assert (drawn(browser, "run"), drawn(browser, "bad")) == (1, 1)
    assert "1 died, failed or lost" in text_of(browser, "lanes-text")
    assert browser.execute_script("return document.querySelectorAll('#lane-plot [style]').length") == 0


def test_errors_lines_and_partitions_are_those_of_the_server(place, job, browser):
    look_into(browser, place, job)
    said = about(place, job)
    assert {error["error_type"] for error in said["errors"]} == {"died", "ValueError"}

    def errors():
        return browser.execute_script(
            "return [...document.querySelectorAll('#errors li')].map((li) => [...li.children].map((p) => p.textContent))"
        )

    wait_until(lambda: len(errors()) == 2)
    for given, (what, text, where, replay) in zip(said["errors"], errors(), strict=True):
        assert what.startswith(f"{given['count']} × mapfn: {given['error_type']}")
        assert text == given["error"]
        assert f"such as {given['key']}" in where
        assert "mmg-run --replay" in replay
    assert any("waits.py:" in what for what, *_ in errors())
    wait_until(lambda: len(lines_of(browser)) == len(about(place, job)["lines"]) >= 11)
    assert [line["text"] for line in about(place, job)["lines"]] == lines_of(browser)
    hot = next(text for text in lines_of(browser) if "hot" in text)
    assert hot == r"WARNING:mine:\x1b[31m\u202e<b>hot</b>"
    shape = about(place, job)["shape"]
    partitions = browser.execute_script(
        "return [...document.querySelectorAll('#skew-rows tr')].map((row) => row.firstChild.textContent)"
    )
    assert partitions == [str(each["partition"]) for each in shape["largest"]]
    assert f"{shape['count']} partitions" in text_of(browser, "skew-text")


def lines_of(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#log .what')].map((e) => e.textContent)"
    )


FAILS = """
datasource = [(number, number) for number in range(10)]
options = {"max_skipped": 5}
def mapfn(key, value):
    if value == 4:
        raise ValueError("four")
    yield key, value
"""


def test_an_error_has_the_command_that_replays_it(place, browser):
    done = place.commands.run("run", "--join", place.where, place.commands.write("fails.py", FAILS))
    assert done.returncode == 0, done.stderr
    show(browser, place)
    browser.execute_script("document.getElementById('ended').open = true")
    wait_until(lambda: any(row["Job"].startswith("fails") for row in rows_of(browser, "ended-rows")))
    button = next(
        each for each in browser.find_elements("css selector", "#ended-rows button") if each.text == "fails"
    )
    button.send_keys("\n")

    def command():
        text = browser.execute_script("return (document.querySelector('#errors code') || {}).textContent")
        return text if text and "FILE" not in text else None

    shown = wait_until(command)
    program, option, path = shlex.split(shown)
    assert (program, option) == ("mmg-run", "--replay")
    replayed = place.commands.run("run", option, path)
    assert "ValueError: four" in replayed.stderr


def test_lines_are_filtered_by_worker_and_level(place, job, browser):
    from selenium.webdriver.support.ui import Select

    look_into(browser, place, job)
    wait_until(lambda: any("hot" in text for text in lines_of(browser)))
    level = Select(browser.find_element("id", "log-level"))
    level.select_by_value("30")
    assert len(lines_of(browser)) == 1
    level.select_by_value("40")
    assert lines_of(browser) == []
    level.select_by_value("")
    worker = browser.find_element("id", "log-worker")
    worker.send_keys("NODE7")
    assert len(lines_of(browser)) >= 11
    worker.send_keys("x")
    assert lines_of(browser) == []
    assert text_of(browser, "log-count").startswith("0 of ")


def test_a_job_that_was_cancelled_is_over_with_all_that_is_known_of_it(place, job, browser):
    look_into(browser, place, job)
    before = about(place, job)
    place.commands.run("server", "cancel", place.where, job.row["id"])
    job.run.communicate(timeout=PATIENCE_S)
    browser.execute_script("document.getElementById('ended').open = true")

    def ended():
        return next((row for row in rows_of(browser, "ended-rows") if job.row["id"] in row["Job"]), None)

    row = wait_until(ended)
    (said,) = [each for each in fetch(place, "/api/ended")["ended"] if each["id"] == job.row["id"]]
    assert (row["Outcome"], row["Error"], row["Submitted by"]) == (
        "cancelled",
        said["error"],
        said["submitter"],
    )
    assert "cancelled by" in row["Error"]
    wait_until(lambda: "cancelled" in text_of(browser, "view-note"))
    wait_until(lambda: drawn(browser, "run") == 0)
    after = about(place, job)
    assert after["over"]
    assert (after["errors"], after["lines"]) == (before["errors"], before["lines"])
    show(browser, place)  # a page that is opened later
    browser.execute_script("document.getElementById('ended').open = true")
    button = wait_until(lambda: browser.find_elements("css selector", "#ended-rows button"))[0]
    button.send_keys("\n")
    wait_until(lambda: text_of(browser, "view-note").startswith(job.row["id"]))
    wait_until(lambda: len(lines_of(browser)) == len(before["lines"]))
    assert drawn(browser, "bad") == 1


def test_everything_has_a_name_for_screen_readers_and_each_chart_a_table(place, job, browser):
    look_into(browser, place, job)
    named = browser.execute_script(
        """return [...document.querySelectorAll('svg[role=img], section, button, input, select, progress, [role=log]')]
        .filter((e) => !e.closest('[hidden]') && !e.closest('dialog')).map((e) => [e.outerHTML.slice(0, 80),
        (e.getAttribute('aria-label') || (e.getAttribute('aria-labelledby') || '').split(' ').map((id) =>
        (document.getElementById(id) || {}).textContent || '').join('') || (e.closest('label') || {}).textContent
        || e.textContent).trim()])"""
    )
    assert [element for element, name in named if not name] == []
    assert len(named) > 15
    charts = browser.execute_script(
        "return [...document.querySelectorAll('svg')].filter((e) => e.getAttribute('role') !== 'img' && e.getAttribute('aria-hidden') !== 'true').length"
    )
    assert charts == 0
    tables = browser.execute_script(
        "return [...document.querySelectorAll('table')].every((t) => t.querySelectorAll('th[scope=col]').length > 2)"
    )
    assert tables


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_and_can_be_read_in_the_dark_and_on_a_phone(place, job, browser, width, theme):
    show(browser, place, width, theme)
    wait_until(lambda: drawn(browser, "bad") and lines_of(browser))
    browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    for text, least in (("body", 7), (".bad, .warn", 4.5), ("dt", 4.5), ("td small", 4.5), ("#state", 4.5),
                        ("button.name", 4.5), ("#errors .faint", 4.5), ("#log .when", 4.5), (".names", 4.5)):  # fmt: skip
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


#: workers of a large cluster
CROWD = 1000
EVIL = "\x1b[31m\u202e<b>" + "w" * 10_000


@pytest.fixture
def large(tmp_path):
    """A server with a thousand workers that do nothing and one with an evil name, and a dashboard."""
    commands = Commands(tmp_path)
    commands.environ["MMG_PASSWORD"] = PASSWORD
    leave = threading.Event()
    with running_server(tmp_path) as server:
        crowd = Crowd(server.address, CROWD)
        thread = threading.Thread(target=crowd.run, args=(leave,))
        try:
            with RawPeer(server.address, "worker", says_hello=False) as evil:
                evil.send(hello_of("worker", slots=3, name=EVIL))
                evil.stay()
                thread.start()
                wait_for_crowd(lambda: crowd.served == CROWD, "all workers", timeout_s=CROWD_S)
                dashboard = commands.start("dashboard", server.where)
                url = dashboard.stdout.readline().strip()
                match = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=(.*)", url)
                yield SimpleNamespace(url=url, port=int(match[1]), token=match[2], dashboard=dashboard)
                dashboard.terminate()
                dashboard.communicate(timeout=PATIENCE_S)
        finally:
            leave.set()
            if thread.ident is not None:
                thread.join()
    commands.close()


@pytest.mark.timeout(CROWD_S + 120)
def test_of_a_thousand_workers_the_busiest_are_shown_and_all_are_counted_and_found(large, browser):
    show(browser, large)
    wait_until(lambda: text_of(browser, "workers-count") == f"the {MAX_LISTED} busiest of {CROWD + 1:,}")
    assert len(rows_of(browser, "worker-rows")) == MAX_LISTED
    said = fetch(large, "/api/workers")
    assert len(said["workers"]) == CROWD + 1 == said["totals"]["workers"]
    assert said["totals"]["slots"] == CROWD + 3
    facts = browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('#totals div')].map((e) => [...e.children].map((c) => c.textContent)))"
    )
    assert (facts["Workers"], facts["Slots busy"]) == (f"{CROWD + 1:,}", f"0 of {CROWD + 3:,}")
    field = browser.find_element("id", "filter")
    field.send_keys("?B?wwww READY")
    (found,) = wait_until(lambda: (rows := rows_of(browser, "worker-rows")) and len(rows) == 1 and rows)
    assert found["Worker"].startswith("??31m??b?www")
    assert len(found["Worker"]) < 300
    assert text_of(browser, "workers-count") == "the 1 busiest of 1 found"
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    field.send_keys(" nobody")
    wait_until(lambda: not rows_of(browser, "worker-rows"))
    assert text_of(browser, "no-workers") == "No worker has these words."


def test_texts_and_numbers_of_strangers_break_nothing(browser, tmp_path):
    commands = Commands(tmp_path)
    commands.environ["MMG_PASSWORD"] = PASSWORD
    text = "\u202e\x1b[31m<img src=x onerror=alert(1)>\ud800\n" + "x" * 5000
    bar = {"worker": text, "slot": 2**62, "phase": text, "outcome": "died", "start": 1e18, "seconds": 1e18,
           "busy": 1e18, "tasks": 1, "task": 2**62, "error": text}  # fmt: skip
    row = {"number": 1, "id": text, "name": text, "user": text, "host": text, "pid": 2**62, "phase": text,
           "done": 2**62, "total": 2**62, "percent": -1e18, "left_s": 1e18, "running": 2**62, "skipped": 2**62,
           "spilled_bytes": 2**62, "since": -1e18}  # fmt: skip
    answers = {
        "list_jobs": of_jobs(row),
        "ended": of_job({**row, "outcome": text, "error": text, "ended": 1e18, "submitter": text}),
        "busy": of_job({"at": [1e18, 5], "busy": [2**62, 1], "slots": [1, -5]}),
        "tasks": of_job(bar, {**bar, "outcome": "done", "start": -1e18, "tasks": 2**62}, next=2),
        "logs": of_job({"at": 1e18, "worker": text, "item": text, "text": text, "dropped": 2**62}, next=1),
        "errors": of_job({"number": 1, "error_type": text, "count": 2**62, "error": text, "last_at": -1e18}, next=1),
        "shape": of_job({"count": 1, "bytes": -5, "largest": [{"partition": 2**62, "bytes": -(2**62)}],
                         "keys": [{"values": -1, "key": text, "worker": text}]}),
    }  # fmt: skip
    with hostile_server(Liar(**answers)) as server:
        dashboard = commands.start("dashboard", server.where)
        url = dashboard.stdout.readline().strip()
        try:
            for width in WIDTHS:
                show(browser, SimpleNamespace(url=url), width)
                wait_until(lambda: lines_of(browser) and drawn(browser, "bad"))
                browser.execute_script(
                    "for (const each of document.querySelectorAll('details')) each.open = true"
                )
                assert lines_of(browser)[0].startswith(r"\u202e\x1b[31m<img src=x")
                assert browser.find_elements("css selector", "img") == []
                root = "document.documentElement"
                assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth"), width
                shown = browser.execute_script(
                    "return document.body.innerText + document.querySelector('#lane-plot').innerHTML"
                )
                assert not re.search("NaN|Infinity|undefined|null", shown)
                assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        finally:
            dashboard.terminate()
            dashboard.communicate(timeout=PATIENCE_S)
            commands.close()


def test_the_file_of_open_leads_to_the_page(place, browser):
    with redirect_file(place.url) as path:
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
        browser.get(f"file://{path}")
        wait_until(lambda: browser.current_url.startswith(place.url))
        wait_until(lambda: text_of(browser, "state") == "connected")
    assert not os.path.exists(path)


def test_a_page_whose_dashboard_has_ended_says_so(place, browser):
    other = place.commands.start("dashboard", place.where)
    browser.get(other.stdout.readline().strip())
    wait_until(lambda: text_of(browser, "state") == "connected")
    other.terminate()
    other.wait(PATIENCE_S)
    wait_until(lambda: "does not answer" in text_of(browser, "state"))
