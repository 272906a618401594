"""Schemas are checked before they are used, and two validators agree about every body."""

import copy
import json
import random
import socket
import subprocess
import sys
import threading
import time
from types import MappingProxyType

import jsonschema
import jsonschema_rs
import pytest
from recorded import RECORDED
from referencing import Registry as NoSchemas

from webhookd import Datasource, EventType, load_schema
from webhookd.errors import ConfigurationError
from webhookd.registry import Registry, load
from webhookd.schema import MAX_LISTED_VALUES, MAX_TEXT, Schemas, _retrieve_nothing, compiled

REGISTRY = load()
SHIPPED = [
    (name, event) for name, datasource in REGISTRY.known.items() for event, e in datasource.events.items() if e.schema
]


def schemas_of(schema, origin="webhookd-mill 1.0") -> Schemas:
    class Mill(Datasource):
        name = "mill"
        title = "Mill"
        events = MappingProxyType({"ground": EventType(schema=schema)})

    return Schemas(Registry([(origin, Mill())]))


def faults(schema, body: bytes | str, **options):
    text = body if isinstance(body, bytes) else body.encode()
    return [(f.pointer, f.message) for f in schemas_of(schema).faults("mill", "ground", text, **options)]


# --- the schemas themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("datasource", "event"), SHIPPED)
def test_a_shipped_schema_is_one_for_jsonschema_too(datasource, event):
    schema = load_schema(datasource, event)
    jsonschema.Draft202012Validator.check_schema(schema)
    compiled(schema, trusted=False)
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    assert REGISTRY.known[datasource].events[event].schema == schema


def test_the_events_that_must_have_a_schema():
    github = (
        "push pull_request issues issue_comment release create delete workflow_run check_run deployment_status ping"
    )
    expected = {("github", event) for event in github.split()}
    expected |= {("circleci", "workflow-completed"), ("circleci", "job-completed"), ("dockerhub", "push")}
    assert expected <= set(SHIPPED)
    schemas = Schemas(REGISTRY)
    assert all(schemas.has(*key) for key in SHIPPED)
    assert not schemas.has("github", "star")
    assert not schemas.has("gitlab", "push")


def test_there_is_no_schema_to_load_for_other_events():
    with pytest.raises(FileNotFoundError):
        load_schema("github", "teleport")


@pytest.mark.parametrize(("datasource", "event"), SHIPPED)
def test_a_shipped_schema_is_open(datasource, event):
    """Senders add members whenever they like."""
    schema = load_schema(datasource, event)
    assert "additionalProperties" not in json.dumps(schema)
    assert "unevaluatedProperties" not in json.dumps(schema)
    body = json.dumps(_with_news(schema["examples"][0])).encode()
    assert Schemas(REGISTRY).faults(datasource, event, body) == ()


def _with_news(value):
    if isinstance(value, dict):
        return {**{name: _with_news(member) for name, member in value.items()}, "brand_new": [{"x": None}]}
    return [_with_news(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("datasource", "event"), SHIPPED)
def test_a_shipped_schema_says_something(datasource, event):
    """Every member that it requires is missed, and `{}` fits no event."""
    schema = load_schema(datasource, event)
    schemas = Schemas(REGISTRY)
    for name in schema.get("required", ()):
        body = {key: value for key, value in schema["examples"][0].items() if key != name}
        assert schemas.faults(datasource, event, json.dumps(body).encode())
        body[name] = [["not", "this"]]
        assert schemas.faults(datasource, event, json.dumps(body).encode())
    assert schemas.faults(datasource, event, b"{}")
    assert schemas.faults(datasource, event, b"[]")


def _circular():
    schema = {}
    schema["not"] = schema
    return schema


REFUSED = {
    "not a type": ({"type": "thing"}, "'thing'"),
    "a type that is no text": ({"properties": {"a": {"type": 7}}}, "properties.a"),
    "a pattern that is none": ({"pattern": "("}, "regex"),
    "a pattern that can explode": ({"items": {"pattern": "(?=a)b"}}, r"\"regex\" at /items/pattern; mend or remove it"),
    "a remote $ref": ({"$ref": "http://127.0.0.1/x"}, r'\$ref "http://127.0.0.1/x" is not local'),
    "a file": ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "is not local"),
    "a relative $ref": ({"$id": "http://a.example/", "$ref": "b"}, "is not local"),
    "a remote $dynamicRef": ({"items": [{"$dynamicRef": "http://127.0.0.1/x#a"}]}, "is not local"),
    "a $ref to nothing": ({"$ref": "#/$defs/a"}, "does not exist"),
    "another dialect": ({"$schema": "http://json-schema.org/draft-07/schema#"}, "is not .*2020-12"),
    "another dialect inside": ({"$defs": {"a": {"$id": "x", "$schema": "http://127.0.0.1/x"}}}, "is not .*2020-12"),
    "too large": ({"description": "x" * 65_536}, "at most 65536"),
    "too deep": ({"$defs": json.loads('{"a":{"not":' * 40 + "{}" + "}}" * 40)}, "64 levels"),
    "circular": (_circular, "not a JSON object"),
    "no JSON": ({"const": object()}, "not a JSON object"),
    "NaN": ({"const": float("nan")}, "not a JSON object"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_schema_stops_the_start(what):
    schema, why = REFUSED[what]
    with pytest.raises(ConfigurationError, match=why) as refusal:
        schemas_of(schema() if callable(schema) else schema)
    text = str(refusal.value)
    assert text.startswith("webhookd-mill 1.0: the schema of mill ground is refused: ")
    assert "\n" not in text
    assert len(text) < 400


def test_what_has_been_checked_elsewhere_is_not_checked_by_jsonschema_again(monkeypatch):
    class Seen(Exception):
        pass

    def check_schema(_):
        raise Seen

    monkeypatch.setattr(jsonschema.Draft202012Validator, "check_schema", check_schema)

    class Mill(Datasource):
        name = title = "mill"
        events = MappingProxyType({"ground": EventType(schema={})})

    registry = Registry([("webhookd-mill 1.0", Mill())])
    assert Schemas(registry, checked=True).has("mill", "ground")
    with pytest.raises(Seen):
        Schemas(registry)


@pytest.mark.parametrize("what", sorted(set(REFUSED) - {"no JSON", "NaN", "circular"}))
def test_what_webhookd_ships_is_held_to_the_same(what):
    schema, _ = REFUSED[what]
    with pytest.raises(ConfigurationError):
        schemas_of(schema, origin="webhookd 0.1.0")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$schema": "https://json-schema.org/draft/2020-12/schema#"},
        {"$defs": {"a": {"$anchor": "here", "type": "string"}}, "$ref": "#here"},
        {"properties": {"$ref": {"type": "string"}, "$schema": True}},
        MappingProxyType({"type": "object"}),
    ],
)
def test_good_schemas_of_strangers(schema):
    assert faults(schema, "{}") == [] or "$anchor" in str(schema)


def test_nothing_is_ever_fetched():
    """A listener hears nothing, whatever a schema names and wherever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/schema"
        for schema in ({"$ref": url}, {"$dynamicRef": url}, {"$schema": url}, {"$id": url, "$ref": "other"}):
            with pytest.raises(ConfigurationError):
                schemas_of(schema)
        for schema in ({"$id": url, "type": "object"}, {"$id": url, "$vocabulary": {url: True}}):
            assert faults(schema, "{}") == []
        # The second line of defence, should one get past the first.
        with pytest.raises(jsonschema_rs.ValidationError, match="outside the schema"):
            jsonschema_rs.Draft202012Validator({"$ref": url}, retriever=_retrieve_nothing)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_only_the_schemas_of_strangers_cost_an_import_of_jsonschema():
    """Checking the shipped ones so takes longer than everything else at start: test_a_shipped_schema does it instead."""
    code = (
        "import sys, webhookd, webhookd.registry, webhookd.schema;"
        "assert not {'jsonschema', 'jsonschema_rs'} & set(sys.modules), 'not at import';"
        "webhookd.schema.Schemas(webhookd.registry.load());"
        "assert 'jsonschema_rs' in sys.modules and 'jsonschema' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


# --- bodies ----------------------------------------------------------------------------------------------------------


def test_faults_are_pointers_and_messages():
    schema = {
        "required": ["a"],
        "properties": {"b/c~d": {"items": {"type": "string"}}, "e": {"enum": ["x"]}, "f": {"maximum": 3}},
    }
    body = {"b/c~d": ["x", 1, "y", None], "e": "secret-of-the-body", "f": 4}
    found = dict(faults(schema, json.dumps(body)))
    assert set(found) == {"", "/b~1c~0d/1", "/b~1c~0d/3", "/e", "/f"}
    assert found[""] == '"a" is a required property'
    assert found["/b~1c~0d/1"] == 'the value is not of type "string"'
    assert "secret-of-the-body" not in str(found)


def test_a_body_that_fits_and_an_event_without_schema_have_no_faults():
    assert faults({"type": "object"}, "{}") == []
    schemas = schemas_of({"type": "object"})
    assert schemas.faults("mill", "broken", b"[]") == ()
    assert schemas.faults("other", "ground", b"[]") == ()


@pytest.mark.parametrize("at_most", [1, 3, 10])
def test_at_most_so_many_faults(at_most):
    assert len(faults({"items": {"type": "string"}}, json.dumps([1] * 50), at_most=at_most)) == at_most


def test_ten_faults_if_nobody_says_otherwise():
    assert len(faults({"items": {"type": "string"}}, json.dumps([1] * 50))) == 10


def test_messages_and_pointers_are_short():
    schema = {"properties": {"a": {"enum": ["x" * 1000]}}, "additionalProperties": {"type": "null"}}
    found = faults(schema, json.dumps({"a": 1, "k" * 5000: 1}))
    assert len(found) == 2
    assert all(len(text) <= MAX_TEXT for pair in found for text in pair)
    assert any(pointer.endswith("k\u2026") for pointer, _ in found)


@pytest.mark.parametrize(
    "body",
    [
        b"[1e400]",
        b"[-1e99999]",
        b"[1" + b"0" * 5000 + b"]",
        b"[" * 200_000 + b"]" * 200_000,
        b"[1,",
        b"",
        b"\xff",
        b'["\xff"]',
        b'["\\ud800"]',
        b"[NaN]",
    ],
)
def test_what_cannot_be_held_is_a_fault(body):
    (fault,) = faults({"type": "array"}, body)
    assert fault[0] == ""
    assert fault[1].startswith("cannot be checked: ")
    assert "\n" not in fault[1]


@pytest.mark.parametrize("levels", [100, 512, 900])
def test_deep_bodies_are_checked_or_a_fault(levels):
    body = "[" * levels + "]" * levels
    assert faults({"type": "array"}, body) == []
    assert [pointer for pointer, _ in faults({"type": "object"}, body)] == [""]
    assert faults({"items": {"$ref": "#"}}, body) in ([], [("", "cannot be checked: Recursion limit reached")])


@pytest.mark.parametrize(
    "body", ["[1e308]", "[1" + "0" * 400 + "]", "[0.1e-400]", "[-0]", '{"a":1,"a":2}', "[" * 100 + "]" * 100]
)
def test_what_can_be_held_is_none(body):
    assert faults({"type": ["array", "object"]}, body) == []


def test_numbers_have_the_types_of_the_specification():
    """A float without a fraction is an integer (draft 2020-12, 6.1.1), as Docker Hub's old times are."""
    assert faults({"items": {"type": "integer"}}, "[1.417566161e+09, 1.0, 123456789012345678901234567890]") == []
    assert faults({"items": {"type": "integer"}}, "[1.5]") != []


def test_a_hostile_body_does_not_hold_the_loop():
    """Without the bound 130,000 faults are made before ten are listed: seconds. A body of 256 KiB is checked in place."""
    schema = {"items": {"type": "string"}, "required": ["a"]}
    for items in (MAX_LISTED_VALUES - 10, MAX_LISTED_VALUES + 10, 131_000):
        start = time.perf_counter()
        found = faults(schema, b"[" + b"1," * items + b"1]")
        assert time.perf_counter() - start < 1
        assert len(found) == (10 if items < MAX_LISTED_VALUES else 1)


def test_a_pattern_cannot_explode():
    start = time.perf_counter()
    assert faults({"items": {"pattern": "^(a+)+$"}}, json.dumps(["a" * 40 + "!"]))
    assert time.perf_counter() - start < 1


def test_a_check_may_run_in_several_threads():
    schemas = Schemas(REGISTRY)
    body = json.dumps(load_schema("github", "push")["examples"][0]).encode()
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append({schemas.faults("github", "push", body) for _ in range(50)}))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{()}] * 4


# --- jsonschema and jsonschema_rs agree ------------------------------------------------------------------------------

FITTING = [
    (r.datasource, e, json.loads(r.delivery.body))
    for r in RECORDED
    if r.delivery.body.startswith(b"{")
    for e in [r.notes.get("event", r.name.partition(".")[0])]
    if (r.datasource, e) in SHIPPED
]
ODD = [None, True, 0, -1, 1.5, 1e300, 10**30, "", "text", "0" * 300, [], {}, [None], {"id": "x"}, 1.0, -0.0, "\x00"]


def _mutated(document, chance: random.Random):
    """Change one place of a copy of `document`: drop it, replace it, repeat it, or rename its key."""
    changed = copy.deepcopy(document)
    places = list(_places(changed))
    if not places:
        return changed
    container, key = chance.choice(places)
    kind = chance.choice(["drop", "replace", "replace", "wrap", "rename"])
    if kind == "drop":
        del container[key]
    elif kind == "replace":
        container[key] = copy.deepcopy(chance.choice(ODD))
    elif kind == "wrap":
        container[key] = [container[key]]
    elif isinstance(container, dict):
        container[key.swapcase()] = container.pop(key)
    return changed


def _places(value):
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


@pytest.mark.parametrize(("datasource", "event"), SHIPPED)
def test_both_validators_agree(datasource, event):
    schema = load_schema(datasource, event)
    reference = jsonschema.Draft202012Validator(schema, registry=NoSchemas())
    schemas = Schemas(REGISTRY)
    chance = random.Random(f"{datasource} {event}")
    documents = [document for d, e, document in FITTING if (d, e) == (datasource, event)]
    assert documents
    documents += [_mutated(chance.choice(documents), chance) for _ in range(60)]
    documents += [_mutated(_mutated(chance.choice(documents), chance), chance) for _ in range(20)]
    verdicts = set()
    for document in documents:
        expected = {"".join(f"/{step}" for step in error.absolute_path) for error in reference.iter_errors(document)}
        found = schemas.faults(datasource, event, json.dumps(document).encode(), at_most=1000)
        assert {fault.pointer for fault in found} == expected, document
        verdicts.add(bool(found))
    assert verdicts == {True, False}
