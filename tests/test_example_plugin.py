"""A stranger's plugin works: the tutorial as it is read, and the example distribution, installed and serving."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from documents import BLOCK, shell
from harness import WEBHOOKD, Daemon, free_port

from webhookd import Datasource, hmac_sha256
from webhookd.errors import ConfigurationError
from webhookd.registry import Registry, load
from webhookd.schema import Schemas
from webhookd.testing import check_datasource

DOCS = Path(__file__).parents[1] / "docs"
TUTORIAL = (DOCS / "writing-a-plugin.md").read_text()
EXAMPLE = DOCS / "example-plugin"
SECRET = "a secret shared with Gitea"
PUSH = {"ref": "refs/heads/main", "after": "c0ffee", "repository": {"full_name": "a/b", "updated_at": "2024-06-01"}}


def run(*command: str, cwd: Path, **environ: str) -> str:
    """Run a command and return what it printed on standard output."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WEBHOOKD_")}
    done = subprocess.run(
        command, cwd=cwd, env={**clean, **environ}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def signed(body: bytes, event: str = "push") -> Mapping[str, str]:
    return {"X-Gitea-Event": event, "X-Gitea-Delivery": "d-1", "X-Gitea-Signature": hmac_sha256(SECRET, body).hex()}


# --- the distribution ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build and install docs/example-plugin with the build tools of this environment: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("gitea")
    shutil.copytree(EXAMPLE, folder / "source")
    flags = ["--quiet", "--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "install", *flags, "--target", "site", "./source", cwd=folder)
    return folder / "site"


@pytest.fixture(scope="module")
def serving(site, tmp_path_factory):
    with Daemon(tmp_path_factory.mktemp("serving"), environ={"PYTHONPATH": str(site)}) as daemon:
        yield daemon


def test_its_own_tests_pass(site):
    tests = site.parent / "source" / "tests"
    output = run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), cwd=tests, PYTHONPATH=str(site)
    )
    assert "1 passed" in output


def test_the_real_registry_finds_it(site):
    shown = json.loads(run(WEBHOOKD, "plugins", "show", "gitea", "--json", cwd=site.parent, PYTHONPATH=str(site)))
    assert shown["origin"] == "webhookd-gitea 1.0"
    assert shown["signs"] is True
    assert shown["events"] == [
        {"event": "push", "tsField": "repository.updated_at", "schema": True},
        {"event": "release", "tsField": "release.published_at", "schema": False},
    ]
    assert "gitea" in run(WEBHOOKD, "plugins", "list", cwd=site.parent, PYTHONPATH=str(site))
    assert "gitea" not in run(WEBHOOKD, "plugins", "list", cwd=site.parent)


def test_it_is_not_loaded_when_others_are_named(site):
    listed = run(WEBHOOKD, "plugins", "list", "--json", "--load-plugins=github", cwd=site.parent, PYTHONPATH=str(site))
    assert [json.loads(line)["name"] for line in listed.splitlines()] == ["github"]


def test_it_serves(serving):
    known = {datasource["name"] for datasource in serving.config("GET", "/wh/datasources").json}
    assert known == {"circleci", "dockerhub", "gitea", "github"}
    hook = serving.hook("gitea", "push", secret=SECRET, validation="enforce")
    assert hook["tsField"] == "repository.updated_at"
    body = json.dumps(PUSH).encode()
    answer = serving.deliver(hook, body, signed(body))
    assert answer.status == 204
    (message,) = [m for m in serving.messages() if m["receipt"] == answer.headers["X-Webhookd-Receipt"]]
    assert message["headers"]["providerEvent"] == "push"
    assert message["headers"]["deliveryId"] == "d-1"
    assert message["headers"]["tsField"] == "repository.updated_at"
    assert serving.deliver(hook, body + b" ", signed(body)).status == 401
    assert serving.deliver(hook, body).status == 401
    misfit = json.dumps({**PUSH, "after": None, "repository": {}}).encode()
    answer = serving.deliver(hook, misfit, signed(misfit))
    assert answer.status == 422
    assert {error["pointer"] for error in answer.json["errors"]} == {"/after", "/repository"}


def test_it_serves_large_bodies(serving):
    """What examines them is a process of its own, which loads the same plugins."""
    hook = serving.hook("gitea", "push", tenant="large", secret=SECRET, validation="enforce")
    for after, status in (("x" * 1_000_000, 204), (["x" * 1_000_000], 422)):
        body = json.dumps({**PUSH, "after": after}).encode()
        assert serving.deliver(hook, body, signed(body)).status == status


def test_send_signs_its_sample(serving, site):
    hook = serving.hook("gitea", "push", tenant="send", secret=SECRET, onMismatch="reject")
    environ = {"PYTHONPATH": str(site)}
    url = f"http://127.0.0.1:{serving.port}{hook['hookUrl'][hook['hookUrl'].index('/wh/') :]}"
    done = serving.run("send", "gitea", "push", url, "--secret", SECRET, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert serving.run("send", "gitea", "push", url, "--secret", "another secret", **environ).returncode == 1


# --- the tutorial ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lesson(tmp_path_factory) -> Path:
    """Write the files of the tutorial and run its commands in one shell, in the order in which they are read."""
    folder = tmp_path_factory.mktemp("lesson")
    steps = []
    for _, language, name, text in BLOCK.findall(TUTORIAL):
        if language == "python":
            steps.append(f"cat >> {name.removeprefix('file=')} <<'END OF FILE'\n{text}END OF FILE\n")
        elif language == "sh":
            steps.append(text)
    addresses = {port: f"127.0.0.1:{free_port()}" for port in ("8080", "9180")}
    environ = {"WEBHOOKD_LISTEN": addresses["8080"], "WEBHOOKD_ADMIN_LISTEN": addresses["9180"]}
    environ["WEBHOOKD_URL"] = f"http://{addresses['8080']}"
    printed = shell(steps, folder, replaced={"127.0.0.1:9180": addresses["9180"]}, **environ)
    (folder / "output").write_text("\n".join(printed))
    return folder


def test_the_tutorial_shows_the_plugin(lesson):
    output = (lesson / "output").read_text()
    assert "gitea: Gitea" in output
    assert "signs:  yes" in output
    assert str(lesson / "plugins" / "gitea.py") in output


def test_the_tests_of_the_tutorial_pass(lesson):
    output = (lesson / "output").read_text()
    assert output.index("1 passed") < output.index("2 passed")


def test_the_plugin_of_the_tutorial_takes_a_delivery(lesson):
    output = (lesson / "output").read_text()
    assert '"status":"ok"' in output.replace(" ", "")
    assert "204 accepted" in output
    assert "X-Gitea-Signature is missing or does not fit" in output
    assert output.rstrip().endswith("refused, as it should be")


def test_a_plugin_is_about_as_long_as_promised(lesson):
    lines = [line for line in (lesson / "gitea.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 21
    first = re.search(r"file=test_gitea.py\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)
    assert len([line for line in first[1].splitlines() if line.strip()]) <= 5


def test_the_plugin_of_the_tutorial_serves(lesson, tmp_path):
    with Daemon(tmp_path, plugins_dir=str(lesson / "plugins")) as daemon:
        hook = daemon.hook("gitea", "push", secret=SECRET)
        body = json.dumps(PUSH).encode()
        assert daemon.deliver(hook, body, signed(body)).status == 204
        assert daemon.deliver(hook, body).status == 401


def test_the_events_of_the_tutorial_keep_the_contract(lesson):
    names: dict = {}
    exec(compile((lesson / "events.py").read_text(), "events.py", "exec"), names)

    class Gitea(Datasource):
        name = "gitea"
        title = "Gitea"
        events = names["events"]

    check_datasource(Gitea())
    assert Schemas(Registry([("tutorial 1.0", Gitea())])).has("gitea", "push")


MISTAKES = {
    "unknown hook 'register_datasource'": ("def register_datasources", "def register_datasource"),
    "has no hook": ("@webhookd.hookimpl\n", ""),
    "it must return a list of datasources": ("return [Gitea()]", "[Gitea()]"),
    "return an instance": ("[Gitea()]", "[Gitea]"),
    "must have both signs = True and a verify_signature() of its own, or neither": ("    signs = True\n", ""),
    "cannot be called with": ("def event_type(self, delivery)", "def event_type(self)"),
    "must be a plain method": ("def event_type", "async def event_type"),
    "is nothing that webhookd asks for": ("def event_type", "def event_typ"),
    "is registered by": ('"gitea"', '"github"'),
    "cannot be imported": ("import webhookd\n", "import webhookd\nimport gitea_of_another_machine\n"),
    "is not local": (
        "    signs = True\n",
        '    signs = True\n    events = {"push": webhookd.EventType(schema={"$ref": "https://engine.example/push"})}\n',
    ),
}


def test_the_tutorial_lists_the_mistakes():
    assert re.findall(r"^- `(.*?)`:", TUTORIAL.partition("## What may go wrong")[2], re.MULTILINE) == list(MISTAKES)


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_is_said_as_the_tutorial_quotes_it(said, lesson, tmp_path):
    right, wrong = MISTAKES[said]
    text = (lesson / "gitea.py").read_text()
    assert right in text
    (tmp_path / "gitea.py").write_text(text.replace(right, wrong))
    with pytest.raises(ConfigurationError, match=re.escape(said)) as stop:
        Schemas(load(tmp_path))
    assert str(tmp_path / "gitea.py") in str(stop.value)


def test_the_metadata_of_the_tutorial_is_that_of_the_example():
    (text,) = re.findall(r"^```toml\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
    shown = tomllib.loads(text)["project"]
    real = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    assert {name: real[name] for name in shown} == shown


def test_the_tutorial_lists_the_whole_contract():
    listed = re.findall(r"^\| `(\w+)", TUTORIAL, re.MULTILINE)
    public = {name for name in vars(Datasource) if not name.startswith("_")} - {"verify"}
    assert set(listed) == public
    assert len(listed) == len(public)
