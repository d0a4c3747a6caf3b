"""Lay the pages out, write the reference, and let Zensical make HTML of them. A link that leads nowhere ends the build."""

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.docs import contracts, surfaces
from infra.local.site import script
from infra.local.state import ROOT

BUILD = ROOT / "build"
FRAME = Path(__file__).with_name("site.yml")
REFERENCE: Mapping[str, Callable[[], str]] = {
    "policy": contracts.policy,
    "choices": contracts.choices,
    "settings": contracts.settings,
    "topics": contracts.topics,
    "routes": surfaces.routes,
    "commands": surfaces.commands,
    "metrics": surfaces.metrics,
    "alerts": surfaces.alerts,
}
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "SECURITY.md", "services/README.md")
FOLDERS = {"Runbooks": "infra/runbooks", "Decisions": "infra/decisions"}
"""Pages of the repository: on the site they keep their place, so their links to each other lead where they led."""


class BuildFailed(RuntimeError):
    """The site could not be built; the message is Zensical's, which names page and line."""


def build(folder: Path = BUILD) -> Path:
    """Write the site and return its folder. Needs no network.

    Raises:
        BuildFailed: a page, a link, an anchor or an included file is missing.
    """
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    lay_out(source)
    config = folder / "zensical.yml"
    config.write_text(yaml.safe_dump(frame(source), sort_keys=False, allow_unicode=True))
    command = [script("zensical"), "build", "--strict", "--clean", "--config-file", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr).partition("Traceback")[0])
    return folder / "site"


def lay_out(source: Path) -> None:
    """All pages as Markdown below one folder."""
    shutil.copytree(ROOT / "docs", source)
    for page in source.rglob("*.md"):
        page.write_text(with_files(page.read_text()))
    _write(source / "assets" / "mark.svg", (ROOT / "services/console/static/mark.svg").read_text())
    runbooks = {page.stem for page in (ROOT / FOLDERS["Runbooks"]).glob("*.md")}
    for name in [*PAGES, *(str(page.relative_to(ROOT)) for page in _pages_of_folders())]:
        _write(source / name, _moved((ROOT / name).read_text(), runbooks))
    _write(source / FOLDERS["Decisions"] / "index.md", _decisions())
    for name, made in REFERENCE.items():
        _write(source / "reference" / f"{name}.md", made())


def with_files(text: str) -> str:
    """A page with the files it includes: a line `# include examples/…` stands for that file, which so has one place."""
    return re.sub(
        r"^# include (\S+)$", lambda line: (ROOT / line[1]).read_text().rstrip(), text, flags=re.MULTILINE
    )


def _pages_of_folders() -> list[Path]:
    return [page for folder in FOLDERS.values() for page in sorted((ROOT / folder).glob("*.md"))]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _moved(text: str, runbooks: set[str]) -> str:
    """A page of the repository as one of the site: what lies in `docs/` is at its top, and runbooks that are named are linked."""
    text = text.replace("](docs/", "](").replace("](infra/decisions/)", "](infra/decisions/index.md)")
    return re.sub(
        r"\*\*([A-Z][A-Za-z]+)\*\*", lambda m: f"[{m[1]}]({m[1]}.md)" if m[1] in runbooks else m[0], text
    )


def _decisions() -> str:
    lines = [
        f"- [{_title(page)}]({page.name})" for page in sorted((ROOT / FOLDERS["Decisions"]).glob("*.md"))
    ]
    return (
        "# Decisions\n\nWhy things are as they are, what was rejected, and when to look again.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _title(page: Path) -> str:
    return page.read_text().partition("\n")[0].removeprefix("# ")


def frame(source: Path) -> dict[str, Any]:
    """Zensical's configuration for the pages laid out there."""
    made: dict[str, Any] = yaml.safe_load(FRAME.read_text())
    for title, folder in FOLDERS.items():
        found = sorted((source / folder).glob("*.md"), key=lambda page: (page.stem != "index", page.stem))
        made["nav"].append({title: [str(page.relative_to(source)) for page in found]})
    return made
