"""Holds the table of who may import whom, and the habits that keep the code readable, by walking the syntax trees."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import webhookd

ROOT = Path(__file__).parents[1]

LAYERS = (
    {"version", "model"},
    {"errors", "forms", "tsfield", "logs", "shapes", "tenant_index", "remedies"},
    {
        "datasource",
        "hook_fields",
        "json_input",
        "ports",
        "auth",
        "body",
        "limits",
        "turns",
        "settings",
        "statedir",
        "listeners",
        "sdnotify",
        "allocator",
        "http1_head",
        "http1_rest",
        "http_pieces",
    },
    {"hookspecs", "hooks", "schema", "generic", "keys", "jwk"},
    {"registry", "ingest", "adoption", "inflating"},
    {"rotation"},
    {"trials"},
    {"checks"},
    {"explain"},
    {
        *("testing", "config", "control_protocol", "examiner", "metrics", "http_problem", "record_ring"),
        *("record_view", "asyncapi"),
    },
    {"record_shares"},
    {"records"},
    {"explainer"},
    {
        "http_operations",
        "control_client",
        "http_reply",
        "tenant_hooks",
        "http_intake",
        "http1_answer",
        "http1_chunks",
        "http1_limits",
    },
    {"http_openapi", "replay"},
    {"http_admin", "http_config", "control", "http1_wire", "http1_shared"},
    {"http1_answering", "http1_accept", "http_delivery", "http_records"},
    {"http1", "http_explain"},
    {"http_documents", "http_ingest", "http1_delegate", "outlet", "bearer"},
    {"http_front", "http1_server", "http_api"},
    {"vitals"},
    {"traced"},
    {"tracing"},
    {"neighbours", "following", "record_keeping"},
    {"console"},
    {"daemon"},
    {"cli"},
    {"__main__"},
)
"""A module may import what is in the lines above its own, and nothing of webhookd else."""

ADAPTERS_IMPORT = {"model", "errors", "ports", "statedir", "auth", "jwk"}
"""What adapters may import, beside each other: the ports that they implement, and the folder that they write to."""
ADAPTERS_IMPORTED_BY = {"daemon", "neighbours", "record_keeping", "control*", "outlet", "vitals", "bearer", "cli*"}
"""Who may know which adapters there are; everybody else knows the ports."""

LIBRARIES = {
    "pluggy": {"hookspecs", "registry"},
    "httptools": {"http1_head"},
    "uvloop": {"daemon"},
    "opentelemetry": {"traced"},
    "tornado": {"http*", "console*", "daemon", "control", "listeners", "adapters.fetch"},
    "jsonschema": {"schema"},
    "jsonschema_rs": {"schema"},
    "sqlite3": {"adapters*", "cli.local_checks"},
    "prometheus_client": {"outlet", "metrics", "vitals", "http_admin", "bearer"},
    "aetcd": {"adapters.etcd_rpc"},
    "grpc": {"adapters.etcd_rpc"},
    "jwt": {"auth", "keys", "jwk", "cli.tokens"},
    "aiormq": {"adapters.amqp*"},
    "pamqp": {"adapters.amqp*"},
}
"""Where a library may be imported; `*` stands for the rest of a name."""

ENVIRONMENT = {"settings", "sdnotify", "cli*", "adapters.etcd_rpc"}
"""Who may look into the environment."""

STATUSES = {200, 201, 204, 400, 401, 403, 404, 405, 408, 409, 413, 415, 417, 422, 431, 500, 501, 503}
STATUS_PLACES = {"errors", "http*", "console*", "control", "cli*"}
"""Who may name HTTP statuses: the table of refusals, the HTTP face, and the commands that are clients of it."""

BANNED_NAMES = {"util", "utils", "helper", "helpers", "common", "base", "manager", "service", "misc"}
LONGEST_FUNCTION = 39
LONGEST_MODULE = 299


def modules(*folders: str) -> dict[str, Path]:
    """Return every module by its name inside its folder (`adapters.sqlite`), packages by their own (`adapters`)."""
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


CORE = modules("webhookd")
PLUGINS = modules("plugins")
TREES = {path: ast.parse(path.read_text()) for path in [*CORE.values(), *PLUGINS.values()]}
NAMES = sorted(name for name in CORE if name)


def imported(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each module that a file imports, by its full name, with the names that are taken from it."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            yield node.module or "", [alias.name for alias in node.names]


def own_imports(path: Path) -> set[str]:
    """Return the modules of webhookd that a file imports, without the prefix; "" is the package itself."""
    found = set()
    for module, names in imported(path):
        top, _, rest = module.partition(".")
        if top != "webhookd":
            continue
        inner = {f"{rest}.{name}".lstrip(".") for name in names}
        submodules = inner & CORE.keys()
        found |= submodules
        if inner - submodules or not names:
            found.add(rest)
    return found


def line_of(name: str) -> int:
    """Return the layer of a module; modules of a package stand where the package does."""
    (line,) = [number for number, layer in enumerate(LAYERS) if name in layer or name.partition(".")[0] in layer]
    return line


def matches(name: str, patterns: set[str]) -> bool:
    return any(name == p or (p.endswith("*") and name.startswith(p[:-1])) for p in patterns)


def test_every_module_has_its_place() -> None:
    placed = [name for layer in LAYERS for name in layer]
    assert len(placed) == len(set(placed))
    assert {name.partition(".")[0] for name in NAMES} == {*placed, "adapters"}


@pytest.mark.parametrize("name", NAMES)
def test_module_imports_only_from_the_layers_above(name: str) -> None:
    mine = own_imports(CORE[name])
    assert "" not in mine, "webhookd/__init__.py is for plugins"
    adapters = {other for other in mine if other.partition(".")[0] == "adapters"}
    others = mine - adapters
    if name.partition(".")[0] == "adapters":
        assert others <= ADAPTERS_IMPORT
        return
    assert not adapters or matches(name, ADAPTERS_IMPORTED_BY)
    package = name.partition(".")[0] if "." in name else None
    assert [o for o in others if line_of(o) >= line_of(name) and o.partition(".")[0] != package] == []


@pytest.mark.parametrize("path", PLUGINS.values(), ids=PLUGINS.keys())
def test_plugin_imports_only_what_the_package_exports(path: Path) -> None:
    assert own_imports(path) <= {""}
    taken = {name for module, names in imported(path) if module == "webhookd" for name in names}
    assert taken <= set(webhookd.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_library_stays_where_it_belongs(name: str) -> None:
    tops = {module.partition(".")[0] for module, _ in imported(CORE[name])}
    lost = [library for library, places in LIBRARIES.items() if library in tops and not matches(name, places)]
    assert lost == []


def test_core_names_no_plugin() -> None:
    named = {name: own_imports(path) & {"plugins", *(f"plugins.{p}" for p in PLUGINS)} for name, path in CORE.items()}
    assert {name: found for name, found in named.items() if found} == {}


@pytest.mark.parametrize("name", sorted(set(NAMES) - {n for n in NAMES if matches(n, ENVIRONMENT)}))
def test_environment_is_read_in_one_place(name: str) -> None:
    looks = [
        node.lineno
        for node in ast.walk(TREES[CORE[name]])
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "getenvb"}
    ]
    assert looks == []


def named_or_default(node: ast.AST) -> list[ast.expr]:
    """Return the values of a constant or the defaults of a function: both have a name that says what they are."""
    if isinstance(node, ast.arguments):
        return [value for value in (*node.defaults, *node.kw_defaults) if value]
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    named = (
        isinstance(node, ast.Assign | ast.AnnAssign) and names and not any("status" in name.lower() for name in names)
    )
    return [node.value] if named and node.value else []


@pytest.mark.parametrize("name", sorted(n for n in NAMES if not matches(n, STATUS_PLACES)))
def test_status_codes_stay_in_the_http_face(name: str) -> None:
    tree = TREES[CORE[name]]
    no_statuses = {id(part) for node in ast.walk(tree) for value in named_or_default(node) for part in ast.walk(value)}
    found = [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value in STATUSES
        if id(node) not in no_statuses
    ]
    assert found == []


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_something(path: Path) -> None:
    assert path.stem not in BANNED_NAMES
    classes = [node.name for node in ast.walk(TREES[path]) if isinstance(node, ast.ClassDef)]
    empty = [name for name in classes if re.search(r"(Manager|Service|Helper|Util|Utils|Base|Common)$", name)]
    assert empty == []


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines the docstring takes: those of a command are its help, and long ones are no fault."""
    first = node.body[0]
    return first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_and_modules_are_short(path: Path) -> None:
    lengths = {
        node.name: node.end_lineno - node.lineno + 1 - docstring_lines(node)
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_docstring_is_there(path: Path) -> None:
    text = ast.get_docstring(TREES[path])
    assert text
    assert text.splitlines()[0].endswith((".", ",", ":", "?")) or len(text.splitlines()) > 1


def test_standard_library_and_declared_dependencies_are_all_that_is_imported() -> None:
    declared = {"tornado", "jwt", "cryptography", "jsonschema", "jsonschema_rs", "referencing", "pluggy", "msgspec"}
    declared |= {
        "click",
        "prometheus_client",
        "structlog",
        "uuid_utils",
        "aiormq",
        "pamqp",
        "aetcd",
        "grpc",
        "httptools",
        "uvloop",
        "opentelemetry",
    }
    tops = {module.partition(".")[0] for path in TREES for module, _ in imported(path)}
    assert tops - sys.stdlib_module_names - declared == {"webhookd"}
