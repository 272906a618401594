"""Holds every setting to its form, its three sources and their order, and the page of settings to the code."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from webhookd import forms, settings
from webhookd.cli.options import SECTIONS
from webhookd.errors import ConfigurationError
from webhookd.forms import mask_url
from webhookd.settings import KEYS, Settings, check_tokens, load_settings, read_secret_file

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def no_default_file(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "DEFAULT_CONFIG", tmp_path / "none.toml")


def load(
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    return load_settings(flags or {}, environ or {}, config)


def refusal(flags: Mapping[str, str] | None = None, environ=None, config=None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(flags, environ, config)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- the forms -------------------------------------------------------------------------------------------------------

ALLOWED = {
    "listen": {
        "127.0.0.1:8080": "127.0.0.1:8080",
        "[::1]:80": "[::1]:80",
        "localhost:0": "localhost:0",
        "a-b.example:65535": "a-b.example:65535",
        "unix:/run/w.sock": "unix:/run/w.sock",
        "unix:/" + "x" * 106: "unix:/" + "x" * 106,
    },
    "admin_listen": {"": "", "unix:/a": "unix:/a"},
    "public_url": {"": None, "https://a.example": "https://a.example", "http://[::1]:90/": "http://[::1]:90"},
    "store": {
        "sqlite:///a/b.db": "sqlite:///a/b.db",
        "etcd://a:2379,b:2379/w": "etcd://a:2379,b:2379/w",
    },
    "broker": {
        "spool:": "spool:",
        "amqp://a": "amqp://a",
        "amqps://u:p@a:5671/v": "amqps://u:p@a:5671/v",
        "amqp://a, amqp://b": "amqp://a, amqp://b",
    },
    "exchange": {"x y": "x y", "x" * 255: "x" * 255},
    "state_dir": {"/a/b": Path("/a/b"), "b": Path.cwd() / "b", "~": Path.home()},
    "jwks_url": {"": None, "https://u:p@a.example:1/k.json": "https://u:p@a.example:1/k.json"},
    "jwt_algorithms": {"": None, "HS256": ("HS256",), "EdDSA, ES256,EdDSA": ("EdDSA", "ES256")},
    "jwt_require_exp": {"true": True, "No": False, "ON": True, "0": False},
    "sts_cache": {"0s": 0.0, "30s": 30.0},
    "max_body": {
        "1": 1,
        "4096": 4096,
        "25MiB": 25 * 2**20,
        "1.5 KiB": 1536,
        "512mib": 2**29,
    },
    "max_in_flight": {"1": 1, "1000000": 10**6},
    "tenant_share": {"1": 1.0, "0.25": 0.25},
    "publish_timeout": {"1500ms": 1.5, "0.5s": 0.5, "1h30m": 5400.0, "36500d": 36500 * 86400.0},
    "spool_max_bytes": {"1MiB": 2**20, "20GiB": 20 * 2**30},
    "load_plugins": {"": None, "github,circleci": ("github", "circleci")},
    "log_level": {"DEBUG": "debug", "error": "error"},
}

REFUSED = {
    "listen": [
        *("", "8080", ":8080", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:http", "a b:1", "unix:", "unix:x"),
        *("unix:/" + "x" * 107, "unix:/a\0b", "::1:80", "-a:1"),
    ],
    "admin_listen": ["9180", "unix:relative"],
    "public_url": ["a.example", "ftp://a", "https://a/path", "https://a?q", "https://a:99999", "https://u@a"],
    "store": [
        *("sqlite://relative", "sqlite:x", "sqlite:///", "sqlite:///a\0", "etcd://a", "etcd:///p", "mysql://a/b"),
        "sqlite:///folder/",
    ],
    "broker": [
        "",
        "spool",
        "amqp:",
        "http://a",
        "amqp://a,http://b",
        "amqp://a/b/c",
        "amqp://a/b?heartbeat=1",
        "amqp://a:65536",
    ],
    "exchange": ["", "x" * 256, "a\nb", "a\x7f"],
    "state_dir": ["", "a\0b", "~nobody-has-this-name/x"],
    "jwks_url": ["https://a?q=1", "file:///a", "https://a b", "https://a:70000"],
    "jwt_algorithms": ["none", "HS256,", "HS256 RS256"],
    "jwt_require_exp": ["", "maybe", "2"],
    "sts_cache": ["-1s", "30"],
    "max_body": ["0", "-1", "25MBit", "25MB", "1.5", "513MiB", "1e6", "MiB", "1 TiB", "٣MiB"],
    "max_in_flight": ["0", "1000001", "1.5", "many", "\uff11"],
    "tenant_share": ["0", "1.1", "half", "nan", "-0.1", "inf"],
    "publish_timeout": ["0s", "5", "1w", "s", "1.s", "36501d", "-1s"],
    "spool_max_bytes": ["1023KiB", "1000"],
    "load_plugins": ["a b", ",", "git/hub"],
    "log_level": ["verbose", ""],
    "log_format": ["xml"],
    "log_deliveries": ["some"],
}


@pytest.mark.parametrize(("key", "text", "value"), [(k, t, v) for k, rows in ALLOWED.items() for t, v in rows.items()])
def test_values_that_are_allowed(key, text, value):
    assert getattr(load({key: text}), key) == value


@pytest.mark.parametrize(("key", "text"), [(k, t) for k, texts in REFUSED.items() for t in texts])
def test_values_that_are_not_allowed_are_told_with_what_is(key, text):
    told = refusal({key: text})
    assert told.startswith(
        f"{key}: {mask_url(text)[:200]!r} (by the flag {KEYS[key].flag}) is not allowed; allowed is "
    )
    assert told.endswith(KEYS[key].form.allowed)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("max_body = 1048576", 2**20),
        ("max_in_flight = 7", 7),
        ("tenant_share = 1", 1.0),
        ("tenant_share = 0.5", 0.5),
        ("jwt_require_exp = false", False),
        ('load_plugins = ["github", "github"]', ("github",)),
        ("load_plugins = []", ()),
        ('jwt_algorithms = ["ES256"]', ("ES256",)),
    ],
)
def test_native_values_of_the_file(tmp_path, line, value):
    file = tmp_path / "w.toml"
    file.write_text(line)
    assert getattr(load(config=file), line.partition(" ")[0]) == value


@pytest.mark.parametrize(
    "line",
    [
        "max_body = true",
        "max_in_flight = true",
        "max_in_flight = 1.0",
        "tenant_share = false",
        "publish_timeout = 5",
        "listen = 8080",
        'jwt_require_exp = "perhaps"',
        "load_plugins = [1]",
        "load_plugins = {a = 1}",
        "state_dir = 1979-05-27",
        "log_level = [1]",
    ],
)
def test_native_values_of_another_type_are_told(tmp_path, line):
    file = tmp_path / "w.toml"
    file.write_text(line)
    told = refusal(config=file)
    assert told.startswith(f"{line.partition(' ')[0]}: ")
    assert f"(by the file {file}) is not allowed" in told


def test_a_long_bad_value_is_cut():
    told = refusal({"log_level": "x" * 10_000})
    assert len(told) < 400


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://user:pass@host/v", "amqp://***@host/v"),
        ("amqp://u:p@a,amqps://u:p@b:1/v", "amqp://***@a,amqps://***@b:1/v"),
        ("amqp://u:p,a@ss@host", "amqp://***@host"),
        ("https://user@host/x", "https://***@host/x"),
        ("https://host/x", "https://host/x"),
        ("spool:", "spool:"),
        ("user:pass@host", "***@host"),
        ("amqp:user:pass@host", "amqp:***@host"),
        ("amqp:/u:p@host", "amqp:/***@host"),
    ],
)
def test_userinfo_is_masked(url, shown):
    assert mask_url(url) == shown


def test_a_password_in_a_bad_url_is_not_shown():
    for key in ("broker", "store", "jwks_url", "public_url"):
        told = refusal({key: "https//me:hunter2@host?x"})
        assert "hunter2" not in told
        assert "host" in told


def test_a_password_in_a_good_url_is_not_shown_either():
    loaded = load({"broker": "amqp://me:hunter2@host"})
    assert loaded.shown("broker") == "amqp://***@host"
    assert "hunter2" not in repr(loaded)
    assert loaded.shown("public_url") == ""
    assert "max_body='26214400'" in repr(loaded)


@pytest.mark.parametrize(
    ("size", "text"), [(2**30, "1GiB"), (3 * 2**20, "3MiB"), (1536, "1536"), (2048, "2KiB"), (5, "5")]
)
def test_sizes_are_shown_as_a_person_writes_them(size, text):
    assert forms.show_size(size) == text
    assert forms.parse_size(text) == size


def test_where_the_sqlite_store_is():
    assert forms.sqlite_path("sqlite:////a//b.db") == Path("/a//b.db")
    assert Settings(state_dir=Path("/x y")).store == "sqlite:///x y/hooks.db"


# --- the sources -----------------------------------------------------------------------------------------------------


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(tmp_path):
    file = tmp_path / "w.toml"
    file.write_text('max_body = "1MiB"\nexchange = "of the file"\nlog_level = "error"\n')
    environ = {"WEBHOOKD_MAX_BODY": "2MiB", "WEBHOOKD_EXCHANGE": "of the environment", "PATH": "/bin"}
    loaded = load({"max_body": "3MiB"}, environ, file)
    assert (loaded.max_body, loaded.exchange, loaded.log_level) == (3 * 2**20, "of the environment", "error")


def test_the_default_file_is_read_where_it_exists(tmp_path, monkeypatch):
    default = tmp_path / "default.toml"
    monkeypatch.setattr(settings, "DEFAULT_CONFIG", default)
    assert load().exchange == "events-to-enrich"
    default.write_text('exchange = "of the default file"')
    assert load().exchange == "of the default file"
    other = tmp_path / "other.toml"
    other.touch()
    assert load(config=other).exchange == "events-to-enrich"


def test_the_state_directory_is_that_of_systemd_unless_it_is_set(tmp_path):
    environ = {"STATE_DIRECTORY": "/var/lib/webhookd:/var/lib/other"}
    assert load(environ=environ).state_dir == Path("/var/lib/webhookd")
    assert load(environ=environ).store == "sqlite:///var/lib/webhookd/hooks.db"
    assert load({"state_dir": "/x"}, environ).state_dir == Path("/x")
    assert load(environ={"STATE_DIRECTORY": ""}).state_dir == Path.cwd() / "webhookd-data"


def test_the_store_is_beside_the_spool_unless_it_is_set():
    assert load({"state_dir": "/x"}).store == "sqlite:///x/hooks.db"
    assert load({"state_dir": "/x", "store": ""}).store == "sqlite:///x/hooks.db"
    assert load({"state_dir": "/x", "store": "sqlite:///y.db"}).store == "sqlite:///y.db"


def test_an_empty_value_takes_back_what_the_file_says(tmp_path):
    file = tmp_path / "w.toml"
    file.write_text('jwt_issuer = "me"\njwt_secret_file = "/k"')
    assert load(environ={"WEBHOOKD_JWT_ISSUER": ""}, config=file).jwt_issuer is None
    assert load({"jwt_secret_file": ""}, config=file).jwt_secret_file is None


def test_unknown_names_are_told_with_the_nearest(tmp_path):
    file = tmp_path / "w.toml"
    file.write_text('max_boddy = "1MiB"')
    assert refusal(config=file) == f"'max_boddy' in the file {file} is no setting; did you mean max_body?"
    told = refusal(environ={"WEBHOOKD_SPOOL_MAX_BYTE": "1"})
    assert told == (
        "the environment variable WEBHOOKD_SPOOL_MAX_BYTE is no setting; did you mean WEBHOOKD_SPOOL_MAX_BYTES?"
    )
    assert refusal(environ={"WEBHOOKD_Q": ""}) == "the environment variable WEBHOOKD_Q is no setting"
    assert refusal({"log_levl": "x"}) == "--log-levl is no setting; did you mean log_level?"
    file.write_text("[broker]\nurl = 1")
    assert "broker: " in refusal(config=file)


def test_what_is_of_the_command_line_or_of_kubernetes_is_passed_over():
    environ = dict.fromkeys(
        ("WEBHOOKD_TOKEN", "WEBHOOKD_URL", "WEBHOOKD_PORT", "WEBHOOKD_PORT_80_TCP", "WEBHOOKD_SERVICE_HOST"), "x"
    )
    assert load(environ=environ) == load()


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    gone = tmp_path / "gone.toml"
    assert refusal(config=gone) == f"the settings file {gone} cannot be read: No such file or directory"
    assert "Is a directory" in refusal(config=tmp_path)
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"exchange = '\xff'")
    assert refusal(config=bad) == f"the settings file {bad} is not UTF-8"
    bad.write_text("exchange = x")
    assert re.fullmatch(rf"the settings file {bad} is not TOML: .* line 1, .*", refusal(config=bad))


def test_two_listeners_cannot_have_one_address():
    told = refusal({"listen": "127.0.0.1:1", "admin_listen": "127.0.0.1:1"})
    assert told == "admin_listen: 127.0.0.1:1 is the address of listen already; set another one"
    assert load({"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}).listen == "127.0.0.1:0"


def test_a_folder_that_is_gone_is_told(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert refusal() == "the current directory is gone: start webhookd in one that exists"


def test_something_must_be_there_to_check_tokens_with():
    with pytest.raises(ConfigurationError, match="jwt_secret_file, jwt_public_key_file"):
        check_tokens(load())
    for key in ("jwt_secret_file", "jwt_public_key_file"):
        check_tokens(load({key: "/k"}))
    for key in ("jwks_url", "sts_url"):
        check_tokens(load({key: "https://a.example"}))


# --- secrets in files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "secret"),
    [(b"key", b"key"), (b"key\n", b"key"), (b"key\r\n", b"key"), (b"key\n\n", b"key\n"), (b" k\r", b" k\r")],
)
def test_the_newline_at_the_end_is_no_part_of_a_secret(tmp_path, content, secret):
    file = tmp_path / "key"
    file.write_bytes(content)
    assert read_secret_file(file, "jwt_secret_file") == secret


def test_a_file_without_a_secret_is_told(tmp_path):
    file = tmp_path / "key"

    def told() -> str:
        with pytest.raises(ConfigurationError) as caught:
            read_secret_file(file, "jwt_secret_file")
        return str(caught.value)

    assert told() == f"jwt_secret_file: {file} cannot be read: No such file or directory"
    file.write_bytes(b"\n")
    assert told() == f"jwt_secret_file: {file} is empty; it must hold the secret"
    file.write_bytes(b"x" * 65537)
    assert told() == f"jwt_secret_file: {file} is over 65536 bytes; it must hold the secret alone"
    file.write_bytes(b"x" * 65536)
    assert len(read_secret_file(file, "k")) == 65536


# --- the page --------------------------------------------------------------------------------------------------------


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_page_has_every_setting_as_the_code_has_it():
    code = [
        [
            f"`{key.name}`",
            f"`{key.default}`" if key.default else "none",
            key.form.allowed.removesuffix("; empty is as if not given"),
            key.doc,
        ]
        for key in KEYS.values()
    ]
    assert rows(PAGE.read_text()) == code


def test_the_page_has_the_headings_of_the_help():
    sections = re.split(r"^## (.*)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    first = {rows(body)[0][0].strip("`"): heading for heading, body in zip(sections[::2], sections[1::2], strict=True)}
    assert first == SECTIONS


def test_the_example_of_the_page_is_read(tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "w.toml"
    file.write_text(example)
    loaded = load(config=file)
    assert {name: str(getattr(loaded, name)) for name in tomllib.loads(example)} == {
        "max_body": str(5 * 2**20),
        "jwt_secret_file": "/etc/webhookd/jwt.key",
        "load_plugins": "('github', 'circleci')",
    }


def test_every_default_is_a_value_that_may_be_written():
    for key in KEYS.values():
        if key.default and key.name not in ("store", "state_dir", "jwt_algorithms", "load_plugins"):
            assert getattr(load({key.name: key.default}), key.name) == getattr(load(), key.name)


def test_settings_need_no_library():
    program = (
        "import sys, webhookd.settings\nprint(sorted({'click', 'jwt', 'structlog', 'tornado'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "[]\n"
