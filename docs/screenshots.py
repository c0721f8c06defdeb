"""Pictures of runs in MLflow's pages: real runs, the real server, a real browser.

    pip install -e '.[browser]'; python docs/screenshots.py docs/mlflow

Chromium and its driver have to be installed (Debian: chromium-driver). A page that does not show
what it is pictured for ends the script with an error.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ALGORITHMS = ("leap", "reptile", "fomaml")
SHORT = ["meta.steps=12", "meta.batch_size=4", "inner.num_steps=15", "evaluation.num_steps=15"]
SHORT += ["data.num_train_tasks=4", "data.num_test_tasks=2", "model.num_filters=16"]
SHORT += ["workers.count=0", "tracking.system_every_s=0.5", "name=letters"]
MODEL = "letters"
TRAINING = "//*[text()='Model training']"
SIZE = 1400, 900
WAIT_S = 60
START_TIMEOUT_S = 90
CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    f"--window-size={SIZE[0]},{SIZE[1]}",
]


def take(folder: Path, steps: list[str]) -> list[Path]:
    """Make the runs, `steps` being overrides of all of them, and a picture of each page."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        environment = {**os.environ, "OUTERLOOP_HOME": f"{temporary}/runs"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        runs = [_run(environment, name, steps) for name in ALGORITHMS]
        first = runs[0]
        _outerloop(environment, "register", first["run_id"], MODEL)
        with _served(environment) as address, _browser(temporary) as browser:
            experiment = _experiment_of(address, first["mlflow_run_id"])
            pages = Pages(browser, address, folder)
            pages.tidy()
            return [
                pages.take(name, place, *shown) for name, place, *shown in _places(experiment, runs)
            ]


def _places(experiment: str, runs: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return, for each picture, its name, the address of the page, and texts that it must show."""
    ids = [run["mlflow_run_id"] for run in runs]
    run = f"experiments/{experiment}/runs/{ids[0]}"
    compared = f"compare-runs?runs={json.dumps(ids)}&experiments={json.dumps([experiment])}"
    return [
        ("runs", f"experiments/{experiment}/runs", *(one["run_id"] for one in runs)),
        ("run", run, "train/loss", "algorithm.name", "outerloop.algorithm"),
        ("charts", f"{run}/model-metrics", "accuracy", "outer", "train"),
        ("system", f"{run}/system-metrics", "cpu_utilization_percentage"),
        ("plot", f"{run}/artifacts/plots/meta-test.png", "meta-test.png"),
        ("compare", compared, "reptile", "fomaml", "eval/test/auc"),
        ("model", f"models/{MODEL}/versions/1", "support_x", "query_x"),
    ]


class Pages:
    """MLflow's pages in a browser."""

    def __init__(self, browser: Chrome, address: str, folder: Path) -> None:
        self._browser = browser
        self._address = address
        self._folder = folder

    def tidy(self) -> None:
        """Choose the pages of training, and close what stands beside them."""
        self._browser.get(self._address)
        for selector in ('[data-component-id="mlflow.assistant.chat_panel.close"]', TRAINING):
            found = WebDriverWait(self._browser, WAIT_S).until(
                lambda _, selector=selector: (
                    self._browser.find_elements(By.XPATH, selector)
                    if selector.startswith("//")
                    else self._browser.find_elements(By.CSS_SELECTOR, selector)
                )
            )
            found[0].click()

    def take(self, name: str, place: str, *shown: str) -> Path:
        """Go to a page, wait until it shows all of the texts, and picture it."""
        self._browser.get("about:blank")  # or only the fragment of the address would change
        self._browser.get(f"{self._address}/#/{place}")
        if name == "model":  # whose inputs are folded up
            inputs = "//*[contains(., 'Inputs (') and not(*[contains(., 'Inputs (')])]"
            WebDriverWait(self._browser, WAIT_S).until(
                lambda _: self._browser.find_elements(By.XPATH, inputs)
            )[0].click()
        for text in shown:
            WebDriverWait(self._browser, WAIT_S).until(
                lambda _, text=text: text in self._text(), f"{place}: does not show '{text}'"
            )
        if name == "charts":  # those of training are below those of the meta-test
            heading = self._browser.find_element(By.XPATH, "//*[text()='train']")
            self._browser.execute_script("arguments[0].scrollIntoView()", heading)
        self._wait_until_at_rest()
        path = self._folder / f"{name}.png"
        self._browser.save_screenshot(str(path))
        return path

    def _text(self) -> str:
        return self._browser.execute_script("return document.body ? document.body.innerText : ''")

    def _wait_until_at_rest(self) -> None:
        """Wait until nothing on the page is being loaded, and its text stays as it is."""
        limit, before = time.monotonic() + WAIT_S, ""
        while time.monotonic() < limit:
            busy = self._browser.find_elements(By.CSS_SELECTOR, "[aria-busy=true]")
            now = self._text()
            if not busy and now == before:
                return
            before = now
            time.sleep(1)


def _run(environment: dict[str, str], algorithm: str, steps: list[str]) -> dict[str, Any]:
    words = ["train", "quickstart", f"algorithm.name={algorithm}", *SHORT, *steps]
    return _outerloop(environment, *words)


def _outerloop(environment: dict[str, str], *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "jobs.cli", "--json", *words]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextmanager
def _served(environment: dict[str, str]) -> Iterator[str]:
    """Give the address of `outerloop ui`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jobs.cli", "ui", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        limit = time.monotonic() + START_TIMEOUT_S
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"{address}: no answer")
            time.sleep(0.5)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/health", timeout=5).close()
    except OSError:
        return False
    return True


def _experiment_of(address: str, run_id: str) -> str:
    url = f"{address}/api/2.0/mlflow/runs/get?run_id={run_id}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(json.load(answer)["run"]["info"]["experiment_id"])


@contextmanager
def _browser(temporary: str) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (*CHROMIUM, f"--user-data-dir={temporary}/chromium"):
        options.add_argument(argument)
    browser = Chrome(options, ChromeService("/usr/bin/chromedriver"))
    try:
        yield browser
    finally:
        browser.quit()


if __name__ == "__main__":
    for picture in take(Path(sys.argv[1]), sys.argv[2:]):
        print(picture)
