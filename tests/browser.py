"""A real Chromium, steered by its own driver, that keeps what it complains about and pictures of what it shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import need
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
PATIENCE = 20
"""How long, in seconds, something may take to show up on a busy machine."""
DESKTOP, PHONE = (1280, 900), (390, 844)


class Browser:
    """One window. Elements are found by CSS."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        """Return the first element, once it is there."""
        return WebDriverWait(self.driver, PATIENCE, 0.02).until(lambda _: (self.all(css) or [None])[0])

    def named(self, words: str, css: str = "a, button") -> WebElement:
        """Return the link or button that is called like that."""
        return WebDriverWait(self.driver, PATIENCE, 0.02).until(
            lambda _: next((each for each in self.all(css) if each.accessible_name.strip() == words), None)
        )

    def until_text(self, css: str, words: str) -> None:
        WebDriverWait(self.driver, PATIENCE, 0.02, ignored_exceptions=()).until(lambda _: words in self.text(css))

    def until_count(self, css: str, count: int) -> None:
        WebDriverWait(self.driver, PATIENCE, 0.02).until(lambda _: len(self.all(css)) == count)

    def text(self, css: str = "main") -> str:
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText).join('\\n')"
        return self.driver.execute_script(script, css)

    def width(self, size: tuple[int, int]) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
        )

    def colours(self, scheme: str) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )

    def pictures(self, name: str) -> None:
        """Keep what is shown, at both widths, in light and dark, and see that nothing is cut off."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        for size in (DESKTOP, PHONE):
            self.width(size)
            for scheme in ("light", "dark"):
                self.colours(scheme)
                self.driver.execute_script("dispatchEvent(new Event('resize'))")
                overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
                assert self.driver.execute_script(overflow) <= 0, f"{name} is wider than {size[0]} pixels"
                height = self.driver.execute_script("return document.documentElement.scrollHeight")
                self.width((size[0], min(max(height, size[1]), 2400)))
                self.driver.save_screenshot(str(SCREENSHOTS / f"{name}-{size[0]}-{scheme}.png"))
                self.width(size)
        self.width(DESKTOP)
        self.colours("light")

    def check_complaints(self) -> None:
        """Assert that the browser has refused nothing (by the page's policy) and that no script has failed."""
        complaints = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert not complaints, complaints


@contextmanager
def browser() -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = need("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # the driver listens on a free port, and ends with the browser
    driver = webdriver.Chrome(options=options, service=Service(need("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
