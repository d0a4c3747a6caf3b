"""The site is built without a dead link, loads nothing from elsewhere, and what its pages name exists."""

import importlib
import importlib.util
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from infra.docs.contracts import SERVICES, settings
from infra.docs.site import BuildFailed, build, frame, lay_out, with_files
from infra.docs.surfaces import MEASURED
from infra.kafka.settings import AdminSettings
from infra.local.settings import LocalSettings
from infra.local.state import ROOT
from shared.contracts.policy import Policy
from tests.commands import commands_in, fault

WRITTEN = [
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "README.md",
]
FENCED = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
pages = pytest.mark.parametrize("page", WRITTEN, ids=[str(page.relative_to(ROOT)) for page in WRITTEN])


class Html(HTMLParser):
    """The ids of a page, where its links lead, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self.ids |= {said[name] for name in ("id", "name") if name in said}
        if tag == "a" and "href" in said:
            self.links.add(said["href"])
        elif address := said.get("src") or (said.get("href") if tag == "link" else None):
            self.loaded.add(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Html]:
    folder = build(tmp_path_factory.mktemp("docs"))
    return {page: Html(page.read_text()) for page in folder.rglob("*.html")}


def test_every_link_leads_to_a_page_and_an_anchor_that_are_there(site: dict[Path, Html]) -> None:
    assert len(site) > 60
    for page, html in site.items():
        for link in html.links:
            to = urlsplit(link)
            if to.scheme or page.name == "404.html":
                continue
            target = (page.parent / unquote(to.path)).resolve() if to.path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{page.name}: {link}"
            if to.fragment and target in site:
                assert unquote(to.fragment) in site[target].ids, f"{page.name}: {link}"


def test_nothing_is_loaded_from_elsewhere(site: dict[Path, Html]) -> None:
    assert not [
        (page.name, one) for page, html in site.items() for one in html.loaded if urlsplit(one).netloc
    ]


def test_a_dead_link_or_a_missing_file_ends_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: Path) -> None:
        source.mkdir(parents=True)
        (source / "index.md").write_text("[gone](gone.md)\n")

    monkeypatch.setattr("infra.docs.site.lay_out", broken)
    with pytest.raises(BuildFailed, match=r"index\.md"):
        build(tmp_path)


def test_every_page_is_in_the_navigation(tmp_path: Path) -> None:
    lay_out(tmp_path / "source")
    listed = {
        name for section in frame(tmp_path / "source")["nav"] for part in section.values() for name in part
    }
    assert listed == {
        str(page.relative_to(tmp_path / "source")) for page in (tmp_path / "source").rglob("*.md")
    }


@pages
def test_the_commands_of_a_page_exist(page: Path) -> None:
    assert not [found for command in commands_in(page.read_text()) if (found := fault(command))]


@pages
def test_the_snippets_of_a_page_can_be_used(page: Path) -> None:
    for _indent, language, text in FENCED.findall(with_files(page.read_text())):
        match language:
            case "python":
                compile(text, page.name, "exec")
            case "yaml":
                Policy.model_validate(yaml.safe_load(text))
            case "json":
                assert all(isinstance(json.loads(line), dict) for line in text.splitlines() if line)
            case _:
                assert language == "sh"


@pages
def test_the_files_modules_and_targets_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    files = re.findall(
        r"(?<![\w(/])(?:infra|docs|examples|services|shared|tests|bench|requirements)/[\w./-]*[\w/]", text
    )
    assert not [name for name in files if not (ROOT / name).exists()]
    if page.parent == ROOT:  # links of the others are the build's to check
        assert not [name for name in re.findall(r"\]\(([^)#:]+)", text) if not (ROOT / name).exists()]
    for module in re.findall(r"python3? -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)) <= targets


@pages
def test_the_variables_of_a_page_are_settings(page: Path) -> None:
    ours = {*LocalSettings.model_fields, *AdminSettings.model_fields, "url", "token", "debug"}
    for name in re.findall(r"DRIFTWHEEL_([A-Z][A-Z0-9_]*[A-Z0-9])", page.read_text()):
        service, _, field = name.lower().partition("__")
        if field:
            known = importlib.import_module(f"services.{service}.settings").Settings.model_fields
            assert field in known, name
        else:
            assert any(one.startswith(service) for one in ours), name


def _declared() -> Iterator[str]:
    """Modules that make a metric for every scrape, as written."""
    made = re.compile(r"^[A-Z_]+ = (?:Counter|Gauge|Histogram)\(", re.MULTILINE)
    for file in [*(ROOT / "services").rglob("*.py"), *(ROOT / "shared").rglob("*.py")]:
        if made.search(file.read_text()):
            yield ".".join(file.relative_to(ROOT).with_suffix("").parts)


def test_the_reference_has_the_metrics_of_every_module() -> None:
    assert set(_declared()) == {
        name if name.startswith("shared.") else f"services.{name}" for name in MEASURED
    }


def test_the_reference_has_every_setting() -> None:
    text = settings()
    for service in SERVICES:
        model: Any = importlib.import_module(f"services.{service}.settings").Settings
        for name in model.model_fields:
            assert re.search(rf"`(DRIFTWHEEL_{service.upper()}__)?{name.upper()}`", text), f"{service} {name}"
    assert str(ROOT) not in text
    assert str(Path.home()) not in text
