"""Builds what is shipped, installs it where no checkout is near, and uses it as its users do."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import webhookd

ROOT = Path(__file__).parents[1]
NOT_SOURCE = shutil.ignore_patterns(
    ".git",
    ".venv",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    ".coverage*",
    "webhookd-data",
)
BUILT_INS = ["circleci", "dockerhub", "github"]


def run(*command: str, cwd: Path, **environ: str) -> str:
    """Run a command far from the checkout and return what it printed."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass
class Shipped:
    wheel: Path
    sdist: Path

    @property
    def in_wheel(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    @property
    def in_sdist(self) -> set[str]:
        with tarfile.open(self.sdist) as archive:
            return {name.partition("/")[2] for name in archive.getnames()}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """Build the sdist, and from the sdist the wheel, with the build tools of this environment: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("shipped")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source), cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    return Shipped(wheel, sdist)


@pytest.fixture(scope="module")
def installed(shipped: Shipped, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a fresh environment and return its `bin`; only the dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder), cwd=folder)
    python = str(folder / "bin" / "python")
    install = ["install", "--no-index", "--no-deps", "--quiet", str(shipped.wheel)]
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    return folder / "bin"


def test_wheel_ships_the_packages_and_their_data_and_nothing_else(shipped: Shipped) -> None:
    tops = {name.partition("/")[0] for name in shipped.in_wheel}
    version = webhookd.__version__
    assert tops == {"webhookd", f"webhookd-{version}.dist-info"}
    assert "webhookd/py.typed" in shipped.in_wheel
    for folder, suffix in (("plugins", ".py"), ("schemas", ".json"), ("webhookd", ".py")):
        mapped = "webhookd" if folder == "webhookd" else f"webhookd/{folder}"
        sources = {f"{mapped}/{path.relative_to(ROOT / folder)}" for path in (ROOT / folder).rglob(f"*{suffix}")}
        assert sources <= shipped.in_wheel, f"missing: {sorted(sources - shipped.in_wheel)}"


def test_wheel_ships_what_the_console_is_made_of_and_the_licence_of_its_charts(shipped: Shipped) -> None:
    folder = ROOT / "webhookd" / "console"
    made = {path for kind in ("templates", "static") for path in (folder / kind).rglob("*") if path.is_file()}
    assert {f"webhookd/{path.relative_to(ROOT / 'webhookd')}" for path in made} <= shipped.in_wheel
    assert "webhookd/console/static/uplot/LICENSE" in shipped.in_wheel


def test_metadata_names_licence_python_and_readme(shipped: Shipped) -> None:
    with zipfile.ZipFile(shipped.wheel) as archive:
        text = archive.read(f"webhookd-{webhookd.__version__}.dist-info/METADATA").decode()
    metadata = email.message_from_string(text)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert (ROOT / "README.md").read_text().strip() in text


def test_sdist_holds_what_testing_and_running_it_needs(shipped: Shipped) -> None:
    wanted = {"Makefile", "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "setup.cfg", ".ci/run", ".ci/need"}
    for folder in ("tests", "docs", "systemd", "plugins", "schemas"):
        wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("[!.]*.*") if path.is_file()}
    made = re.compile(r"/(__pycache__|build|\.[^/]*|[^/]*\.egg-info)/")  # by tools, while they ran here
    wanted = {name for name in wanted if not made.search(name)}
    assert wanted <= shipped.in_sdist, f"missing: {sorted(wanted - shipped.in_sdist)}"
    junk = [name for name in shipped.in_sdist if name.endswith(".pyc") or "__pycache__" in name]
    assert not junk


def test_installed_wheel_runs_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    webhookd_command = str(installed / "webhookd")
    assert run(webhookd_command, "--version", cwd=tmp_path).strip().endswith(webhookd.__version__)
    where = run(
        str(installed / "python"), "-c", "import webhookd.plugins; print(webhookd.plugins.__file__)", cwd=tmp_path
    )
    assert where.startswith(str(installed.parent))
    listed = run(webhookd_command, "plugins", "list", cwd=tmp_path)
    assert [name for name in BUILT_INS if name not in listed] == []


def test_installed_wheel_finds_its_schemas(installed: Path, tmp_path: Path) -> None:
    shown = run(str(installed / "webhookd"), "plugins", "show", "github", "--json", cwd=tmp_path)
    assert '"push"' in shown
    program = (
        "from importlib.resources import files\n"
        "print(*(one.name for one in files('webhookd.schemas').joinpath('github').iterdir()))"
    )
    assert "push.json" in run(str(installed / "python"), "-c", program, cwd=tmp_path).split()


def test_no_stranger_can_import_plugins_schemas_or_tests(installed: Path, tmp_path: Path) -> None:
    program = (
        "import importlib.util as u\nprint([name for name in ('plugins', 'schemas', 'tests') if u.find_spec(name)])"
    )
    assert run(str(installed / "python"), "-P", "-c", program, cwd=tmp_path).strip() == "[]"


def test_installed_wheel_is_typed(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("from webhookd import Datasource\n\nreveal_type(Datasource.name)\n")
    checked = run(
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        str(installed / "python"),
        "plugin.py",
        cwd=tmp_path,
    )
    assert 'Revealed type is "str"' in checked.replace("builtins.str", "str")


def test_editable_install_serves_the_checkout() -> None:
    """What runs these tests is itself an editable install (`make test`)."""
    import webhookd.plugins.github
    import webhookd.schemas

    assert Path(webhookd.plugins.github.__file__) == ROOT / "plugins" / "github.py"
    assert Path(webhookd.schemas.__file__) == ROOT / "schemas" / "__init__.py"


def test_set_up_installs_only_what_is_missing(tmp_path: Path) -> None:
    """`.ci/need` is run by `make run` and `make test`; here apt-get is a stand-in that tells what it was asked for."""
    for name, line in (("apt-get", 'echo "apt-get $*"'), ("sudo", 'exec "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    need = ["sh", str(ROOT / ".ci" / "need")]
    assert run(*need, "sh:dash", "python3:python3", cwd=tmp_path, PATH=path) == ""
    asked = run(*need, "sh:dash", "webhookd-has-no-such:some-package", cwd=tmp_path, PATH=path).splitlines()
    assert asked[-1].startswith("apt-get install ")
    assert asked[-1].endswith(" some-package")


def test_set_up_without_a_way_to_root_says_what_to_install(tmp_path: Path) -> None:
    for name, line in (("apt-get", "exit 0"), ("id", "echo 1000")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    need = [shutil.which("sh"), str(ROOT / ".ci" / "need"), "nothing-of-this-name:some-package"]
    done = subprocess.run(need, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "missing: some-package. As root, run: apt-get install some-package\n")
