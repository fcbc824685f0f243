"""`swell decompose`: from a change request to bundle files, each proven valid together with its folder before it is written.

The request and the rules are YAML (of which JSON is a part). Nothing that stands is overwritten without --force, and
nothing at all is written unless everything can be.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from swell.errors import invalid

if TYPE_CHECKING:
    from services.bundle import WorkstreamBundle
    from services.decomposition import ChangeRequest, Decomposition, FileChange

REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024
RULES_BYTES_MAX: Final = 256 * 1024
RULES_FILE: Final = "config/decomposition_rules.yaml"


def decomposition_of(request_file: Path, repo: Path, rules_file: Path | None, base: str | None) -> Decomposition:
    """The workstreams of the change request in a file, by the shipped rules unless others are named. Raises SwellError."""
    from services.config import ConfigError, load_yaml  # noqa: PLC0415 - help must not wait for this
    from services.decomposition import (  # noqa: PLC0415 - as above
        DecompositionError,
        decompose,
        parse_request,
        parse_rules,
    )
    from services.resources import resource  # noqa: PLC0415 - as above

    chosen = resource(RULES_FILE) if rules_file is None else rules_file
    try:
        rules = parse_rules(load_yaml(chosen, RULES_BYTES_MAX), str(chosen))
        request = parse_request(load_yaml(request_file, REQUEST_BYTES_MAX), str(request_file))
        return decompose(request, _files_of(request, repo, base), rules)
    except ConfigError as error:
        raise invalid("BAD_FILE", str(error), "Mend the file, or name another one.") from error
    except DecompositionError as error:
        raise invalid(error.code, str(error), error.remedy, str(request_file)) from error


def _files_of(request: ChangeRequest, repo: Path, base: str | None) -> list[FileChange]:
    from services.decomposition import migrated_files, requested_files  # noqa: PLC0415 - as above
    from services.repository import RepositoryError, count_matching_lines, inspect  # noqa: PLC0415 - as above

    if request.migration is None:
        return requested_files(request)
    try:
        state = inspect(repo, base_ref=base, allow_dirty=True)
        matching = count_matching_lines(state.root, state.base_commit, request.migration.pattern)
    except RepositoryError as error:
        raise invalid(error.code, str(error.args[0]), error.remedy, str(repo)) from error
    return migrated_files(request.migration, matching)


def write_bundles(made: Decomposition, folder: Path, *, each: bool, force: bool) -> list[Path]:
    """Write the workstreams into a folder: one array in as few files as their limit allows, or a file for each.

    Raises SwellError: EXISTS without `force`, NOT_VALID when the folder holds bundles that do not go with these,
    NOT_WRITABLE.
    """
    from services.bundle import BundleValidationError, load_and_validate_bundles  # noqa: PLC0415 - as above

    documents = _documents(made, each=each)
    standing = sorted(name for name in documents if os.path.lexists(folder / name))
    if standing and not force:
        raise invalid(
            "EXISTS",
            f"{standing[0]} is there already" + (f", and {len(standing) - 1} more" if len(standing) > 1 else ""),
            "Name another folder with --out, or replace what is there with --force.",
            str(folder),
        )
    try:
        load_and_validate_bundles(folder, as_if=documents)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in documents.items():
            _replace(folder / name, content)
    except BundleValidationError as error:
        raise invalid(
            "NOT_VALID",
            f"with what the folder holds already, the workstreams are not valid:\n{error}",
            "Mend or remove those files, or name another folder with --out.",
            str(folder),
        ) from error
    except OSError as error:
        raise invalid("NOT_WRITABLE", f"cannot be used: {error.strerror}", "Make it writable.", str(folder)) from error
    return [folder / name for name in documents]


def _replace(path: Path, content: bytes) -> None:
    """A file is there whole or not at all, and a link is replaced, not followed."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("xb") as file:
            file.write(content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _documents(made: Decomposition, *, each: bool) -> dict[str, bytes]:
    """The files by name."""
    from services.bundle import FILE_BYTES_MAX  # noqa: PLC0415 - as above

    if each:
        return {f"{bundle.id}.json": _text(bundle) for bundle in made.bundles}
    files: list[list[bytes]] = [[]]
    size = 0
    for bundle in made.bundles:
        text = _text(bundle).rstrip()
        if len(text) + 4 > FILE_BYTES_MAX:
            raise invalid(
                "TOO_LARGE",
                f"{bundle.id} would have {len(text)} bytes, more than a bundle file may",
                "Lower the limits of a workstream, or shorten the request.",
            )
        if files[-1] and size + len(text) + 4 > FILE_BYTES_MAX:
            files.append([])
            size = 0
        files[-1].append(text)
        size += len(text) + 2
    names = [f"{made.name}.json", *(f"{made.name}-part-{at}.json" for at in range(2, len(files) + 1))]
    return {name: b"[\n" + b",\n".join(texts) + b"\n]\n" for name, texts in zip(names, files, strict=True)}


def _text(bundle: WorkstreamBundle) -> bytes:
    return msgspec.json.format(msgspec.json.encode(bundle), indent=2) + b"\n"
