"""Files that a `per_file` check has found nothing in, so that they need not be looked at again.

    <folder>/<checker>     one file for each checker: the marks of what it found clean, the newest last

A checker is everything but the file that its verdict depends on: its profile, what stands in its arguments, its program as
it lies on the disk, its setup, and the files that it reads (`config_files`, and what its arguments and variables may name).
A mark is a file's path, mode and blob; so nothing but the very same file under the same name is ever spared.

Invariants: where what a checker is cannot be told, nothing is spared: a file too many that is looked at costs a moment, a file
too few passes what nobody has seen; what cannot be read, is no such file, too large or not of its form, counts as empty and is written anew; both
folder and files are limited, what is oldest goes; nothing here is needed, and anybody may remove the folder at any time.
"""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import structlog

from services.executor.found import program_of
from services.executor.installation import names_of
from services.executor.trial import file_identity
from services.git import Git
from services.profiles import PlaceholderError, ToolProfile, placeholders, substitute, substitute_one
from services.scope import Droppings

log = structlog.get_logger()

MARKS_MAX: Final = 20_000
CHECKERS_MAX: Final = 64
FILE_BYTES_MAX: Final = 1024 * 1024
LISTING_BYTES: Final = 512 * 1024 * 1024
_MARK: Final = r"[0-9a-f]{32}"
_ENTRY: Final = re.compile(rb"[0-9]{6} (?:blob|commit) [0-9a-f]{40,64}")
_REGULAR: Final = ("100644 ", "100755 ")
_LINK: Final = "120000 "
_SUBMODULE: Final = "160000 "

ATTRIBUTES: Final = ".gitattributes"
"""What says how a blob becomes a file."""

LIBRARIES: Final = Path("/etc/ld.so.cache")
"""What is written anew whenever a library of the system is installed or replaced."""

RUN_OTHERS: Final = frozenset({
    "ash", "bash", "busybox", "dash", "fish", "ksh", "mksh", "nu", "pwsh", "sh", "tcsh", "toybox", "zsh", "awk",
    "bun", "clojure", "deno", "dotnet", "elixir", "erl", "escript", "gawk", "groovy", "guile", "java", "jshell",
    "julia", "lua", "luajit", "mawk", "mono", "nawk", "node", "nodejs", "ocaml", "perl", "php", "pypy", "python",
    "racket", "rscript", "r", "ruby", "runghc", "sbcl", "scala", "swift", "tclsh", "wish", "wasmtime", "chroot",
    "env", "find", "flock", "ionice", "nice", "nohup", "parallel", "setarch", "setpriv", "setsid", "stdbuf",
    "strace", "su", "sudo", "doas", "time", "timeout", "unshare", "watchexec", "xargs", "bwrap", "docker",
    "flatpak", "nerdctl", "podman", "snap", "ssh", "systemd-run", "aqua-proxy", "asdf", "conda", "devbox", "direnv",
    "guix", "hatch", "hermit", "mamba", "micromamba", "mise", "nix", "nix-shell", "npm", "npx", "pdm", "pipx",
    "pixi", "pnpm", "poetry", "proto", "proto-shim", "rye", "uv", "uvx", "volta", "volta-shim", "yarn", "cargo",
    "cargo-clippy", "cargo-fmt", "clippy-driver", "go", "rust-analyzer", "rustc", "rustdoc", "rustfmt", "rustup",
    "bazel", "bazelisk", "buck", "buck2", "cmake", "git", "hg", "just", "lefthook", "make", "gmake", "meson",
    "moon", "ninja", "nx", "svn", "task", "trunk", "turbo",
})  # fmt: skip
"""Compiled programs that run others, which are not seen: shells, interpreters, what starts or chooses programs, builds."""

_VERSION: Final = re.compile(r"[-.]?\d[\d.]*[a-z]?$")
_ELF: Final = b"\x7fELF"

_UNTOLD: Final = re.compile(r"\.\.|/proc/")
"""What leads to a place that only a tool knows."""

_NO_STEP: Final = re.compile(r"/(?:\.?/)+")
_WHOLE_TREE: Final = re.compile(r"\.(?=/?(?:$|[\s=,:;'\"]))")
_ABSOLUTE: Final = re.compile(r"(?<![\w.-])/")
_PIECE: Final = re.compile(r"[^\s=,:;'\"()]*")
_GOES_ON: Final = re.compile(r"[\w.-]")

OF_ONE_CALL: Final = frozenset(
    {"files", "scratch", "cache", "worktree_path", "repo_root", "cwd", "run", "workstream", "step", "attempt", "python"}
)
"""Placeholders that differ from call to call, whatever is judged."""


class _Marks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    checker: str
    marks: Annotated[list[Annotated[str, msgspec.Meta(pattern=f"^{_MARK}$")]], msgspec.Meta(max_length=MARKS_MAX)]


class CleanFiles:
    """What this executor's checks have found clean."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when it is first written to."""
        self._folder = folder

    def known(self, checker: str) -> set[str]:
        """The marks of what a checker found clean."""
        return set(self._read(checker))

    def add(self, checker: str, marks: Iterable[str]) -> None:
        """These too. A disk that takes nothing is no reason for anything: it is only logged."""
        new = list(dict.fromkeys(marks))
        if not new:
            return
        kept = [*(mark for mark in self._read(checker) if mark not in set(new)), *new][-MARKS_MAX:]
        file = self._folder / checker
        made = file.with_name(f"{checker}.new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            made.unlink(missing_ok=True)
            made.write_bytes(msgspec.json.encode(_Marks(checker, kept)))
            made.replace(file)
            self._forget()
        except OSError as error:
            log.warning("executor.clean_files_not_written", file=str(file), error=str(error))
            with contextlib.suppress(OSError):
                made.unlink(missing_ok=True)

    def _read(self, checker: str) -> list[str]:
        try:
            file = os.open(self._folder / checker, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return []
            data = os.pread(file, FILE_BYTES_MAX + 1, 0)
            found = msgspec.json.decode(data, type=_Marks) if len(data) <= FILE_BYTES_MAX else None
        except (OSError, ValueError, RecursionError):
            return []
        finally:
            os.close(file)
        return found.marks if found is not None and found.checker == checker else []

    def _forget(self) -> None:
        """Removes what has not been written to for longest, beyond CHECKERS_MAX."""
        with os.scandir(self._folder) as entries:
            files = sorted(entries, key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns, reverse=True)
        for entry in files[CHECKERS_MAX:]:
            with contextlib.suppress(OSError):
                Path(entry.path).unlink()


Listing = Mapping[str, str]
"""What stands in a tree: path to mode, kind and blob; links and submodules as well."""


async def listing(git: Git, commit: str) -> Listing:
    """What stands in a commit. Raises GitError."""
    data = await git("ls-tree", "-r", "-z", "--full-tree", commit, output_bytes=LISTING_BYTES)
    entries = (entry.partition(b"\t") for entry in data.split(b"\0") if entry)
    return {os.fsdecode(path): what.decode() for what, _, path in entries if _ENTRY.fullmatch(what)}


def mark(path: str, files: Listing) -> str | None:
    """The mark of a file, as it is handed to a tool; None for what is no regular file of the tree."""
    path = path.removeprefix("./")
    what = files.get(path)
    if what is None or not what.startswith(_REGULAR):
        return None
    return hashlib.sha256(os.fsencode(f"{what}\0{path}")).hexdigest()[:32]


def checker_of(
    name: str, profile: ToolProfile, context: Mapping[str, object], env: Mapping[str, str], files: Listing, root: Path
) -> str | None:
    """What a check's verdict on a file depends on besides that file, in 64 hex digits; None when that cannot be told.

    It cannot be told for a program that is not found before it is started, such as one of the worktree; for one that is no
    compiled program, or runs others; for one with secrets; and where it may read links, or folders outside of the tree.
    `root` is the worktree, which holds what `files` lists.
    """
    program = program_of(profile, env["PATH"])
    if program is None or not _is_all_there(program) or profile.secrets:
        return None
    try:
        words = _words(profile, context, root)
    except PlaceholderError:
        return None
    outside = _outside(words)
    if outside is None or any(map(_UNTOLD.search, words)):
        return None
    read = _read(profile, words, files)
    links = {path for path, what in files.items() if what.startswith(_LINK)}
    if read & links or (profile.config_files and any((root / link).is_dir() for link in links)):
        return None
    parts = [
        name,
        profile,
        str(program),
        os.path.realpath(program),
        file_identity(program),
        file_identity(LIBRARIES),
        env.get("SWELL_SETUP_DIR", ""),
        {key: str(context.get(key)) for key in sorted(placeholders(profile, fix=False) - OF_ONE_CALL)},
        {key: os.environ.get(key, "") for key in sorted(profile.env_allow)},
        [(os.fsencode(path).hex(), files[path]) for path in sorted(read)],
        outside,
    ]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _is_all_there(program: Path) -> bool:
    """Whether a program is what its file holds: a compiled one that is not known to run others."""
    names = [*names_of(program), Path(os.path.realpath(program))]
    if any(_VERSION.sub("", name.name.lower()) in RUN_OTHERS or name.parent.name == "shims" for name in names):
        return False
    try:
        with program.open("rb") as file:
            return file.read(len(_ELF)) == _ELF
    except OSError:
        return False


def _words(profile: ToolProfile, context: Mapping[str, object], root: Path) -> list[str]:
    """All texts that a call of the checker is given besides its files; the worktree is `.` in them."""
    values = {**context, "files": [""], "scratch": "", "cache": ""}
    texts = [*profile.env.values(), *profile.args_in_sandbox.values(), *profile.sandbox_read]
    texts += [profile.stdin or "", profile.report.source]
    words = substitute((*profile.headless_args, *profile.args), values)
    words += [substitute_one(text, values) for text in texts]
    words += [os.environ.get(name, "") for name in profile.env_allow]
    here = re.compile(rf"{re.escape(str(root))}(?![\w.-])")
    return [_NO_STEP.sub("/", here.sub(".", word)) for word in words]


def _outside(words: Sequence[str]) -> list[tuple[str, tuple[int, ...]]] | None:
    """The files outside of the tree that words may name, each with its identity; None when they may name anything else.

    An option may have its value right behind it, so in words that begin like one a path may begin anywhere.
    """
    found: dict[str, tuple[int, ...]] = {}
    for word in words:
        starts = re.finditer("/", word) if word.startswith("-") else _ABSOLUTE.finditer(word)
        for start in (place.start() for place in starts):
            piece = _PIECE.match(word, start)
            for path in {word[start:], piece[0] if piece else ""} - {"/", ""}:
                try:
                    mode = Path(path).stat().st_mode
                except (OSError, ValueError):
                    continue
                if stat.S_ISREG(mode):
                    found[path] = file_identity(Path(path))
                elif not stat.S_ISCHR(mode):
                    return None
    return sorted(found.items())


def _read(profile: ToolProfile, words: Sequence[str], files: Listing) -> set[str]:
    """What of the tree a checker may read besides the files it is handed: better too much than too little.

    That is what `config_files` matches, and each file or link whose path stands anywhere in a word; of a folder that is
    named, and of one below which the word goes on with what is not there, everything.
    """
    if any(_WHOLE_TREE.search(word) for word in words):
        return set(files)
    config = Droppings(profile.config_files)
    read = {
        path
        for path, what in files.items()
        if what.startswith(_SUBMODULE) or path.rpartition("/")[2] == ATTRIBUTES or config.matches(path)
    }
    text = "\0".join(words)
    near = {path for path in (*files, *_folders(files)) if path in text}
    folders = tuple(f"{path}/" for path in near - files.keys() if _is_named(path, text, near))
    return read | (near & files.keys()) | {path for path in files if folders and path.startswith(folders)}


def _folders(files: Listing) -> set[str]:
    found: set[str] = set()
    for path in files:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _is_named(folder: str, text: str, near: set[str]) -> bool:
    """Whether a text names a folder, and not only something below it, or something whose name begins alike."""
    below = [path for path in near if path.startswith(f"{folder}/")]
    for place in re.finditer(re.escape(folder), text):
        goes_on = _GOES_ON.match(text, place.end()) or any(text.startswith(path, place.start()) for path in below)
        if not goes_on:
            return True
    return False
