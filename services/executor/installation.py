"""What a program needs of the machine to start: where its links lead, what interprets it, what was installed along with it.

    link → link → file          every name on the way
    #! line                     the interpreter; for `env NAME` what NAME is on the PATH
    shell script of a shim      what it execs, one script further
    node_modules, a Python environment and its Python, bin beside lib and share
    pyenv and its kin, volta, Homebrew      the folders that their shims start programs from

Invariants: nothing is started; never a home folder, nor one that holds it, as a whole; of a folder that only happens to have
a `bin`, such as somebody's project, nothing but what installations consist of; what is read of a script is bounded.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final

import msgspec

PATH_FOLDERS_MAX: Final = 100
LINKS_MAX: Final = 40
"""As many as the kernel follows."""

PROGRAMS_MAX: Final = 40
SCRIPTS_DEEP_MAX: Final = 2
"""Of shims: what a script execs is looked at, and what that one does, no more."""

SCRIPT_BYTES: Final = 16 * 1024
EXECS_MAX: Final = 8

_PARTS: Final = (
    "bin", "sbin", "lib", "lib32", "lib64", "libexec", "share", "include", "dist", "node_modules", "package.json",
    "pyvenv.cfg",
)  # fmt: skip
"""What an installation consists of, wherever it is."""

_WHOLE: Final = ("pyvenv.cfg", "conda-meta", "lib/jvm.cfg", "pkg/tool", "lib/rustlib")
"""What only an installation has that needs all of itself: environments of Python and conda, a JDK, Go, Rust."""

_SHIMS: Final = (
    "shims", "versions", "installs", "libexec", "bin", "version", "plugins", "pyenv.d", "nodenv.d", "rbenv.d",
)  # fmt: skip
_VOLTA: Final = ("bin", "tools", "layout.v*")
_HOMEBREW: Final = (
    "bin", "sbin", "Cellar", "opt", "lib", "libexec", "share", "etc/ca-certificates", "etc/openssl@*/cert.pem",
)  # fmt: skip
_SHELLS: Final = frozenset({"ash", "bash", "dash", "ksh", "sh", "zsh"})
_PROGRAMS: Final = frozenset({".cjs", ".jar", ".js", ".mjs", ".pl", ".py", ".pyz", ".rb"})
_EXEC: Final = re.compile(r"^[^#\n]*?\bexec[ \t]+(.+)$", re.MULTILINE)
_WORD: Final = re.compile(r"""[^\s"';&|<>]+""")


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """`paths`: files and folders that have to be there. `links`: links that lead to them, each with its target."""

    paths: tuple[Path, ...] = ()
    links: tuple[tuple[Path, str], ...] = ()


def located(name: str, cwd: Path, search: str) -> Path | None:
    """The file of a program, as the supervisor finds it."""
    places = [cwd / name] if "/" in name else [cwd / folder / name for folder in search.split(os.pathsep) if folder]
    return next((path for path in places if _can_start(path)), None)


def needs_of_path(search: str, system: Sequence[Path] = ()) -> Iterator[Path]:
    """The folders of a PATH, and what belongs to the programs in them; but for those in `system`, which are there anyway."""
    for name in list(dict.fromkeys(search.split(os.pathsep)))[:PATH_FOLDERS_MAX]:
        folder = Path(name)
        if not name.startswith("/") or _is_in(folder, system):
            continue
        found = (*_with_folder(folder), *_managed(folder / "program"))
        yield from (path for path in found if not _is_home(path))


def needs_of(programs: Sequence[Path], search: str, *, system: Sequence[Path] = (), own: Sequence[Path] = ()) -> Needs:
    """What programs need to start besides `system`, which is there anyway; `search` is their PATH.

    Nothing that lies in `own` is followed: these are folders that a tool may have written.
    """
    paths: dict[Path, None] = {}
    links: dict[Path, str] = {}
    waiting, seen = [(program, 0) for program in programs], set[Path]()
    while waiting and len(seen) < PROGRAMS_MAX:
        one, depth = waiting.pop(0)
        if one in seen:
            continue
        seen.add(one)
        every = names_of(one)
        names = list(takewhile(lambda name: not _is_in(name, own), every))
        for name in (name for name in names if not _is_in(name, system)):
            if os.path.islink(name):  # noqa: PTH114 - pathlib raises an error where we may not look
                links[name] = _target(name)
            paths |= dict.fromkeys(path for path in _belongings(name) if not _is_home(path))
        if names != every:
            continue
        paths[names[-1]] = None
        head = _head(names[-1])
        interpreter = _interpreter(head, search)
        if interpreter is not None:
            waiting.append((interpreter, depth))
            if depth < SCRIPTS_DEEP_MAX and interpreter.name in _SHELLS:
                waiting += [(found, depth + 1) for found in _execs(head, search)]
        for found in _python_of(names):
            waiting.append((found, depth))
    return Needs(paths=tuple(paths), links=tuple(links.items()))


def names_of(path: Path) -> list[Path]:
    """Every name by which the kernel passes on its way to a file, one link followed after another; the last is its own."""
    names = [path]
    done, rest = Path("/"), list(path.parts[1:])
    while rest and len(names) <= LINKS_MAX:
        part = rest.pop(0)
        here = done.parent if part == ".." else done / part
        try:
            target = here.readlink() if here.is_symlink() else None
        except OSError:
            target = None
        if target is None:
            done = here
            continue
        if target.is_absolute():
            done = Path("/")
        rest = [*(word for word in target.parts if word != "/"), *rest]
        names.append(Path(os.path.normpath(done.joinpath(*rest))))
    return names


def _target(link: Path) -> str:
    """Where a link leads; absolute where its own folder is reached through a link, for there another one stands for it."""
    target = os.readlink(link)  # noqa: PTH115 - as text, which is what the link inside is made with
    real = os.path.realpath(link.parent)
    return target if real == str(link.parent) or target.startswith("/") else os.path.normpath(f"{real}/{target}")


def _belongings(name: Path) -> Iterator[Path]:
    """What belongs to a program by where it lies."""
    yield from _managed(name)
    in_modules = "node_modules" in name.parts
    for parent in name.parents:
        if _is_home(parent):
            break
        if parent.name == "node_modules" and "node_modules" not in parent.parent.parts:
            yield parent
        if not in_modules and _is_file(parent / "package.json"):
            yield from _parts(parent)
            in_modules = True
        if _is_file(parent / "pyvenv.cfg") and not _exists(parent / ".git"):
            yield parent
    if name.parent.name in {"bin", "sbin"}:
        yield from _with_folder(name.parent)


def _with_folder(folder: Path) -> Iterator[Path]:
    """A folder of programs; where it is the `bin` of an installation, also the rest of that."""
    yield folder
    prefix = folder.parent
    if folder.name not in {"bin", "sbin"} or _is_home(prefix) or prefix.parent == Path("/"):
        return
    if prefix.name.startswith(".") and not _is_file(prefix / "pyvenv.cfg"):
        return
    if any(_exists(prefix / mark) for mark in _WHOLE) and not _exists(prefix / ".git"):
        yield prefix
    else:
        yield from _parts(prefix)


def _parts(prefix: Path) -> Iterator[Path]:
    yield from (prefix / part for part in _PARTS if _exists(prefix / part))


def _managed(name: Path) -> Iterator[Path]:
    """What the shims of a version manager, or the programs of Homebrew, lead to. No manager's settings."""
    for root in name.parents:
        if _is_home(root) or root == Path("/"):
            return
        first = name.relative_to(root).parts[0]
        kept: tuple[str, ...] = ()
        if first in {"shims", "bin", "libexec"} and _is_folder(root / "shims"):
            kept = _SHIMS if _is_folder(root / "versions") or _is_folder(root / "installs") else ()
        if first in {"bin", "tools"} and _is_folder(root / "tools" / "image"):
            kept = _VOLTA
        if first in {"bin", "sbin", "Cellar", "opt"} and _is_folder(root / "Cellar"):
            kept = _HOMEBREW
        for pattern in kept:
            yield from sorted(root.glob(pattern))


def _python_of(names: Sequence[Path]) -> Iterator[Path]:
    """The Pythons of the environments in which these names lie, and those that they were made of."""
    for root in dict.fromkeys(parent for name in names for parent in name.parents):
        if not _is_file(root / "pyvenv.cfg"):
            continue
        yield from sorted((root / "bin").glob("python*"))[:EXECS_MAX]
        for line in _head(root / "pyvenv.cfg").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "home" and value.strip().startswith("/"):
                yield from (python for python in [Path(value.strip(), "python3")] if _can_start(python))


def _interpreter(head: str, search: str) -> Path | None:
    """What runs a script, by its first line."""
    if not head.startswith("#!"):
        return None
    words = head[2:].partition("\n")[0].split()
    if words and Path(words[0]).name == "env":
        return next(_started(words, search), None)
    return Path(words[0]) if words and _can_start(Path(words[0])) else None


def _execs(head: str, search: str) -> Iterator[Path]:
    """What a shell script becomes: the programs after `exec`, with those that are named along with an interpreter."""
    for found in list(_EXEC.finditer(head))[:EXECS_MAX]:
        words = _WORD.findall(found[1])
        yield from _started(words, search)
        yield from (Path(word) for word in words if word.startswith("/") and _is_program(Path(word)))


def _is_program(path: Path) -> bool:
    """No key, no settings: a shim's arguments may name these as well."""
    return _can_start(path) or (path.suffix in _PROGRAMS and _is_file(path))


def _started(words: Sequence[str], search: str) -> Iterator[Path]:
    """The program that begins a command line, behind `env` with its options and variables."""
    for word in words:
        if word.startswith("-") or "=" in word or Path(word).name == "env":
            continue
        found = located(word, Path("/"), search) if "$" not in word else None
        if found is not None:
            yield found
        return


def _head(file: Path) -> str:
    """The beginning of a file, as text; empty when it is none that can be read."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    with os.fdopen(descriptor, "rb") as stream:
        data = stream.read(SCRIPT_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    return "" if data.startswith(b"\x7fELF") else data.decode(errors="replace")


def _is_in(path: Path, folders: Sequence[Path]) -> bool:
    return any(folder == path or folder in path.parents for folder in folders)


def _is_home(folder: Path) -> bool:
    """Whether it is a home folder, or holds one: keys and everything else of a person are in there."""
    real = Path(os.path.realpath(folder))
    home = Path(os.path.realpath(os.path.expanduser("~")))  # noqa: PTH111 - pathlib raises an error where there is none
    return home.is_relative_to(real) or real in {Path("/root"), Path("/home")} or real.parent == Path("/home")


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - pathlib raises an error where we may not look


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - as above


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - as above


def _can_start(path: Path) -> bool:
    return os.access(path, os.X_OK) and not os.path.isdir(path)  # noqa: PTH112 - as above
