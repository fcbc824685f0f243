"""Programs as people install them, in layouts built by hand: what they need is brought along, what else a home holds is not."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.executor.installation import PROGRAMS_MAX, names_of, needs_of, needs_of_path
from services.executor.sandbox import Exposure, Sandbox, look
from services.executor.trial import Trials
from services.process import Supervisor, child_environment
from services.profiles import ToolProfile

SYSTEM = "/usr/bin:/bin"


class Home:
    """A home folder with keys in it, in which programs are installed; each needs a file beside it to tell its version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.search = [*SYSTEM.split(":")]
        self.env: dict[str, str] = {}
        self.write(".ssh/id", "canary")
        self.write("notes.txt", "canary")

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def program(self, path: str, script: str, interpreter: str = "/bin/sh") -> Path:
        return self.write(path, f"#!{interpreter}\n{script}\n", 0o755)

    def tells(self, path: str, needed: str, interpreter: str = "/bin/sh") -> Path:
        """A program that tells its version, which stands in a file of its installation, and every key that it finds."""
        self.write(needed, "1.2.3\n")
        keys = f"cat {self.folder}/.ssh/id {self.folder}/notes.txt 2>/dev/null; true"
        return self.program(path, f'cat "{self.folder / needed}" || exit 1\n{keys}', interpreter)

    def link(self, path: str, target: str) -> Path:
        link = self.folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        return link


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    made = Home(tmp_path / "home")
    monkeypatch.setenv("HOME", str(made.folder))
    return made


def chain_of_links(home: Home) -> Path:
    """A link to what lies behind a link to a folder, which is a link to a third place."""
    home.tells(".store/agent-2/agent", ".store/agent-2/lib/data", "/bin/sh")
    home.write(".store/agent-2/package.json", "{}")
    home.link(".local/share/agent/versions/2/agent", "../../../../../.store/agent-2/agent")
    home.link(".local/share/agent/current", "versions/2")
    return home.link(".local/bin/agent", "../share/agent/current/agent")


def shim_through_env(home: Home) -> Path:
    home.tells(".agents/2/bin/agent-2", ".agents/2/lib/data")
    home.search.append(f"{home.folder}/.agents/2/bin")
    return home.program("shims/agent", 'export A=1\nexec env -i "PATH=$PATH" A=2 agent-2 "$@"')


def shim_of_a_shim(home: Home) -> Path:
    home.tells(".agents/2/bin/agent", ".agents/2/lib/data")
    inner = home.program(".agents/launch", f'exec "{home.folder}/.agents/2/bin/agent" "$@"')
    return home.program("shims/agent", f"[ -n '$X' ] && set -x\nexec {inner} \"$@\"")


def python_environment(home: Home) -> Path:
    """As uv makes them: its Python is a link through a link to a folder, into a prefix of its own."""
    home.write(".local/share/uv/python/cpython-3.12.5/lib/python3.12/os.py", "ok")
    home.program(
        ".local/share/uv/python/cpython-3.12.5/bin/python3.12",
        f'cat "{home.folder}/.local/share/uv/python/cpython-3.12.5/lib/python3.12/os.py" >/dev/null && exec sh "$@"',
    )
    python = home.folder / ".local/share/uv/python"
    home.link(".local/share/uv/python/cpython-3.12", "cpython-3.12.5")
    tool = ".local/share/uv/tools/agent"
    home.write(f"{tool}/pyvenv.cfg", f"home = {python}/cpython-3.12.5/bin\n")
    home.link(f"{tool}/bin/python", f"{python}/cpython-3.12/bin/python3.12")
    home.tells(f"{tool}/bin/agent", f"{tool}/lib/data", f"{home.folder}/{tool}/bin/python")
    return home.link(".local/bin/agent", f"{home.folder}/{tool}/bin/agent")


def npm_package(home: Home) -> Path:
    """A link into node_modules, for a node of nvm's that is on the PATH."""
    home.write(".nvm/versions/node/v20/lib/core", "ok")
    node = ".nvm/versions/node/v20"
    home.program(f"{node}/bin/node", f'cat "{home.folder}/{node}/lib/core" >/dev/null && exec sh "$@"')
    home.search.insert(0, f"{home.folder}/{node}/bin")
    modules = ".npm-global/lib/node_modules"
    home.tells(f"{modules}/@maker/agent/cli.js", f"{modules}/@maker/agent/node_modules/dep/data", "/usr/bin/env node")
    return home.link(".npm-global/bin/agent", "../lib/node_modules/@maker/agent/cli.js")


def pyenv(home: Home) -> Path:
    root = home.folder / ".pyenv"
    home.tells(".pyenv/versions/3.12/bin/agent", ".pyenv/versions/3.12/lib/data")
    home.write(".pyenv/version", "3.12\n")
    home.program(
        ".pyenv/libexec/pyenv",
        f'V=$(cat {root}/version); shift; P=$1; shift; exec "{root}/versions/$V/bin/$P" "$@"',
        "/usr/bin/env bash",
    )
    shim = 'program="${0##*/}"\nexec "' + str(root) + '/libexec/pyenv" exec "$program" "$@"'
    return home.program(".pyenv/shims/agent", shim, "/usr/bin/env bash")


def asdf(home: Home) -> Path:
    root = home.folder / ".asdf"
    home.tells(".asdf/installs/agent/1/bin/agent", ".asdf/installs/agent/1/lib/data")
    home.program(".asdf/bin/asdf", f'exec {root}/installs/agent/1/bin/agent "$@"')
    return home.program(".asdf/shims/agent", f'exec {root}/bin/asdf exec "agent" "$@"')


def volta(home: Home) -> Path:
    home.tells(".volta/tools/image/agent/1/bin/agent", ".volta/tools/image/agent/1/lib/data")
    home.program(".volta/bin/volta-shim", 'exec "$VOLTA_HOME/tools/image/${0##*/}/1/bin/${0##*/}" "$@"')
    home.env["VOLTA_HOME"] = str(home.folder / ".volta")
    return home.link(".volta/bin/agent", "volta-shim")


def homebrew(home: Home) -> Path:
    brew = "linuxbrew/.linuxbrew"
    home.link(f"{brew}/opt/dep", "../Cellar/dep/2")
    home.write(f"{brew}/Cellar/dep/2/lib/data", "")
    home.tells(f"{brew}/Cellar/agent/1/bin/agent", f"{brew}/opt/dep/lib/data")
    return home.link(f"{brew}/bin/agent", "../Cellar/agent/1/bin/agent")


LAYOUTS = (
    chain_of_links, shim_through_env, shim_of_a_shim, python_environment, npm_package, pyenv, asdf, volta, homebrew,
)  # fmt: skip


@pytest.fixture
async def supervisor():
    started = Supervisor()
    await started.start()
    yield started
    await started.close()


@pytest.mark.parametrize("on_path", [True, False], ids=["on the PATH", "by its path"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
async def test_a_program_starts_inside_however_it_was_installed(home, supervisor, tmp_path, layout, on_path):
    """Called by name as by path; and no key of the home folder is there."""
    (tmp_path / "trials").mkdir()
    had = await look(supervisor, tmp_path / "trials")
    if had.reason:
        pytest.skip(f"no sandbox can be had here: {had.reason}")
    program = layout(home)
    if on_path:
        home.search.append(str(program.parent))
    sandbox = Sandbox(had, Exposure(), scratch=tmp_path / "trials", contained=supervisor.mode == "pidns")
    profile = ToolProfile(command="agent" if on_path else str(program), type="ai", sandbox="bwrap", env=home.env)
    env = child_environment({"PATH": os.pathsep.join(home.search)})
    tried = await Trials(supervisor, tmp_path / "trials").of(program, profile, env, sandbox)
    assert (tried.version, tried.reason, tried.unconfined) == ("1.2.3", "", "")
    shown = {*needs_of([program], env["PATH"]).paths, *needs_of_path(env["PATH"])}
    assert not [path for path in shown if (home.folder / ".ssh").is_relative_to(path)]


async def test_what_a_program_told_it_has_seen_is_no_key(home, supervisor, tmp_path):
    """The same by reading: outside the same program tells the keys."""
    (tmp_path / "trials").mkdir()
    had = await look(supervisor, tmp_path / "trials")
    if had.reason:
        pytest.skip(f"no sandbox can be had here: {had.reason}")
    program = chain_of_links(home)
    data = home.folder / ".store/agent-2/lib/data"
    data.write_text("")  # so that the first line is what it finds
    sandbox = Sandbox(had, Exposure(), scratch=tmp_path / "trials", contained=supervisor.mode == "pidns")
    profile = ToolProfile(command=str(program), type="ai")
    trials = Trials(supervisor, tmp_path / "trials")
    env = child_environment({"PATH": SYSTEM})
    assert (await trials.of(program, profile, env, None)).version == "canarycanary"
    inside = await Trials(supervisor, tmp_path / "trials").of(program, profile, env, sandbox)
    assert (inside.version, inside.reason, inside.unconfined) == ("", "it printed nothing", "")


# What is not brought along


def test_of_a_project_with_a_bin_nothing_else_is_shown(home):
    """Unlike of an installation that needs all of itself."""
    for name in ("bin/tool", "lib/code", ".env", "secrets.json", "src/main"):
        home.write(f"work/project/{name}", "")
        home.write(f"work/jdk/{name}", "")
    home.write("work/jdk/lib/jvm.cfg", "")
    project, jdk = home.folder / "work/project", home.folder / "work/jdk"
    assert list(needs_of_path(f"{project}/bin:{jdk}/bin")) == [
        project / "bin", project / "bin", project / "lib", jdk / "bin", jdk,
    ]  # fmt: skip


@pytest.mark.parametrize("folder", ["", "..", "alias", "../.."])
def test_a_home_folder_on_the_path_is_not_shown(home, tmp_path, folder):
    """Nor what holds it, nor by another name."""
    (tmp_path / "alias").symlink_to(home.folder)
    place = tmp_path / "alias" if folder == "alias" else Path(os.path.normpath(home.folder / folder))
    assert list(needs_of_path(str(place))) == []


@given(
    st.lists(
        st.lists(
            st.sampled_from([".", "..", "bin", "sbin", "shims", ".ssh", "work", ".local", "alias", "up"]), max_size=5
        ),
        max_size=4,
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_path_shows_a_home_folder(home, folders):
    """However it is spelt, and through whichever links."""
    for name, target in (("alias", "."), ("up", ".."), ("work/alias", ".."), ("bin", "."), (".local/bin", ".."),
                         ("work/lib", "../.."), ("work/bin/tool", "."), ("work/node_modules", "..")):  # fmt: skip
        link = home.folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(target)
    search = os.pathsep.join(os.path.join(home.folder, *parts) for parts in folders)  # noqa: PTH118 - with its dots
    real = home.folder.resolve()
    programs = [Path(folder, "tool") for folder in search.split(os.pathsep)]
    for path in (*needs_of_path(search), *needs_of(programs, search).paths):
        assert not real.is_relative_to(path.resolve()), path


def test_what_a_tool_may_have_written_is_not_followed(home, tmp_path):
    """A link, a shim or an environment in the worktree would open whatever it names."""
    target = home.program("private/bin/run", "echo 1")
    own = tmp_path / "worktree"
    own.mkdir()
    (own / "link").symlink_to(target)
    (own / "shim").write_text(f"#!/bin/sh\nexec {target}\n")
    (own / "shim").chmod(0o755)
    through = home.link("agents/through", str(own / "link"))
    for program in (own / "link", own / "shim", through):
        assert target.parent not in needs_of([program], SYSTEM, own=[own]).paths
        assert target.parent in needs_of([program], SYSTEM).paths


def test_a_key_that_a_shim_names_is_not_shown(home):
    key = home.folder / ".ssh/id"
    shim = home.program("agents/shim", f'exec sh -c run --key {key} --config "{home.folder}/notes.txt"')
    paths = needs_of([shim], SYSTEM).paths
    assert not [path for path in paths if key.is_relative_to(path) or path.name == "notes.txt"]


def test_links_and_shims_that_lead_in_circles_end(home):
    one, two = home.folder / "one", home.folder / "two"
    one.symlink_to(two)
    two.symlink_to(one)
    assert len(names_of(one)) <= 42
    assert needs_of([one], SYSTEM).paths
    many = [home.folder / f"agents/{number}" for number in range(3 * PROGRAMS_MAX)]
    for number, path in enumerate(many):
        calls = "\n".join(f"exec {other}" for other in (*many[number : number + 9], path))
        home.program(f"agents/{number}", calls)
    assert len(needs_of(many[:1], SYSTEM).paths) <= PROGRAMS_MAX


@pytest.mark.parametrize(
    "text", ["#!\n", "#!/usr/bin/env\n", "#!/usr/bin/env -S\n", "#!/no/such\n", "#!" + "x" * 9000, "\x00\xff", ""]
)
def test_a_spoilt_first_line_is_nobody_s_interpreter(home, text):
    program = home.write("agents/tool", "", 0o755)
    program.write_bytes(text.encode("latin-1"))
    assert needs_of([program], SYSTEM).paths == (program,)


def test_every_name_on_the_way_is_told(tmp_path):
    """As the kernel goes: `..` behind a link is where the link leads to."""
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/tool").touch()
    (tmp_path / "short").symlink_to("real/deep")
    (tmp_path / "entry").symlink_to("short/../tool")
    names = names_of(tmp_path / "entry")
    assert names[0] == tmp_path / "entry"
    assert names[-1] == tmp_path / "real/tool"
