"""Pictures of MLflow's pages: real runs, and a real browser that finds in each what it is for."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_page_shows_what_it_is_pictured_for(tmp_path):
    pytest.importorskip("selenium", reason="needs the extra 'browser'")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs chromium and chromedriver")
    from docs.screenshots import take

    pictures = take(tmp_path / "pictures", [])
    names = {path.stem for path in pictures}
    assert names == {"runs", "run", "charts", "system", "plot", "compare", "model"}
    for path in pictures:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 100, path  # no empty page
