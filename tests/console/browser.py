"""A Chromium under Playwright: signs people in by the issuer's own page, keeps screenshots, asks axe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

HERE = Path(__file__).parent
SHOTS = HERE.parent.parent / "build" / "console-screenshots"
AXE = HERE / "axe" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Reader:
    """One person in one browser window."""

    page: Page
    url: str

    @classmethod
    def of(
        cls, browser: Browser, url: str, *, dark: bool = False, narrow: bool = False, scripts: bool = True
    ) -> Reader:
        context: BrowserContext = browser.new_context(
            color_scheme="dark" if dark else "light",
            viewport={"width": 380, "height": 800} if narrow else {"width": 1200, "height": 900},
            java_script_enabled=scripts,
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.set_default_timeout(30_000)
        return cls(page, url)

    def sign_in(self, name: str, to: str = "/") -> Reader:
        self.page.goto(f"{self.url}/?to={to}")
        self.page.get_by_role("link", name="Sign in with your organisation").click()
        self.choose(name)
        return self

    def choose(self, name: str) -> None:
        """On the issuer's own page."""
        self.page.locator(f'button[value="{name}"]').click()

    def open(self, path: str) -> Reader:
        answer = self.page.goto(f"{self.url}{path}")
        assert answer is not None
        return self

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    def violations(self) -> list[str]:
        """What axe finds against WCAG 2.2 AA, each with its places."""
        # The page's own policy lets no script in; the browser's debugger is not bound by it.
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("rules => axe.run(document, {runOnly: {type: 'tag', values: rules}})", RULES)
        return [
            f"{one['id']}: {one['help']}: {', '.join(node['target'][0] for node in one['nodes'])}"
            for one in found["violations"]
        ]
