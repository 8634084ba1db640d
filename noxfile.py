"""
How audit_buffer is checked; `nox -l` lists the sessions, a bare `nox` runs the ones a change must pass.

Interpreters: besides those on the PATH, the ones that pyenv has installed are found. The session of an interpreter
that is not installed is skipped and says so; with AUDIT_TEST_REQUIRE_PYTHONS=1 it fails instead.

Coverage: `tests` (on the interpreter that runs nox), `behave` and `robot` measure as they go. `coverage_report` combines
what the same nox run has measured, and runs first whichever of the three suites it did not include: it never reports old data.

Everything that is left behind lies below build/: results/ (JUnit XML), coverage/, robot/, docs/, dist/, wheel/, asv/. Besides: the
tools' caches, and the module in C that an editable installation compiles, which lies beside its source.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import nox


ROOT = Path(__file__).parent.resolve()
BUILD = ROOT / "build"
RESULTS = BUILD / "results"
COVERAGE = BUILD / "coverage"
PYPROJECT = nox.project.load_toml("pyproject.toml")
THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SUITES = ("pytest", "behave", "robot")
# Not a branch of these may be left unvisited: they hold the promise.
COMPLETE = ",".join(
    f"audit_buffer/{name}.py"
    for name in (
        "_ring",
        "_channel",
        "_channel_core",
        "_publishing",
        "_syncing",
        "_turn",
        "_ledger",
        "_writer",
    )
)

# Interpreters between the oldest and the newest. They are asked what an interpreter could answer in its own way: bytecode that is
# interrupted, threads, forks, exits. Databases and the command line are asked on the other two.
BETWEEN = ("3.12",)
OF_THE_INTERPRETER = ("tests/flow", "tests/ring", "tests/crash", "tests/test_multiprocessing_children.py")
# What the version of SQLAlchemy does not touch: the ring, processes that end in all manner of ways, and how the bench measures.
BELOW_SQLALCHEMY = ("tests/ring", "tests/crash", "tests/bench")

# What an sdist may hold at its top, and what it must not hold anywhere.
OF_SDIST = {
    *(entry.strip("/") for entry in PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]),
    "pyproject.toml",
    "PKG-INFO",
    ".gitignore",
}
PRIVATE_OR_CACHED = re.compile(
    r"\.(so|pyc|ring|db|db-shm|db-wal)$|(^|/)(__pycache__|\.hypothesis|\.asv|\.coverage|\.\w+_cache)(/|$)"
)

# The suites that this nox run has measured already.
measured: set[str] = set()

# Left out: benchmarks (wants an idle machine), crash and torture (minutes of killing processes), recipes (wants a Redis).
nox.options.sessions = [
    "lint",
    "typing",
    "build",
    "docs",
    "tests",
    "behave",
    "robot",
    "coverage_report",
    "bench_check",
]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = os.environ.get("AUDIT_TEST_REQUIRE_PYTHONS") == "1"


def show_pyenv_interpreters() -> None:
    """
    Put the interpreters that pyenv installed on the PATH, the newest first, in place of its shims.

    A shim runs only the versions that `pyenv global` or `pyenv local` has switched on.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders = [folder for folder in pyenv.glob("versions/3.*/bin") if (folder / "python3").exists()]
    folders.sort(key=lambda folder: [int(number) for number in re.findall(r"\d+", folder.parent.name)])
    kept = [entry for entry in os.environ["PATH"].split(os.pathsep) if entry != str(pyenv / "shims")]
    os.environ["PATH"] = os.pathsep.join([*kept, *map(str, reversed(folders))])


show_pyenv_interpreters()


def group(*names: str) -> tuple[str, ...]:
    """
    Return the requirements of these dependency groups of pyproject.toml.
    """
    return nox.project.dependency_groups(PYPROJECT, *names)


def lowest_versions() -> list[str]:
    """
    Return the core dependencies, each pinned to the lowest version that pyproject.toml allows.
    """
    return [requirement.replace(">=", "==") for requirement in PYPROJECT["project"]["dependencies"]]


def results(session: nox.Session, suite: str) -> Path:
    """
    Return where this session's JUnit XML of *suite* goes.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.]+", "-", session.name).strip("-")
    return RESULTS / f"{suite}-{name}.xml"


def start_measuring(suite: str) -> dict[str, str]:
    """
    Forget what was measured for *suite* before; return the environment in which its run is measured.
    """
    folder = COVERAGE / suite
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    measured.add(suite)
    return {"COVERAGE_FILE": str(folder / "data"), "COVERAGE_RCFILE": str(ROOT / "setup.cfg")}


def install_for_tests(session: nox.Session, *requirements: str) -> None:
    """
    Install the working tree with everything that its tests can use.
    """
    session.install("-e", ".[cli,postgresql,mysql]", *requirements)


def install_without_speedups(session: nox.Session, *requirements: str) -> None:
    """
    The same where the module in C cannot be built, as on a machine without a compiler.
    """
    session.install("-e", ".[cli,postgresql,mysql]", *requirements, env={"CC": "false"})
    session.run("python", "-c", "from audit_buffer._usual import HAS_SPEEDUPS; assert not HAS_SPEEDUPS")


@nox.session
def lint(session: nox.Session) -> None:
    """
    Check style, formatting, and that imports go strictly downward.
    """
    # import-linter imports the package to find it, hence its dependencies.
    session.install("-e", ".[cli]", *group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--config", "setup.cfg")


@nox.session
def typing(session: nox.Session) -> None:
    """
    Type-check the package, and the file of API uses that is never run.
    """
    install_for_tests(session, *group("typing"))
    session.run("mypy", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """
    Build wheel and sdist, and look at what is in them.
    """
    session.install(*group("build"))
    dist = BUILD / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist))
    check_wheel(session, next(dist.glob("*.whl")))
    check_sdist(session, next(dist.glob("*.tar.gz")))


def compiled_names(session: nox.Session) -> set[str]:
    """
    Return the name of the module in C in a wheel built here; none where it cannot be compiled.
    """
    ask = "import sysconfig as s; print(s.get_path('include'), s.get_config_var('EXT_SUFFIX'), sep='\\n')"
    include, suffix = str(session.run("python", "-c", ask, silent=True)).split()
    can_compile = shutil.which("cc") and Path(include, "Python.h").exists()
    return {f"audit_buffer/_speedups{suffix}"} if can_compile else set()


def check_wheel(session: nox.Session, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    compiled = compiled_names(session)
    if lacking := compiled - names:
        session.error(
            f"{wheel.name} lacks {lacking}, though there are cc and Python.h: see above what failed"
        )
    if compiled and wheel.name.endswith("-any.whl"):
        session.error(f"{wheel.name} holds {compiled}, and its tag says that it is pure Python")
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "audit_buffer").rglob("*.py")}
    wanted = sources | {"audit_buffer/py.typed", "audit_buffer/_speedups.pyi"} | compiled
    missing = wanted - names
    foreign = {name for name in names - wanted if not name.startswith("audit_buffer-")}
    if missing or foreign:
        session.error(f"{wheel.name} lacks {sorted(missing)}, should not hold {sorted(foreign)}")


def check_sdist(session: nox.Session, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "pyproject.toml",
        "setup.cfg",
        "hatch_build.py",
        "noxfile.py",
        "README.md",
        "LICENSE",
        "audit_buffer/_speedups.pyi",
        *(str(path.relative_to(ROOT)) for path in (ROOT / "audit_buffer").rglob("*.[ch]")),
        "tests/conftest.py",
        "docs/conf.py",
    }
    missing = wanted - names
    foreign = {name for name in names if PRIVATE_OR_CACHED.search(name) or name.split("/")[0] not in OF_SDIST}
    if missing or foreign:
        session.error(f"{sdist.name} lacks {sorted(missing)}, should not hold {sorted(foreign)}")


@nox.session
def docs(session: nox.Session) -> None:
    """
    Build the documentation with warnings as errors, and run every Python example in it and in the README.
    """
    install_for_tests(session, *group("docs"))
    session.run("sphinx-build", "-W", "-n", "-q", "-b", "html", "docs", "build/docs/html")
    session.run("pytest", "docs", "README.md", f"--junitxml={results(session, 'examples')}")


def run_pytest(session: nox.Session, *, measure: bool, oldest: bool = False) -> None:
    report = f"--junitxml={results(session, 'pytest')}"
    arguments = ["-m", "pytest", "-n", "4", report, *session.posargs]
    env = {"AUDIT_TEST_WITHOUT_SPEEDUPS": "1"} if session.python in BETWEEN else {}
    if session.python in BETWEEN and not session.posargs:
        arguments += OF_THE_INTERPRETER
    if oldest:
        arguments += [f"--ignore={folder}" for folder in BELOW_SQLALCHEMY]
    if measure:
        # Tests that trace by themselves run in the sessions that are not measured.
        arguments += ["-m", "not torture and not recipes and not untraced"]
        session.run("coverage", "run", *arguments, env=start_measuring("pytest"))
    else:
        session.run("python", *arguments, env=env)


@nox.session
@nox.parametrize(
    ("python", "sqlalchemy"), [("3.11", "2.1"), ("3.12", "2.1"), ("3.13", "2.1"), ("3.11", "2.0")]
)
def tests(session: nox.Session, sqlalchemy: str) -> None:
    """
    Run pytest. The SQLAlchemy 2.0 run has every core dependency at its lowest allowed version.

    What lies between the oldest and the newest interpreter runs without the module in C.
    """
    oldest = sqlalchemy == "2.0"
    install = install_without_speedups if session.python in BETWEEN else install_for_tests
    install(session, *group("test"), *(lowest_versions() if oldest else [f"sqlalchemy=={sqlalchemy}.*"]))
    run_pytest(session, measure=session.python == THIS_PYTHON and not oldest, oldest=oldest)


def run_behave(session: nox.Session) -> None:
    folder = results(session, "behave").with_suffix("")
    arguments = ["--junit", "--junit-directory", str(folder), *session.posargs]
    session.run("coverage", "run", "-m", "behave", *arguments, env=start_measuring("behave"))


@nox.session
def behave(session: nox.Session) -> None:
    """
    Run the promises in an auditor's words.
    """
    install_for_tests(session, *group("test", "behave"))
    run_behave(session)


def run_robot(session: nox.Session) -> None:
    # Without the safe path, `python -m robot` would find the working tree before the installed wheel.
    env = {**start_measuring("robot"), "PYTHONSAFEPATH": "1"}
    arguments = ["--outputdir", "build/robot", "--xunit", str(results(session, "robot")), *session.posargs]
    session.run("coverage", "run", "-m", "robot", *arguments, "robot", env=env)


def install_wheel(session: nox.Session, *requirements: str) -> None:
    """
    Build the wheel and install it as a user does, extra `[cli]` included.
    """
    folder = BUILD / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(folder), ".")
    wheel = next(folder.glob("*.whl"))
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(f"audit-buffer[cli] @ {wheel.as_uri()}", *requirements)
    where = "import audit_buffer, sys; sys.exit('site-packages' not in audit_buffer.__file__)"
    session.run("python", "-P", "-c", where)


@nox.session(reuse_venv=False)
def robot(session: nox.Session) -> None:
    """
    Run the installed wheel as a process: under load, killed, restarted.
    """
    install_wheel(session, *group("robot"))
    run_robot(session)


@nox.session
def coverage_report(session: nox.Session) -> None:
    """
    Combine the branch coverage of pytest, behave and robot: 97 % in all, 100 % where the promise is kept.
    """
    measure_the_rest(session)
    session.install(*group("test"))
    # combine looks for files of this name with a suffix, in the folders that it is given.
    env = {"COVERAGE_FILE": str(COVERAGE / "data")}
    session.run("coverage", "combine", "--keep", *(str(COVERAGE / suite) for suite in SUITES), env=env)
    session.run("coverage", "html", "-q", "-d", "build/coverage/html", env=env)
    session.run("coverage", "report", "--fail-under=97", env=env)
    session.run("coverage", "report", "--fail-under=100", f"--include={COMPLETE}", env=env)


def measure_the_rest(session: nox.Session) -> None:
    """
    Run the suites that this nox run did not include.
    """
    if "robot" not in measured:
        install_wheel(session, *group("robot"))
        run_robot(session)
    if not measured >= {"pytest", "behave"}:
        install_for_tests(session, *group("test", "behave"))
    if "pytest" not in measured:
        run_pytest(session, measure=True)
    if "behave" not in measured:
        run_behave(session)


@nox.session
def crash(session: nox.Session) -> None:
    """
    Kill, cut and starve the buffer, each fault a moderate number of times.
    """
    install_for_tests(session, *group("test"))
    run_torture(session, "-n", "2")


@nox.session
def recipes(session: nox.Session) -> None:
    """
    Run what docs/how-to/servers.md tells to do, under gunicorn, uvicorn and Celery.
    """
    install_for_tests(session, *group("test", "recipes"))
    report = f"--junitxml={results(session, 'pytest')}"
    session.run("pytest", "tests/recipes", "-m", "recipes", "-n", "2", report, *session.posargs)


@nox.session
def torture(session: nox.Session) -> None:
    """
    The same faults at the numbers that the documentation publishes; takes long.
    """
    install_for_tests(session, *group("test"))
    run_torture(session, "--full")


def run_torture(session: nox.Session, *arguments: str) -> None:
    """
    Run the tests marked `torture`; that there are none yet (pytest's exit code 5) is no failure.
    """
    report = f"--junitxml={results(session, 'pytest')}"
    session.run("pytest", "-m", "torture", report, *arguments, *session.posargs, success_codes=[0, 5])


@nox.session
def bench_check(session: nox.Session) -> None:
    """
    Measure for twenty seconds; fail where record(), a drain or the import has become twice as dear.
    """
    session.install("-e", ".[cli]")
    session.run("audit-buffer", "bench", "--quick", "--check", *session.posargs)


@nox.session(python=False)
def benchmarks(session: nox.Session) -> None:
    """
    Measure with asv and leave the pages in build/asv/html. Arguments go to `asv run`, for example `--bench burst`.

    Needs no network when the environment that runs nox has the extra [bench] and the core dependencies.
    """
    python = python_with_asv(session)
    # asv drops PYTHONPATH, and would not find the working tree otherwise.
    env = {"ASV_PYTHONPATH": str(ROOT)}
    commit = session.run("git", "rev-parse", "HEAD", silent=True, external=True)
    # The interpreter by its own path: asv trips over pyenv's shims. Without a commit it would keep no result.
    where = ["-E", f"existing:{python}", "--set-commit-hash", str(commit).strip()]
    asv = [python, "-m", "asv"]
    with session.chdir("benchmarks"):
        session.run(*asv, "machine", "--yes", silent=True, external=True)
        session.run(*asv, "run", *where, "--show-stderr", *session.posargs, env=env, external=True)
        session.run(*asv, "publish", env=env, external=True)


def python_with_asv(session: nox.Session) -> str:
    """
    Return an interpreter that has asv: the one that runs nox, else one in build/asv/venv, made when it is missing.
    """
    if all(map(importlib.util.find_spec, ("asv", "sqlalchemy", "msgspec", "structlog", "attrs"))):
        return sys.executable
    folder = BUILD / "asv" / "venv"
    python = str(folder / "bin" / "python")
    if not folder.exists():
        session.run(sys.executable, "-m", "venv", str(folder), external=True)
        session.run(python, "-m", "pip", "install", "-q", "-e", ".[bench,cli,postgresql]", external=True)
    return python
