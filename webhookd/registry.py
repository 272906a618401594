"""Finds every plugin and asks it for its datasources, once; whatever is wrong with one stops the start."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, cast

import msgspec
import pluggy

from webhookd import hookspecs, tsfield
from webhookd.datasource import Datasource, EventType
from webhookd.errors import ConfigurationError
from webhookd.generic import Generic
from webhookd.model import EVENT_NAME, NAME
from webhookd.remedies import REMEDIES
from webhookd.shapes import DatasourceDetails, EventDetails
from webhookd.version import __version__

_OWN = "webhookd"
"""The distribution whose plugins are the built-in ones."""
_MAX_TITLE = 100
_MAX_CAUSE = 300
_NEARLY = 0.85
"""How alike a name is to one of the contract that is taken for it, misspelt: 1 is the same."""


class Registry:
    """Every datasource there is: those of the plugins by their names, the generic one for any other name."""

    def __init__(self, datasources: Iterable[tuple[str, Datasource]]) -> None:
        """Take pairs of an origin (`NAME VERSION` of a distribution, or the path of a file) and a datasource."""
        found: dict[str, tuple[str, Datasource]] = {}
        for origin, datasource in datasources:
            name = datasource.name
            if name in found:
                raise ConfigurationError(
                    f"{origin}: the datasource {name} is registered by {found[name][0]} already; remove one of the two"
                )
            found[name] = (origin, datasource)
        self._origins = {name: origin for name, (origin, _) in found.items()}
        self._generic = Generic()
        self.known: Mapping[str, Datasource] = MappingProxyType({name: found[name][1] for name in sorted(found)})
        """The datasources of the plugins by name, sorted."""

    def get(self, name: str) -> Datasource:
        """Return the datasource of the plugin that claims `name`, else the generic one."""
        return self.known.get(name, self._generic)

    def origin(self, name: str) -> str:
        """Return what brought the datasource `name`: `NAME VERSION` of a distribution, or the path of a file."""
        return self._origins.get(name, f"{_OWN} {__version__}")

    def bundled(self, name: str) -> bool:
        """Return whether the datasource `name` is of webhookd's own distribution."""
        return self.origin(name).partition(" ")[0] == _OWN

    def describe(self, name: str) -> dict[str, Any]:
        """Return what a tenant may know of a datasource, as `GET /wh/datasources` shows it."""
        datasource = self.get(name)
        events = [
            EventDetails(event=event, ts_field=known.ts_field, schema=known.schema is not None)
            for event, known in sorted(datasource.events.items())
        ]
        shown = DatasourceDetails(name=name, title=datasource.title, signs=datasource.signs, events=events)
        return cast("dict[str, Any]", msgspec.to_builtins(shown))


def load(plugins_dir: Path | None = None, load_plugins: Sequence[str] | None = None) -> Registry:
    """Return the registry of the installed plugins and of the one-file plugins in `plugins_dir`.

    Of the installed ones (entry point group `webhookd`) only those named in `load_plugins` are loaded, unless that is
    None. Files of `plugins_dir` are loaded in the order of their names, those that begin with `_` left out. Raises
    `ConfigurationError`, one line that names the distribution or the file at fault.
    """
    plugins = (*_installed(load_plugins), *_files(plugins_dir))
    return Registry((origin, datasource) for origin, plugin in plugins for datasource in _datasources(origin, plugin))


def _installed(load_plugins: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
    found = sorted(entry_points(group=hookspecs.PROJECT), key=lambda point: (point.name, _distribution(point)))
    unknown = sorted(set(load_plugins or ()) - {point.name for point in found})
    if unknown:
        known = ", ".join(sorted({point.name for point in found}))
        raise ConfigurationError(f"load_plugins: no installed plugin is named {', '.join(unknown)}; there are: {known}")
    for point in found:
        if load_plugins is not None and point.name not in load_plugins:
            continue
        origin = _distribution(point)
        try:
            yield origin, point.load()
        except (Exception, SystemExit) as error:
            raise ConfigurationError(
                f"{origin}: the plugin {point.name} ({point.value}) cannot be imported ({_cause(error)});"
                f" repair or uninstall it"
            ) from error


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _files(plugins_dir: Path | None) -> Iterator[tuple[str, ModuleType]]:
    if plugins_dir is None:
        return
    try:
        paths = sorted(path for path in plugins_dir.resolve().iterdir() if path.suffix == ".py" and path.name[0] != "_")
    except OSError as error:
        raise ConfigurationError(
            f"plugins_dir: {plugins_dir} cannot be read ({error.strerror}); name a readable folder"
        ) from None
    for path in paths:
        try:
            yield str(path), _import_file(path)
        except (Exception, SystemExit) as error:
            raise ConfigurationError(
                f"{path}: the plugin cannot be imported ({_cause(error)}); repair or remove it"
            ) from error


def _import_file(path: Path) -> ModuleType:
    name = f"webhookd_plugin_{path.stem}"
    loader = SourceFileLoader(name, str(path))
    spec = ModuleSpec(name, loader, origin=str(path))
    spec.has_location = True
    module = module_from_spec(spec)
    # Dataclasses look their module up while it is executed.
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _datasources(origin: str, plugin: Any) -> list[Datasource]:
    """Ask one plugin for its datasources, in a manager of its own, so that every fault is known to be its."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, origin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise ConfigurationError(
            f"{origin}: a hook is not one that webhookd calls ({_cause(error)}); the one hook is register_datasources()"
        ) from None
    if not manager.hook.register_datasources.get_hookimpls():
        raise ConfigurationError(
            f"{origin}: the plugin {getattr(plugin, '__name__', plugin)} has no hook;"
            " define register_datasources() and mark it with @webhookd.hookimpl"
        )
    try:
        answers = manager.hook.register_datasources()
        # pluggy leaves out an answer that is None: a forgotten `return`.
        datasources = [datasource for answer in answers or [None] for datasource in answer]
    except Exception as error:
        raise ConfigurationError(
            f"{origin}: register_datasources() failed ({_cause(error)}); it must return a list of datasources"
        ) from error
    for datasource in datasources:
        for fault in contract_faults(datasource):
            raise ConfigurationError(f"{origin}: {fault}")
    return datasources


def contract_faults(datasource: Any) -> Iterator[str]:
    """Say what about a datasource breaks the contract of `Datasource`, and what would not; what comes first matters."""
    if isinstance(datasource, type):
        yield f"register_datasources() returned the class {datasource.__name__}; return an instance"
    if not isinstance(datasource, Datasource):
        yield f"register_datasources() returned {_cause(datasource)}; return instances of webhookd.Datasource"
    kind, name, title = type(datasource), datasource.name, datasource.title
    if not isinstance(name, str) or not NAME.fullmatch(name):
        yield f"{kind.__name__}.name is {_cause(name)}; it must match {NAME.pattern}"
    if not isinstance(title, str) or not title.isprintable() or not 0 < len(title) <= _MAX_TITLE:
        yield f"{kind.__name__}.title is {_cause(title)}; it must be one line of 1 to {_MAX_TITLE} characters"
    if kind.verify is not Datasource.verify:
        yield f"{kind.__name__} overrides verify(); override verify_signature() instead"
    if datasource.signs is not (kind.verify_signature is not Datasource.verify_signature):
        yield f"{kind.__name__} must have both signs = True and a verify_signature() of its own, or neither"
    yield from (f"{kind.__name__}.{fault}" for fault in _member_faults(datasource))
    if not isinstance(datasource.handshakes, frozenset | set):
        yield f"{kind.__name__}.handshakes is {_cause(datasource.handshakes)}; it must be a set of event names"
    if not isinstance(datasource.events, Mapping):
        yield f"{kind.__name__}.events is {_cause(datasource.events)}; it must map event names to webhookd.EventType"
    for event, known in datasource.events.items():
        yield from (f"{kind.__name__}.events[{_cause(event)}] {fault}" for fault in _event_faults(event, known))
    yield from (f"{kind.__name__}.advice {fault}" for fault in _advice_faults(datasource.advice))


def _member_faults(datasource: Datasource) -> Iterator[str]:
    """Say which methods cannot be called as they will be, and which names are nearly some that would be asked for."""
    asked = {name for name in vars(Datasource) if name[0] != "_"}
    own = {name: getattr(datasource, name) for kind in _own_kinds(datasource) for name in vars(kind) if name[0] != "_"}
    for name, value in own.items():
        if name not in asked and (near := get_close_matches(name, asked, n=1, cutoff=_NEARLY)):
            yield f"{name} is nothing that webhookd asks for; is {near[0]} meant? Else begin it with _"
        model = getattr(Datasource, name, None)
        if name not in asked or not callable(model):
            continue
        if not callable(value) or inspect.iscoroutinefunction(value):
            yield f"{name} must be a plain method, which is not async"
            continue
        wanted = list(inspect.signature(model).parameters)[1:]
        try:
            inspect.signature(value).bind(*wanted)
        except TypeError as error:
            yield f"{name}() cannot be called with ({', '.join(wanted)}): {error}"


def _own_kinds(datasource: Datasource) -> tuple[type, ...]:
    kinds = type(datasource).__mro__
    return kinds[: kinds.index(Datasource)]


def _advice_faults(advice: Any) -> Iterator[str]:
    if not isinstance(advice, Mapping):
        yield f"is {_cause(advice)}; it must map reasons of refusals to sentences"
        return
    for reason, text in advice.items():
        if reason not in REMEDIES:
            yield f"has {_cause(reason)}, which is no reason of a refusal; there are: {', '.join(sorted(REMEDIES))}"
        if not isinstance(text, str) or not text.isprintable() or not text:
            yield f"has {_cause(text)} for {_cause(reason)}; it must be a sentence on one line"


def _event_faults(event: Any, known: Any) -> Iterator[str]:
    if not isinstance(event, str) or not EVENT_NAME.fullmatch(event):
        yield f"has a bad name; it must match {EVENT_NAME.pattern}"
    if not isinstance(known, EventType):
        yield f"is {_cause(known)}; it must be a webhookd.EventType"
    if not isinstance(known.schema, Mapping | None):
        yield f"has the schema {_cause(known.schema)}; it must be a JSON object"
    try:
        if known.ts_field is not None:
            tsfield.parse(known.ts_field)
    except (ValueError, TypeError) as error:
        yield f"has the ts_field {_cause(known.ts_field)}; {error}"


def _cause(value: Any) -> str:
    """Return an error as `Type: text`, anything else as its repr, on one line and not too long."""
    text = f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= _MAX_CAUSE else f"{text[: _MAX_CAUSE - 1]}…"
