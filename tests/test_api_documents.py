"""The descriptions of the API and of the messages: valid by their standards, and true of the daemon that serves them."""

import json
import re
from pathlib import Path

import jsonschema
import jsonschema_rs
import pytest
from far_side import FarSide
from harness import Daemon, request
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from webhookd import config, errors
from webhookd.asyncapi import asyncapi
from webhookd.errors import Rejected
from webhookd.hook_fields import FIELDS
from webhookd.hooks import HookTable
from webhookd.http_api import tenant_api
from webhookd.http_delivery import HOOK_METHODS
from webhookd.http_openapi import openapi
from webhookd.http_operations import PATHS
from webhookd.records import Records
from webhookd.registry import load
from webhookd.replay import Replayer
from webhookd.schema import Schemas
from webhookd.settings import Settings

ASYNCAPI_3 = Path(__file__).parent / "asyncapi" / "3.0.0.json"
"""The official schema of AsyncAPI 3.0.0, of the npm package @asyncapi/specs 6.11.1 (Apache-2.0, beside it)."""
ADDRESS = "/wh/{apiToken}/{token}"


def leaves(kind):
    """Yield every refusal there is but those of the console, which may be imported too."""
    for one in kind.__subclasses__():
        if one.__module__ == errors.__name__:
            yield one
        yield from leaves(one)


# --- valid -----------------------------------------------------------------------------------------------------------


def test_openapi_is_valid():
    validate(openapi("https://hooks.example", 1024), cls=OpenAPIV31SpecValidator)


@pytest.mark.parametrize("exchange", [None, "events-to-enrich"])
def test_asyncapi_is_valid(exchange):
    document = json.loads(json.dumps(asyncapi(load().known, exchange)))
    validator = jsonschema.Draft7Validator(json.loads(ASYNCAPI_3.read_text()))
    assert [error.message for error in validator.iter_errors(document)] == []
    assert not validator.is_valid({**document, "channels": {"events": {"address": 1}}})


def test_the_schemas_of_events_hold_where_they_stand():
    datasources = load().known
    document = asyncapi(datasources, None)
    messages = {name: one for name, one in document["components"]["messages"].items() if name != "any"}
    assert len(messages) == sum(
        known.schema is not None for one in datasources.values() for known in one.events.values()
    )
    for name in messages:
        datasource, _, event = name.partition(".")
        place = {"$ref": f"#/components/messages/{name}/payload/schema", **document}
        validator = jsonschema.Draft202012Validator(place)
        assert validator.is_valid(datasources[datasource].events[event].schema["examples"][0])
        assert not validator.is_valid([])
    repository = document["components"]["messages"]["github.push"]["payload"]["schema"]["properties"]["repository"]
    assert repository["$ref"] == "#/components/messages/github.push/payload/schema/$defs/repository"


# --- complete --------------------------------------------------------------------------------------------------------


def test_every_route_is_described_and_no_other():
    registry = load()
    records = Records(HookTable(), registry, per_hook=1, max_bytes=1)
    app = tenant_api(Settings(), None, Replayer(records, None), registry, Schemas(registry))
    served = {
        re.sub(r"\(\[\^/\]\+\)", "{}", rule.matcher.regex.pattern.removesuffix("$")).replace("\\", ""): set(
            rule.target.ALLOW
        )
        for rule in app.wildcard_router.rules
    }
    described = {
        re.sub(r"\{\w+\}", "{}", path): set(operations) for path, operations in PATHS.items() if path != ADDRESS
    }
    assert described == served
    assert set(PATHS[ADDRESS]) == set(HOOK_METHODS)


def test_every_refusal_is_described():
    described = {
        one for operations in PATHS.values() for operation in operations.values() for one in operation.refusals
    }
    told = {one for one in leaves(Rejected) if "title" in vars(one) and one.__module__ == errors.__name__}
    assert described == told - {errors.MethodNotAllowed}


def test_operations_have_names_of_their_own():
    names = [operation.name for operations in PATHS.values() for operation in operations.values()]
    assert len(names) == len(set(names))
    links = {name for operations in PATHS.values() for operation in operations.values() for name in operation.links}
    assert links <= set(names)


def test_every_parameter_of_a_path_is_described():
    for path, operations in PATHS.items():
        for operation in operations.values():
            named = [parameter.name for parameter in operation.parameters if parameter.where == "path"]
            assert named == re.findall(r"\{(\w+)\}", path), operation.name


# --- true ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/wh/openapi.json", "/wh/asyncapi.json"])
def test_documents_are_for_everybody(shared_daemon, path):
    answer = request(shared_daemon.port, "GET", path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    refused = request(shared_daemon.port, "POST", path, b"{}")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET")


def test_documents_tell_the_settings(shared_daemon):
    document = request(shared_daemon.port, "GET", "/wh/openapi.json").json
    assert document["servers"] == [{"url": "/"}]
    assert str(25 * 1024**2) in document["components"]["schemas"]["Delivery"]["description"]
    assert openapi("https://hooks.example/", 1)["servers"] == [{"url": "https://hooks.example"}]
    messages = request(shared_daemon.port, "GET", "/wh/asyncapi.json").json
    assert "bindings" not in messages["channels"]["events"]  # the spool is the event log
    assert asyncapi({}, "mine")["channels"]["events"]["bindings"]["amqp"]["exchange"]["name"] == "mine"


def test_answers_have_no_member_that_is_not_described(shared_daemon):
    schemas = openapi(None, 1)["components"]["schemas"]
    hook = shared_daemon.hook("github", "push", tsField="a.b")
    assert set(hook) == set(schemas["HookDetails"]["properties"]) - {
        "previousToken",
        "previousHookUrl",
        "previousUntil",
    }
    rotated = shared_daemon.config("POST", f"/wh/config/{hook['token']}/rotate").json
    shared_daemon.canaries.add(rotated["token"])
    assert set(rotated) == set(schemas["HookDetails"]["properties"])
    (github,) = [one for one in shared_daemon.config("GET", "/wh/datasources").json if one["name"] == "github"]
    assert set(github) == set(schemas["DatasourceDetails"]["properties"])
    assert set(github["events"][0]) == set(schemas["EventDetails"]["properties"])


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *[("datasource", text) for text in ("github", "a" * 64, "", "a" * 65, "a b", "a\n")],
        *[("event", text) for text in ("push", "a.b:c", "a" * 100, "", "a" * 101, "é")],
        *[("tsField", text) for text in ("", "a.b[0].c", "[0]", "a" * 256, "a..b", "a[x]", "a" * 257, "a\u0085b")],
        *[("secret", text) for text in ("", "x" * 8, "ü" * 256, "x" * 7, "x" * 257, "tab\tinside it")],
        *[("validation", text) for text in ("off", "enforce", "", "OFF")],
        *[("onMismatch", text) for text in ("reject", "", "drop")],
    ],
)
def test_fields_are_described_as_they_are_checked(field, text):
    schema = openapi(None, 1)["components"]["schemas"]["HookRequest"]
    body = {"datasource": "a", "event": "b", field: text}
    # patterns are ECMA's: Python's `$` would let a newline pass
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(body) == (FIELDS[field].fault(text) is None)


def test_a_host_that_is_taken_fits_its_description():
    (origin,) = PATHS["/wh/config"]["POST"].parameters
    for host in ("a.example", "127.0.0.1:80", "[::1]:8443", "x-1.example:65535"):
        assert config.parse_host(host) is not None
        assert re.search(origin.schema["pattern"], host)
    for host in ("", "a b", "a/b", "a.example:123456"):
        assert config.parse_host(host) is None
        assert not re.search(origin.schema["pattern"], host)


def test_messages_are_as_described(daemon):
    document = request(daemon.port, "GET", "/wh/asyncapi.json").json
    hook = daemon.hook("github", "issues", validation="report", tsField="a.b")
    sender = {"X-GitHub-Event": "issues", "X-GitHub-Delivery": "d-1"}
    assert daemon.deliver(hook, b'{"of": "no schema at all"}', sender).status == 204
    (message,) = daemon.messages()
    schema = document["components"]["schemas"]["headers"]
    assert set(message["headers"]) == set(schema["properties"]) - {
        "traceparent",
        "replayOf",
    }  # neither traced nor a replay
    jsonschema.validate(message["headers"], schema)
    known = document["components"]["messages"]["github.issues"]["payload"]
    assert known["schema"]["$schema"].endswith("2020-12/schema")


@pytest.mark.gen_test(timeout=60)
async def test_messages_in_rabbitmq_are_as_described(tmp_path, vhost):
    with Daemon(tmp_path, broker=vhost) as daemon:
        document = request(daemon.port, "GET", "/wh/asyncapi.json").json
        hook = daemon.hook("github", "issues", tsField="a.b")
        async with FarSide(vhost) as far:
            await far.bind()
            sent = daemon.deliver(hook, b"{}", {"X-GitHub-Event": "issues", "X-GitHub-Delivery": "d-1"})
            (message,) = await far.take()
    channel = document["channels"]["events"]
    assert (channel["bindings"]["amqp"]["exchange"]["name"], sent.status) == (message.exchange, 204)
    pattern = re.sub(r"\\{\w+\\}", "([^.]+)", re.escape(channel["address"]))
    assert re.fullmatch(pattern, message.routing_key).groups() == ("42", "github", "issues")
    schemas = document["components"]["schemas"]
    jsonschema.validate(message.headers, schemas["headers"])
    # aio-pika calls `type` otherwise, and makes up what is not there: empty or 0
    properties = {
        {"message_type": "type"}.get(name, name): value
        for name, value in message.properties
        if value and name != "headers"
    }
    properties["timestamp"] = int(properties["timestamp"].timestamp())
    assert set(properties) == set(schemas["properties"]["properties"])
    jsonschema.validate(properties, schemas["properties"])
    assert properties["message_id"] == sent.headers["X-Webhookd-Receipt"]
