"""Asks a real daemon what its own description says it takes, and what it says it does not: by Schemathesis."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness import Daemon, mint

from webhookd.http_operations import PATHS

ST = str(Path(sys.executable).with_name("st"))
SETTINGS = """
[warnings]
display = []

[[operations]]
include-operation-id = "putHook"
# whether there is a schema, or may be a secret, is up to the datasource: more than the form of a field can tell
checks.positive_data_acceptance.expected-statuses = ["2xx", "400"]

[[operations]]
include-operation-id = ["deliver", "hasAddress"]
parameters = {{ "path.apiToken" = "{api_token}", "path.token" = "{token}" }}
"""


@pytest.mark.timeout(300)
def test_the_daemon_does_what_its_description_says(daemon: Daemon, tmp_path: Path) -> None:
    hook = daemon.hook("github", "push", tenant="another")
    daemon.hook("github", "push")
    _, _, api_token, token = urlsplit(hook["hookUrl"]).path.split("/")
    (tmp_path / "schemathesis.toml").write_text(SETTINGS.format(api_token=api_token, token=token))
    url = f"http://127.0.0.1:{daemon.port}"
    bearer = mint(42)
    daemon.canaries.add(bearer)
    command = [ST, "run", f"{url}/wh/openapi.json", "--url", url, "--header", f"Authorization: Bearer {bearer}"]
    options = ["--checks", "all", "--seed", "1", "--max-examples", "60", "--generation-database", "none", "--no-color"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(map(len, PATHS.values())) - 1  # it leaves out the one that it has read the description from
    assert f"{count} selected / {count} total" in done.stdout
    counted = daemon.metrics()
    assert counted['webhookd_deliveries_total{outcome="spooled"}'] > 0
    assert counted['webhookd_deliveries_total{outcome="refused"}'] > 0
