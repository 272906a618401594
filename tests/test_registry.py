"""What is wrong with a plugin stops the start, in one line that names whose it is and what to do."""

import json
import subprocess
import sys
import textwrap

import pytest

from webhookd import __version__
from webhookd.errors import ConfigurationError
from webhookd.generic import Generic
from webhookd.registry import load

GOOD = """
    import webhookd

    class Mill(webhookd.Datasource):
        name = "mill"
        title = "The mill"
        events = {"ground": webhookd.EventType("at"), "a:b.c": webhookd.EventType(schema={})}

    @webhookd.hookimpl
    def register_datasources():
        return [Mill()]
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution with one plugin on the path, as pip would lay it out."""

    def install(code: str, name: str = "webhookd-mill", point: str = "mill", module: str = "") -> str:
        module = module or f"mill_{tmp_path.name.replace('-', '_')}_{point}"
        site = tmp_path / "site"
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[webhookd]\n{point} = {module}\n")
        (site / f"{module}.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(str(site))
        return module

    yield install
    for module in [name for name in sys.modules if name.startswith("mill_")]:
        del sys.modules[module]


@pytest.fixture
def folder(tmp_path):
    plugins_dir = tmp_path / "plugins"
    plugins_dir.mkdir()
    return plugins_dir


def put(folder, name: str, code: str = GOOD) -> None:
    (folder / name).write_text(textwrap.dedent(code))


# --- what is found ---------------------------------------------------------------------------------------------------


def test_the_shipped_datasources_are_found_like_any_other():
    registry = load()
    assert list(registry.known) == ["circleci", "dockerhub", "github"]
    for name in registry.known:
        assert registry.origin(name) == f"webhookd {__version__}"
        assert registry.bundled(name)
        assert registry.get(name) is registry.known[name]


def test_the_core_names_no_datasource():
    """Without its entry points webhookd knows none."""
    code = (
        "import importlib.metadata as m; import webhookd.registry as r;"
        "r.entry_points = lambda group: m.EntryPoints();"
        "import sys; assert list(r.load().known) == []; assert 'webhookd.plugins' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_any_other_name_is_generic():
    registry = load()
    assert isinstance(registry.get("gitlab"), Generic)
    assert registry.get("gitlab") is registry.get("stripe")
    assert registry.origin("gitlab") == f"webhookd {__version__}"
    assert registry.describe("gitlab") == {
        "name": "gitlab",
        "title": "Any other source (Standard Webhooks)",
        "signs": True,
        "events": [],
    }


def test_a_strangers_distribution(install):
    install(GOOD)
    registry = load()
    assert list(registry.known) == ["circleci", "dockerhub", "github", "mill"]
    assert registry.origin("mill") == "webhookd-mill 1.0"
    assert not registry.bundled("mill")
    description = registry.describe("mill")
    assert description == {
        "name": "mill",
        "title": "The mill",
        "signs": False,
        "events": [
            {"event": "a:b.c", "tsField": None, "schema": True},
            {"event": "ground", "tsField": "at", "schema": False},
        ],
    }
    json.dumps(description)


def test_only_the_named_plugins_are_loaded(install):
    install("raise RuntimeError('never imported')")
    assert list(load(load_plugins=["github"]).known) == ["github"]
    assert list(load(load_plugins=[]).known) == []


def test_an_unknown_name_in_load_plugins():
    with pytest.raises(ConfigurationError) as refusal:
        load(load_plugins=["github", "gitlub", "gitlob"])
    assert str(refusal.value) == (
        "load_plugins: no installed plugin is named gitlob, gitlub; there are: circleci, dockerhub, github"
    )


def test_a_folder_of_plugins(folder):
    put(folder, "mill.py", GOOD)
    put(folder, "_shared.py", "raise RuntimeError('never imported')")
    put(folder, "notes.txt", "raise RuntimeError('never imported')")
    (folder / "__pycache__").mkdir()
    registry = load(folder, [])
    assert list(registry.known) == ["mill"]
    assert registry.origin("mill") == str(folder / "mill.py")
    assert not registry.bundled("mill")


def test_a_plugin_file_may_hold_dataclasses_and_pass_through_pickle(folder):
    put(
        folder,
        "mill-2.py",
        """
        from __future__ import annotations
        import pickle
        from dataclasses import dataclass, field
        import webhookd

        assert __file__.endswith("/mill-2.py")

        @dataclass
        class Sack:
            flour: list[int] = field(default_factory=list)

        assert pickle.loads(pickle.dumps(Sack([1]))) == Sack([1])

        class Mill(webhookd.Datasource):
            def __init__(self, name):
                self.name = self.title = name

        @webhookd.hookimpl
        def register_datasources():
            yield Mill("mill")
            yield Mill("saw")
        """,
    )
    assert list(load(folder, []).known) == ["mill", "saw"]


def test_loading_twice_gives_the_same(folder):
    put(folder, "mill.py")
    assert list(load(folder).known) == list(load(folder).known)


# --- what stops the start --------------------------------------------------------------------------------------------

WRONG = {
    "syntax": ("def (", r"cannot be imported \(SyntaxError"),
    "import": (
        "import a_module_that_is_nowhere",
        r"cannot be imported \(ModuleNotFoundError.*a_module_that_is_nowhere",
    ),
    "raises": ("raise RuntimeError('two\\nlines')", r"cannot be imported \(RuntimeError: two lines\)"),
    "exits": ("raise SystemExit(0)", r"cannot be imported \(SystemExit"),
    "no hook": ("import webhookd", "has no hook; define register_datasources"),
    "unmarked hook": ("def register_datasources(): return []", "has no hook; .*@webhookd.hookimpl"),
    "misspelt hook": (
        GOOD.replace("register_datasources", "register_datasource"),
        "a hook is not one that webhookd calls.*register_datasource.*the one hook is register_datasources",
    ),
    "another hook beside": (
        GOOD + "\n    @webhookd.hookimpl\n    def on_delivery(): pass\n",
        "a hook is not one that webhookd calls.*on_delivery",
    ),
    "an argument": (GOOD.replace("register_datasources()", "register_datasources(daemon)"), "webhookd calls.*daemon"),
    "hook raises": (GOOD.replace("return [Mill()]", "return 1 / 0"), r"failed \(ZeroDivisionError.*\); it must return"),
    "returns nothing": (GOOD.replace("return [Mill()]", "Mill()"), r"failed \(TypeError.*it must return a list"),
    "returns none": (GOOD.replace("return [Mill()]", "return 7"), r"failed \(TypeError"),
    "returns junk": (GOOD.replace("return [Mill()]", "return 'mill'"), "returned 'm'; return instances of webhookd"),
    "returns classes": (GOOD.replace("[Mill()]", "[Mill]"), "returned the class Mill; return an instance"),
    "twice": (GOOD.replace("[Mill()]", "[Mill(), Mill()]"), "the datasource mill is registered by .* already"),
    "taken": (GOOD.replace('"mill"', '"github"'), rf"the datasource github is registered by webhookd {__version__}"),
    "no name": (GOOD.replace('"mill"', '""'), "Mill.name is ''; it must match"),
    "bad name": (GOOD.replace('"mill"', '"a.mill"'), "Mill.name is 'a.mill'; it must match"),
    "name with newline": (GOOD.replace('"mill"', r'"mill\n"'), "Mill.name is"),
    "number as name": (GOOD.replace('"mill"', "7"), "Mill.name is 7"),
    "no title": (GOOD.replace('"The mill"', '""'), "Mill.title is ''; it must be one line"),
    "title of two lines": (GOOD.replace('"The mill"', r'"The\nmill"'), "Mill.title is"),
    "long title": (GOOD.replace('"The mill"', '"x" * 101'), "1 to 100 characters"),
    "events of the wrong form": (GOOD.replace('{"ground', '[] and {"ground'), r"Mill.events is \[\]; it must map"),
    "bad event": (GOOD.replace('"ground"', '"all ground"'), r"Mill.events\['all ground'\] has a bad name"),
    "event of the wrong form": (GOOD.replace('webhookd.EventType("at")', '"at"'), "is 'at'; it must be a webhookd.Ev"),
    "bad path": (GOOD.replace('"at"', '"a..b"'), r"has the ts_field 'a..b'; not a path"),
    "number as path": (GOOD.replace('"at"', "7"), "has the ts_field 7"),
    "bad schema": (GOOD.replace("schema={}", "schema=[]"), r"has the schema \[\]; it must be a JSON object"),
    "advice": (GOOD.replace("events =", "advice = 'none'; events ="), "advice is 'none'; it must map"),
    "advice for no refusal": (
        GOOD.replace("events =", "advice = {'signatur': 'x'}; events ="),
        "has 'signatur', which is no reason of a refusal; there are: bug,",
    ),
    "advice of two lines": (
        GOOD.replace("events =", "advice = {'signature': 'a\\nb'}; events ="),
        "it must be a sentence on one line",
    ),
    "handshakes": (GOOD.replace("events =", "handshakes = 'ping'; events ="), "handshakes is 'ping'; it must be a set"),
    "verify": (GOOD.replace("events =", "verify = lambda *_: None; events ="), "overrides verify"),
    "a method of another form": (
        GOOD.replace("events =", "event_type = lambda self: None; events ="),
        r"Mill.event_type\(\) cannot be called with \(delivery\): too many positional arguments",
    ),
    "a method with too many arguments": (
        GOOD.replace("events =", "delivery_id = lambda self, delivery, more: None; events ="),
        r"Mill.delivery_id\(\) cannot be called with \(delivery\): missing a required argument: 'more'",
    ),
    "no method": (GOOD.replace("events =", "event_type = None; events ="), "Mill.event_type must be a plain method"),
    "an async method": (
        GOOD.replace("events =", "exec('async def event_type(self, delivery): return None'); events ="),
        "Mill.event_type must be a plain method, which is not async",
    ),
    "a misspelt method": (
        GOOD.replace("events =", "event_typ = lambda self, delivery: None; events ="),
        "Mill.event_typ is nothing that webhookd asks for; is event_type meant",
    ),
    "a misspelt attribute": (GOOD.replace("events =", "handshake = {'ping'}; events ="), "is handshakes meant"),
    "signs": (GOOD.replace("events =", "signs = True; events ="), "both signs = True and a verify_signature"),
    "signs not": (GOOD.replace("events =", "verify_signature = lambda *_: None; events ="), "both signs = True"),
}


def one_line(refusal) -> str:
    text = str(refusal.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


@pytest.mark.parametrize("what", WRONG)
def test_a_faulty_distribution_stops_the_start(what, install):
    code, why = WRONG[what]
    install(code)
    with pytest.raises(ConfigurationError, match=why) as refusal:
        load()
    assert "webhookd-mill 1.0" in one_line(refusal)


@pytest.mark.parametrize("what", WRONG)
def test_a_faulty_file_stops_the_start(what, folder):
    code, why = WRONG[what]
    put(folder, "mill.py", code)
    with pytest.raises(ConfigurationError, match=why) as refusal:
        load(folder)
    assert str(folder / "mill.py") in one_line(refusal)


def test_two_distributions_with_one_datasource(install):
    install(GOOD)
    install(GOOD, name="webhookd-other-mill", point="other")
    with pytest.raises(ConfigurationError) as refusal:
        load()
    assert one_line(refusal) == (
        "webhookd-other-mill 1.0: the datasource mill is registered by webhookd-mill 1.0 already; remove one of the two"
    )


def test_an_entry_point_that_leads_nowhere(install):
    install("", module="mill_gone.nothing")
    with pytest.raises(
        ConfigurationError, match=r"^webhookd-mill 1.0: the plugin mill \(mill_gone.nothing\) cannot be"
    ):
        load()


def test_a_file_that_failed_is_not_left_behind(folder):
    put(folder, "mill.py", "raise RuntimeError")
    with pytest.raises(ConfigurationError):
        load(folder)
    assert "webhookd_plugin_mill" not in sys.modules


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_folder_that_is_none(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=rf"plugins_dir: {tmp_path / name} cannot be read .*; name a readable"):
        load(tmp_path / name)
