"""A sandbox for tools, by bubblewrap: a tool sees the system read-only, and of ours its own attempt alone.

    system    /usr, /bin, /lib …, /opt, chosen names of /etc, the program and its interpreter     read-only
    attempt   the worktree, the attempt's scratch folder (home and /tmp in it), its cache folder  writable
    git       a repository of its own in the scratch folder, over the mirror's objects            objects read-only
    all else  does not exist

Invariants:

* It is an allow-list: a file that no rule names does not exist inside. What the executor says must stay hidden (its state
  folder, its credentials) stays hidden even below something that is visible.
* No ref, no configuration and no index of the mirror is within the tool's reach. Its own git commands see one commit,
  HEAD; the branches and commits that it makes are gone with the scratch folder.
* A sandbox is never believed in: `look` has run one, under the same supervisor, before the first tool is.

    SandboxMissingError     a profile insists on a sandbox, and none can be had
"""

import functools
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from services.executor.installation import located, needs_of, needs_of_path
from services.executor.output import read_output
from services.executor.workspace import Workspace, remove
from services.process import Launch, ProcessError, Supervisor, child_environment
from services.profiles import Context, ToolProfile, substitute_one

PROBE_TIMEOUT_S: Final = 10.0
PROBE_OUTPUT_BYTES: Final = 4096
SHARED_MEMORY_BYTES: Final = 64 * 1024 * 1024
"""The size of /dev/shm inside."""

OBJECTS: Final = "/run/swell/objects"
"""Where the mirror's objects are inside."""

_SYSTEM: Final = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/run/current-system",
)  # fmt: skip
# No key, no password: /etc/shadow, /etc/ssl/private, host keys and what services keep there are not among them.
_ETC: Final = (
    "alternatives", "ca-certificates*", "crypto-policies", "debian_version", "fonts", "gai.conf", "group", "host.conf",
    "hosts", "inputrc", "java-*", "ld.so.*", "localtime", "login.defs", "magic", "mime.types", "networks",
    "nsswitch.conf", "os-release", "passwd", "perl", "pki/ca-trust", "pki/tls/*.cnf", "pki/tls/*.pem", "pki/tls/certs",
    "protocols", "python3*", "resolv.conf", "rpc", "services", "shells", "ssl/*.cnf", "ssl/*.pem", "ssl/certs",
    "terminfo", "timezone",
)  # fmt: skip
_CONFIG: Final = """\
[core]
	repositoryformatversion = {version}
	filemode = true
	bare = false
	worktree = {worktree}
	logallrefupdates = false
	hooksPath = /dev/null
[gc]
	auto = 0
[maintenance]
	auto = false
[user]
	name = Swell
	email = swell@invalid
"""
_CONFIG_SHA256: Final = "[extensions]\n\tobjectformat = sha256\n"
_CONTAINED: Final = (
    "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--new-session",
    "--cap-drop", "ALL",
)  # fmt: skip


class SandboxMissingError(Exception):
    """No sandbox can be had for a tool that must have one; the text says why, and what to do."""


class SandboxBrokenError(Exception):
    """There are sandboxes here, and the one of this attempt cannot be made: its tool must not run without."""


class Bubblewrap(msgspec.Struct, frozen=True, kw_only=True):
    """How a sandbox can be had here. `reason` says why it cannot, and what to do; "" when it can."""

    program: str = ""
    flags: tuple[str, ...] = ()
    reason: str = ""


class Exposure(msgspec.Struct, frozen=True, kw_only=True):
    """What of this machine is there for every tool, and what for none.

    `readable`: files and folders besides the system's. `hidden`: files and folders that stay hidden wherever they are.
    """

    readable: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()


async def look(supervisor: Supervisor, folder: Path, path: str | None = None) -> Bubblewrap:
    """Finds out by running one whether a sandbox can be had; `folder` is for the outputs of the trial.

    `path` is the PATH of the executor, by default our own.

    Root needs no user namespace for it where it has all its capabilities, and needs one in most containers.
    """
    program = shutil.which("bwrap", path=path)
    if program is None:
        return Bubblewrap(reason="bubblewrap is not installed: install it (bwrap), or put it on the executor's PATH")
    said = ""
    out, err = folder / "sandbox.out", folder / "sandbox.err"
    for flags in ((), ("--unshare-user",)):
        trial = Launch(
            argv=(program, *flags, *_CONTAINED, *_system(()), "--unshare-net", "--remount-ro", "/", "true"),
            cwd=Path("/"),
            env=child_environment(),
            stdout=out,
            stderr=err,
            timeout_s=PROBE_TIMEOUT_S,
            output_bytes=PROBE_OUTPUT_BYTES,
            wrapped=True,
            marker="sandbox/trial/0",
        )
        try:
            ended = await (await supervisor.spawn(trial)).wait()
            said = read_output(err, PROBE_OUTPUT_BYTES).decode(errors="replace").strip()[-300:]
        except ProcessError as error:
            said = str(error)
            continue
        finally:
            out.unlink(missing_ok=True)
            err.unlink(missing_ok=True)
        if ended.ended_by == "itself" and ended.exit_code == 0:
            return Bubblewrap(program=program, flags=flags)
    return Bubblewrap(
        reason=f"bubblewrap cannot work here ({said}): allow user namespaces (kernel.unprivileged_userns_clone, "
        "AppArmor, seccomp), or give the executor CAP_SYS_ADMIN"
    )


class Sandbox:
    """What one attempt, or the trial of a program, may see. `confine` puts a tool into it."""

    def __init__(
        self,
        bubblewrap: Bubblewrap,
        exposure: Exposure,
        *,
        scratch: Path,
        contained: bool,
        workspace: Workspace | None = None,
        cache: Path | None = None,
        setup: Path | None = None,
    ) -> None:
        """`setup` is what the repository's setup made; `contained` that the supervisor works in PID namespaces.

        A trial has neither workspace nor cache.
        """
        self.bubblewrap = bubblewrap
        self._exposure = exposure
        self._workspace = workspace
        self._scratch = scratch
        self._own = tuple(path for path in (workspace.path if workspace else None, scratch, cache) if path is not None)
        self._setup = setup
        self._contained = contained

    @property
    def hidden(self) -> tuple[Path, ...]:
        """The executor's own files, which no tool may see."""
        return self._exposure.hidden

    @property
    def reason(self) -> str:
        """Why there is no sandbox; "" when there is one."""
        return self.bubblewrap.reason

    def for_trial(self, scratch: Path) -> "Sandbox":
        """The same without anything of the attempt, for a program that is only asked for its version."""
        return Sandbox(self.bubblewrap, self._exposure, scratch=scratch, contained=self._contained, setup=self._setup)

    def is_own(self, program: Path) -> bool:
        """Whether a program lies in what tools of the attempt write: then it is theirs."""
        real = Path(os.path.realpath(program))
        return any(one.is_relative_to(folder) for folder in self._own for one in (program, real))

    def leads_to_own(self, launch: Launch, given: Mapping[str, str]) -> bool:
        """Whether variables may have a program start what tools write: then it must not be let out.

        By its PATH, relative folders included; or by another variable that is not as `given`, where it names the worktree or
        the cache: what is in the scratch folder nobody has written yet.
        """
        search = launch.env.get("PATH", os.defpath).split(os.pathsep)
        if any(self.is_own(launch.cwd / folder) for folder in search):
            return True
        kept = [folder for folder in self._own if folder != self._scratch]
        named = {name for folder in kept for name in (str(folder), os.path.realpath(folder))}
        for value in (value for name, value in launch.env.items() if given.get(name) != value):
            reached = {value, *(os.path.realpath(part) for part in value.split(os.pathsep) if part.startswith("/"))}
            if any(name in text for name in named for text in reached):
                return True
        return False

    def confine(self, launch: Launch, profile: ToolProfile, context: Context) -> Launch:
        """The same tool inside; `context` is what placeholders of the profile stand for.

        Raises:
            ProgramMissingError: by the supervisor, later: the program is left as it is when it cannot be found.
            PlaceholderError: the profile has it see something that the context does not know.
            SandboxMissingError: there is none.
            SandboxBrokenError: there are, and its repository cannot be made.
        """
        if self.reason:
            raise SandboxMissingError(self.reason)
        search = launch.env.get("PATH", os.defpath)
        program = located(launch.argv[0], launch.cwd, search)
        if program is None:
            return launch  # the supervisor says so, in the words it has for it
        try:
            git = [] if self._workspace is None else self._repository(self._workspace)
        except OSError as error:
            raise SandboxBrokenError(f"the sandbox's git folder cannot be made: {error}") from error
        offline = profile.reach == "none" and self._contained
        scripts = _scripts(profile)
        system = [Path(name) for name in _SYSTEM]
        needs = needs_of([program, *scripts], search, system=system, own=self._own)
        outside = [*needs_of_path(search, system), *needs.paths, Path(sys.prefix), Path(sys.base_prefix)]
        outside += [*self._exposure.readable, *_readable(profile, context)]
        words = [self.bubblewrap.program, *self.bubblewrap.flags, *_CONTAINED, *_system((self._scratch / "tmp",))]
        words += [] if profile.reach == "all" or offline else ["--unshare-net"]
        shown = _shown(outside, self._exposure.hidden)
        words += [word for path in shown for word in ("--ro-bind", str(path), str(path))]
        words += _linked(needs.links, [*system, *shown, *self._own], self._exposure.hidden)
        masks, sealed = _hidden([*system, *map(Path, _settings()), *shown], self._exposure.hidden)
        words += masks
        own = [self._setup] if self._setup is not None else []
        words += [word for path in own for word in ("--ro-bind", str(path), str(path))]
        words += [word for path in self._own for word in ("--bind", str(path), str(path))]
        words += git
        words += [word for path in (*sealed, "/") for word in ("--remount-ro", str(path))]
        words += ["--chdir", str(launch.cwd), "--", *launch.argv]
        return msgspec.structs.replace(launch, argv=tuple(words), wrapped=True, offline=offline)

    def _repository(self, workspace: Workspace) -> list[str]:
        """Makes a repository of the tool's own, once for an attempt; the mounts that put it in place of the worktree's."""
        folder, link = self._scratch / "git", workspace.path / ".git"
        mirror = workspace.mirror.folder
        if not folder.is_dir():
            for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
                (folder / name).mkdir(parents=True)
            sha256 = len(workspace.commit) == 64
            config = _CONFIG.format(version=int(sha256), worktree=workspace.path)
            (folder / "config").write_text(config + (_CONFIG_SHA256 if sha256 else ""))
            (folder / "HEAD").write_text(f"{workspace.commit}\n")
            (folder / "objects/info/alternates").write_text(f"{OBJECTS}\n")
            shutil.copy2(workspace.index, folder / "index")  # with its time, see services/executor/workspace.py
        pointer = self._scratch / "git.link"
        pointer.unlink(missing_ok=True)
        pointer.write_text(f"gitdir: {folder}\n")
        if not link.exists() or not stat.S_ISREG(link.lstat().st_mode):
            if os.path.lexists(link):
                remove(link)
            link.touch()
        return ["--ro-bind", str(mirror / "objects"), OBJECTS, "--ro-bind", str(pointer), str(link)]


def _readable(profile: ToolProfile, context: Context) -> list[Path]:
    """What the profile has its tool see: what it names, and files that variables handed to it name. Those name no folder."""
    paths = [Path(substitute_one(path, context)) for path in profile.sandbox_read]
    values = [os.environ.get(name, "") for name in profile.env_allow]
    paths += [Path(value) for value in values if os.path.isfile(value)]  # noqa: PTH113 - false where we may not look
    return [path for path in paths if path.is_absolute()]


def _scripts(profile: ToolProfile) -> list[Path]:
    """Files that the profile's own arguments name: what an interpreter is to run, most of all."""
    words = [
        word
        for group in (*profile.headless_args, *profile.args)
        for word in ([group] if isinstance(group, str) else group)
    ]
    return [Path(word) for word in words if word.startswith("/") and "{" not in word and os.path.isfile(word)]  # noqa: PTH113 - false where we may not look


def _system(temporary: Sequence[Path]) -> Iterator[str]:
    """The system, read-only, with a /proc and a /dev of its own; `temporary` is what /tmp is there, if there is one."""
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), name)
        elif path.exists():
            yield from ("--ro-bind", name, name)
    for name in _settings():
        yield from ("--ro-bind-try", name, name)
    # bwrap leaves /proc/sys to the kernel, which lets user 0 write settings of the whole machine there.
    yield from ("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev", "--remount-ro", "/dev")
    yield from ("--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm")  # noqa: S108 - a mount inside
    for path in temporary:
        yield from ("--bind", str(path), "/tmp", "--symlink", "../tmp", "/var/tmp")  # noqa: S108 - as above


@functools.cache
def _settings() -> tuple[str, ...]:
    """What of /etc is there for everybody to read; one that is a link to something unlisted is shown all the same."""
    return tuple(str(path) for pattern in _ETC for path in sorted(Path("/etc").glob(pattern)) if path.exists())


def _shown(paths: Sequence[Path], hidden: Sequence[Path]) -> list[Path]:
    """What of these is to be mounted: what is there, not below another one or the system, and nothing that is hidden."""
    done = [Path(name) for name in _SYSTEM]
    secret = [Path(os.path.realpath(path)) for path in hidden]
    shown: list[Path] = []
    for path in dict.fromkeys(paths):
        if any(path.is_relative_to(other) for other in done) or not _is_there(path):
            continue
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(other) for other in secret):
            done.append(path)
            shown.append(path)
    return shown


def _linked(links: Sequence[tuple[Path, str]], visible: Sequence[Path], hidden: Sequence[Path]) -> Iterator[str]:
    """Links made anew that are not in a folder that is visible anyway."""
    secret = [Path(os.path.realpath(path)) for path in hidden]
    for link, target in links:
        folder = Path(os.path.realpath(link.parent))
        if not any(link.is_relative_to(other) for other in visible) and not any(map(folder.is_relative_to, secret)):
            yield from ("--symlink", target, str(link))


def _hidden(visible: Sequence[Path], hidden: Sequence[Path]) -> tuple[list[str], list[Path]]:
    """Mounts over what must stay hidden, and which of these are to be made read-only once everything stands.

    By where things really are: another name of a hidden folder shows no more than its first.
    """
    words: list[str] = []
    sealed: list[Path] = []
    roots = [(path, Path(os.path.realpath(path))) for path in visible if _is_there(path)]
    there = dict.fromkeys(Path(os.path.realpath(target)) for target in hidden if _is_there(target))
    for real in there:
        if any(real != other and real.is_relative_to(other) for other in there):
            continue  # what is above it covers it as well
        for path, root in roots:
            if real.is_relative_to(root):
                at = path / real.relative_to(root)
                if real.is_dir():
                    words += ["--tmpfs", str(at)]
                    sealed.append(at)
                else:
                    words += ["--ro-bind", "/dev/null", str(at)]
    return words, sealed


def _is_there(path: Path) -> bool:
    """Whether it exists, as far as we may know."""
    return os.path.exists(path)  # noqa: PTH110 - pathlib raises an error where we may not look
