"""Pages in headless Chromium, as Debian has it: opened, clicked, typed into, and listened to."""

import json
import shutil
from pathlib import Path

from tests.models import missing

#: What tells whether the page's scripts have run to their end.
READY = "return document.body.dataset.ready !== undefined || document.getElementById('data') === null"
#: Brings an element to the middle, and ends when it stays where it is: charts that are drawn meanwhile move what is
#: below them, and a click would hit something else.
STILL = """
    const [element, done] = arguments;
    element.scrollIntoView({block: 'center', inline: 'center'});
    let before = '';
    const look = () => {
        const {x, y} = element.getBoundingClientRect();
        if (before === `${x} ${y}`) return done();
        before = `${x} ${y}`;
        requestAnimationFrame(() => requestAnimationFrame(look));
    };
    look();
"""


def start_browser():
    """A `Browser`, where there is one."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        missing("selenium is not installed: it is one of requant[dev]")

    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(found):
        missing("chromium and chromedriver are not there: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Browser(webdriver.Chrome(options, Service(found[1])))


class Browser:
    """A driver with the few things that tests of pages do."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, *, width=1280, dark=False):
        from selenium.webdriver.support.wait import WebDriverWait

        self.logs()
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(Path(path).resolve().as_uri())
        WebDriverWait(self.driver, 60).until(lambda driver: driver.execute_script(READY))

    def find(self, selector):
        """The only element that is shown for the selector."""
        (one,) = self.all(selector)
        return one

    def all(self, selector):
        script = "return [...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility())"
        return self.run(script, selector)

    def click(self, selector):
        from selenium.webdriver import ActionChains

        element = self.find(selector)
        self.driver.execute_async_script(STILL, element)
        ActionChains(self.driver).move_to_element(element).click().perform()

    def press(self, *keys):
        """Keys, to whatever has the focus."""
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        for key in keys:
            ActionChains(self.driver).send_keys(getattr(Keys, key, key)).perform()

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def text(self, selector):
        return self.find(selector).text

    def rows(self):
        """The names in the table of tensors, from the top."""
        return self.run("return [...document.querySelectorAll('#tensor-table tbody th')].map((one) => one.textContent)")

    def cells(self, column):
        """Texts of a column of it."""
        script = (
            "return [...document.querySelectorAll('#tensor-table tbody tr')].map((row) => row.cells[%d].textContent)"
        )
        return self.run(script % column)

    def logs(self):
        """(lines of the console, addresses asked for) since the last call."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
        return console, asked
