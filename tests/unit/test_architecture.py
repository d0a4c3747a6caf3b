"""The rules of the house that can be checked: one anatomy, a true event map, no route without a scope."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from shared.contracts.events import EVENTS
from shared.contracts.topology import CONSUMERS, PRODUCERS

ROOT = Path(__file__).parents[2]
SERVICES = ("data", "trainer", "evaluator", "registry", "serving", "monitor")
ANATOMY = (
    "__init__.py",
    "app.py",
    "settings.py",
    "handlers.py",
    "api.py",
    "service.py",
    "store.py",
    "domain.py",
    "migrations",
)


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_anatomy(service: str) -> None:
    missing = [name for name in ANATOMY if not (ROOT / "services" / service / name).exists()]
    assert not missing


def _subscriptions(service: str) -> dict[str, str]:
    """Event class -> handler name, as written in handlers.py."""
    tree = ast.parse((ROOT / "services" / service / "handlers.py").read_text())
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                name = ast.unparse(decorator.func) if isinstance(decorator, ast.Call) else ""
                if isinstance(decorator, ast.Call) and name.endswith((".on", ".on_batch")):
                    found[ast.unparse(decorator.args[0])] = node.name
    return found


def test_the_map_of_consumers_is_what_services_subscribe_to() -> None:
    by_class = {event.__name__: event.topic for event in EVENTS}
    real: dict[str, set[str]] = {event.topic: set() for event in EVENTS}
    for service in SERVICES:
        for name in _subscriptions(service):
            real[by_class[name]].add(service)
    assert real == {topic: set(services) for topic, services in CONSUMERS.items()}


def _made(service: str) -> set[str]:
    """Names of what a service makes instances of: with a constructor anywhere, by validation inside an `emit`."""
    found = set()
    for file in (ROOT / "services" / service).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                found.add(name)
                if name.endswith(".emit"):
                    inside = {ast.unparse(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
                    found |= {name.removesuffix(".model_validate") for name in inside}
    return found


def test_the_map_of_producers_is_what_services_emit() -> None:
    made = {service: _made(service) for service in SERVICES}
    real = {e.topic: {service for service in SERVICES if e.__name__ in made[service]} for e in EVENTS}
    assert real == {topic: set(services) for topic, services in PRODUCERS.items()}


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


@pytest.mark.parametrize("service", SERVICES)
def test_handlers_are_named_for_their_event_and_stay_thin(service: str) -> None:
    assert all(handler == f"on_{_snake(event)}" for event, handler in _subscriptions(service).items())
    tree = ast.parse((ROOT / "services" / service / "handlers.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 9, (
                f"{service}.{node.name} is longer than a handler may be"
            )


def test_the_readme_shows_the_true_map() -> None:
    rows = re.findall(
        r"^\| `([a-z.]+)`[^|]*\|[^|]*\| ([^|]*) \|", (ROOT / "services/README.md").read_text(), re.MULTILINE
    )
    shown = {topic: {name.strip() for name in consumers.split(",")} for topic, consumers in rows}
    assert shown == {topic: set(services) for topic, services in CONSUMERS.items()}


@pytest.mark.parametrize("service", SERVICES)
def test_importing_a_service_loads_no_torch(service: str) -> None:
    heavy = {"torch", "transformers", "evidently", "pandas"}
    for name in ("domain", "service", "handlers", "api", "app"):
        source = (ROOT / "services" / service / f"{name}.py").read_text()
        top = {n.names[0].name.split(".")[0] for n in ast.parse(source).body if isinstance(n, ast.Import)}
        top |= {
            (n.module or "").split(".")[0] for n in ast.parse(source).body if isinstance(n, ast.ImportFrom)
        }
        assert not top & heavy, f"services/{service}/{name}.py imports {top & heavy} on start-up"
    importlib.import_module(f"services.{service}.app")


def test_every_decision_has_a_number_of_its_own_and_says_it() -> None:
    files = sorted((ROOT / "infra/decisions").glob("*.md"))
    assert [file.name[:4] for file in files] == [f"{number:04}" for number in range(1, len(files) + 1)]
    unlike = [f.name for f in files if not f.read_text().startswith(f"# {f.name[:4]} · ")]
    assert not unlike


def test_no_file_names_a_machine_or_an_index() -> None:
    hosts = re.compile(r"pypi\.org|pythonhosted|repo1?\.maven|/(root|work)/|/home/[a-z]")
    bad = []
    for path in ROOT.rglob("*"):
        relative = path.relative_to(ROOT)
        if relative.parts[0].startswith(".") or path.suffix in {".pyc", ".jsonl"} or not path.is_file():
            continue
        if relative == Path("tests/unit/test_architecture.py") or "__pycache__" in relative.parts:
            continue
        if hosts.search(path.read_text(errors="ignore")):
            bad.append(str(relative))
    assert not bad
