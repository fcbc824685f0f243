"""What is submitted: bundles, the repository's commit and its checks, gates, tool profiles, breaker limits, the recovery table,
options, and, if a bundle asks for a capability, the AIM registry that AIM_REGISTRY_PATH names.

Everything is read once, here, and pinned by content: what a run does never depends on files that change later.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.outcome import nano_of
from swell.errors import invalid
from swell.settings import RunSettings
from swell.values import Document, Header, Options

if TYPE_CHECKING:
    from services.bundle import WorkstreamBundle
    from services.checks import Checks
    from services.profiles import ToolProfile

DOCUMENT_BYTES_MAX: Final = 1024 * 1024
CONTEXT_BYTES_MAX: Final = 64 * 1024
BREAKER_BYTES_MAX: Final = 64 * 1024
RECOVERY_BYTES_MAX: Final = 64 * 1024


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A run ready to be planned or submitted."""

    header: Header
    documents: list[Document]


def actor() -> str:
    """Who asks: user:<login>."""
    try:
        return f"user:{getpass.getuser()}"
    except (KeyError, OSError):  # no entry for this user id, as in many containers
        return f"user:{os.geteuid()}"


def assemble(
    bundles: Sequence[WorkstreamBundle],
    *,
    repo: Path,
    settings: RunSettings,
    base: str | None = None,
    allow_dirty: bool = False,
    exempt: Sequence[Path] = (),
    run: str = "",
    context: Mapping[str, Any] | None = None,
    stepwise: bool = False,
    paused: bool = False,
    profiles: Mapping[str, ToolProfile] | None = None,
) -> Submission:
    """Read and pin everything a run of these bundles consists of.

    `exempt` are files that do not make the checkout dirty (the bundles themselves). `profiles` overlay the repository's,
    after `settings.tool_profiles`. Raises SwellError.
    """
    from services.checks import CHECKS_BYTES, CHECKS_FILE  # noqa: PLC0415 - help must not wait for this
    from services.repository import RepositoryError, inspect, read_file  # noqa: PLC0415 - as above

    try:
        state = inspect(repo, base_ref=base, allow_dirty=allow_dirty, exempt=exempt)
        checks = read_file(state.root, state.base_commit, CHECKS_FILE, CHECKS_BYTES) or b""
        parsed = _checks(state.root, state.base_commit, checks)
        overlay = _profiles(state.root, state.base_commit, parsed, settings.tool_profiles, profiles or {})
        gates = gates_at(state.root, state.base_commit, parsed)
    except RepositoryError as error:
        raise invalid(error.code, str(error.args[0]), error.remedy, str(repo)) from error
    options = Options(
        max_workers=settings.max_workers or 0,
        wave_delay_s=settings.wave_delay_s or 0.0,
        fail_fast=bool(settings.fail_fast),
        dry_run=bool(settings.dry_run),
        timeout_s=settings.timeout_s or 0.0,
        stepwise=stepwise,
        context_json=encode_context(context or {}),
        scheduling=settings.scheduling or "",
        review=settings.review or "",
        pools=settings.pools or [],
        budget_nano=nano_of(settings.budget_usd) if settings.budget_usd is not None else None,
        budget_mode=settings.budget_mode or "",
        paused=paused,
        deliver=settings.deliver or "",
        delivery_style=settings.delivery_style or "",
        delivery_remote=remote_address(state.root, settings.delivery_remote or ""),
        delivery_credential=settings.delivery_credential or "",
        delivery_hook=settings.delivery_hook or "",
    )
    header = Header(
        location=remote_address(state.root, settings.location or "") or str(state.root),
        base_commit=state.base_commit,
        base_ref=state.base_ref,
        options=options,
        run=run,
        checks_toml=checks,
        tool_profiles_json=overlay,
        breaker_json=_breaker(settings.breaker),
        recovery_json=_recovery(settings.recovery),
        aim_registry_json=_registry(bundles),
        gates_json=msgspec.json.encode(gates) if gates else b"",
        actor=actor(),
        labels=named_by(settings.labels or {}),
        tenant=tenant_of(settings.tenant or ""),
    )
    return Submission(header=header, documents=documents_of(bundles))


def named_by(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels that the scheduler takes. Raises SwellError BAD_LABEL."""
    from services.labels import labels_problem  # noqa: PLC0415 - as above

    if problem := labels_problem(labels):
        raise invalid("BAD_LABEL", problem, "Mend it where it is given: an option, SWELL_LABELS or a file.", "labels")
    return dict(labels)


def tenant_of(tenant: str) -> str:
    """A tenant that the scheduler takes, or none. Raises SwellError BAD_TENANT."""
    from services.labels import tenant_problem  # noqa: PLC0415 - as above

    if problem := tenant_problem(tenant):
        raise invalid("BAD_TENANT", problem, "Mend it where it is given: an option, SWELL_TENANT or a file.", "tenant")
    return tenant


def remote_address(repo: Path, remote: str) -> str:
    """An address or a path as it is, the name of a remote as what the repository has for it; "" as it is.

    Raises SwellError BAD_REMOTE.
    """
    from services.delivery import location_problem  # noqa: PLC0415 - as above
    from services.repository import RepositoryError, address_of  # noqa: PLC0415 - as above

    if not remote:
        return ""
    try:
        found = remote if "/" in remote or ":" in remote else address_of(repo, remote)
    except RepositoryError as error:
        raise invalid("BAD_REMOTE", str(error.args[0]), error.remedy, str(repo)) from error
    if "://" not in found and ":" not in found.partition("/")[0]:
        found = str((repo / found).resolve())
    if problem := location_problem(found):
        raise invalid(
            "BAD_REMOTE", f"it {problem}", "Give a remote's name, a path, or an http(s) or ssh address.", remote
        )
    return found


def load_bundles(path: Path, *, workstreams: int | None = None) -> list[WorkstreamBundle]:
    """The bundles of a file or folder, at most `workstreams` (None: what one run takes).

    Raises SwellError BAD_BUNDLES with every problem.
    """
    from services.bundle import (  # noqa: PLC0415 - as above
        WORKSTREAMS_MAX,
        BundleValidationError,
        load_and_validate_bundles,
    )

    try:
        bundles = load_and_validate_bundles(path, workstreams=workstreams or WORKSTREAMS_MAX)
    except BundleValidationError as error:
        count = len(error.problems)
        many = f"{count} problems" if count != 1 else "1 problem"
        raise invalid(
            "BAD_BUNDLES",
            f"{many}:\n" + "\n".join(f"    {line}" for line in str(error).splitlines()),
            "Mend these, then look again with `swell validate`.",
            str(path),
        ) from error
    if not bundles:
        raise invalid(
            "NO_BUNDLES", "there is no bundle here", "Name a JSON file, or a folder with *.json files.", str(path)
        )
    return bundles


def documents_of(bundles: Iterable[WorkstreamBundle]) -> list[Document]:
    """The bundles as documents of at most DOCUMENT_BYTES_MAX."""
    from services.bundle import encode_bundles  # noqa: PLC0415 - as above

    documents: list[Document] = []
    pending: list[WorkstreamBundle] = []
    size = 2
    for bundle in bundles:
        weight = len(encode_bundles([bundle]))
        if pending and size + weight > DOCUMENT_BYTES_MAX:
            documents.append(Document(name=f"bundles-{len(documents)}.json", content=encode_bundles(pending)))
            pending, size = [], 2
        pending.append(bundle)
        size += weight
    if pending:
        documents.append(Document(name=f"bundles-{len(documents)}.json", content=encode_bundles(pending)))
    return documents


def encode_context(context: Mapping[str, Any]) -> str:
    """Values for tool arguments as JSON: strings, numbers, booleans and lists of strings. Raises SwellError BAD_CONTEXT."""
    for key, value in context.items():
        plain = isinstance(value, str | int | float | Path)
        listed = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        if not plain and not listed:
            raise invalid(
                "BAD_CONTEXT",
                f"the value is a {type(value).__name__}",
                "Use a text, a number, true or false, or a list of texts.",
                f"context {key}",
            )
    text = msgspec.json.encode(context, enc_hook=str).decode() if context else ""
    if len(text) > CONTEXT_BYTES_MAX:
        raise invalid("BAD_CONTEXT", f"the context is {len(text)} bytes long", f"Use at most {CONTEXT_BYTES_MAX}.")
    return text


def laid_over(
    root: Path, commit: str, checks: Checks, file: str | None, given: Mapping[str, ToolProfile] | None = None
) -> dict[str, ToolProfile]:
    """The repository's own tool profiles, then those of `file`, then `given`, and its plugins.

    Raises SwellError BAD_PROFILES, RepositoryError.
    """
    from services.checks import CHECKS_FILE  # noqa: PLC0415 - as above
    from services.discovery import plugins_at  # noqa: PLC0415 - as above
    from services.plugins import with_plugins  # noqa: PLC0415 - as above
    from services.profiles import (  # noqa: PLC0415 - as above
        PROFILES_BYTES,
        ProfileError,
        overlay,
        parse_tool_profiles,
    )
    from services.repository import read_file  # noqa: PLC0415 - as above

    layers: list[Mapping[str, ToolProfile]] = []
    try:
        named = checks.tool_profiles
        if named is not None:
            data = read_file(root, commit, named, PROFILES_BYTES)
            if data is None:
                raise invalid(
                    "BAD_PROFILES",
                    f"{CHECKS_FILE} names the tool profiles {named}, which the base commit does not have",
                    "Commit that file, or mend `tool_profiles`.",
                    str(root),
                )
            layers.append(parse_tool_profiles(data, f"{named} at {commit[:12]}"))
        layers.append(profiles_in(file))
        plugins = plugins_at(root, commit, checks.plugins) if checks.plugins is not None else {}
        return with_plugins(overlay({}, *layers, given or {}), plugins)
    except ProfileError as error:
        raise invalid("BAD_PROFILES", str(error), "Mend the tool profiles.") from error


def profiles_in(file: str | None) -> dict[str, ToolProfile]:
    """The user's own tool profiles, none without a file. Raises SwellError BAD_PROFILES."""
    from services.profiles import ProfileError, load_tool_profiles  # noqa: PLC0415 - as above

    try:
        return {} if file is None else load_tool_profiles(Path(file).expanduser())
    except ProfileError as error:
        raise invalid("BAD_PROFILES", str(error), "Mend the tool profiles.") from error


def _checks(root: Path, commit: str, checks_toml: bytes) -> Checks:
    """What the repository says of checks. Raises SwellError BAD_CHECKS."""
    from services.checks import CHECKS_FILE, Checks, ChecksError, parse_checks  # noqa: PLC0415 - as above

    try:
        return parse_checks(checks_toml, f"{CHECKS_FILE} at {commit[:12]}") if checks_toml else Checks()
    except ChecksError as error:
        raise invalid("BAD_CHECKS", str(error), "Commit the mended file, or name another base.", str(root)) from error


def gates_at(root: Path, commit: str, checks: Checks) -> Mapping[str, Any]:
    """What gates stand for by the file that `gates_file` names, in its own form; empty without one.

    Raises SwellError BAD_GATES, RepositoryError.
    """
    if checks.gates_file is None:
        return {}
    from services.checks import CHECKS_FILE  # noqa: PLC0415 - as above
    from services.config import ConfigError, parse_yaml  # noqa: PLC0415 - as above
    from services.gates import GATES_BYTES, GatesError, parse_gates  # noqa: PLC0415 - as above
    from services.repository import read_file  # noqa: PLC0415 - as above

    data = read_file(root, commit, checks.gates_file, GATES_BYTES)
    if data is None:
        raise invalid(
            "BAD_GATES",
            f"{CHECKS_FILE} names the gates {checks.gates_file}, which the base commit does not have",
            "Commit that file, or mend `gates_file`.",
            str(root),
        )
    source = f"{checks.gates_file} at {commit[:12]}"
    try:
        found = parse_yaml(data, source, GATES_BYTES)
        parse_gates(found, source)
    except (ConfigError, GatesError) as error:
        raise invalid("BAD_GATES", str(error), "Mend it, then commit it.", str(root)) from error
    return found


def _profiles(root: Path, commit: str, checks: Checks, file: str | None, given: Mapping[str, ToolProfile]) -> bytes:
    """The tool profiles laid over the scheduler's as one JSON object, empty for none."""
    merged = laid_over(root, commit, checks, file, given)
    return msgspec.json.encode({tool: _given_fields(profile) for tool, profile in merged.items()}) if merged else b""


def _given_fields(profile: ToolProfile) -> dict[str, Any]:
    """The fields that say something: absence, not null, is how the file form leaves one out."""
    plain: dict[str, Any] = msgspec.to_builtins(profile)
    return {name: value for name, value in plain.items() if value is not None}


def _breaker(file: str | None) -> bytes:
    if file is None:
        return b""
    from services.config import ConfigError, load_yaml  # noqa: PLC0415 - as above
    from services.scheduler.breaker import BreakerConfigError, parse_breaker_config  # noqa: PLC0415 - as above

    try:
        found = load_yaml(Path(file).expanduser(), BREAKER_BYTES_MAX)
        parse_breaker_config(found, file)
    except (ConfigError, BreakerConfigError) as error:
        raise invalid("BAD_BREAKER", str(error), "Mend the breaker configuration.", file) from error
    return msgspec.json.encode(found)


def _recovery(file: str | None) -> bytes:
    if file is None:
        return b""
    from services.config import ConfigError, load_yaml  # noqa: PLC0415 - as above
    from services.scheduler.recovery import RecoveryConfigError, parse_recovery_config  # noqa: PLC0415 - as above

    try:
        found = load_yaml(Path(file).expanduser(), RECOVERY_BYTES_MAX)
        parse_recovery_config(found, file)
    except (ConfigError, RecoveryConfigError) as error:
        raise invalid("BAD_RECOVERY", str(error), "Mend the recovery table.", file) from error
    return msgspec.json.encode(found)


def _registry(bundles: Sequence[WorkstreamBundle], environ: Mapping[str, str] = os.environ) -> bytes:
    """The AIM registry that the environment names, as it is: the scheduler says what is wrong with it. Empty for its own."""
    from services.aim import REGISTRY_VARIABLE, RegistryError, read_registry, registry_file  # noqa: PLC0415 - as above

    if not environ.get(REGISTRY_VARIABLE) or all(bundle.capability is None for bundle in bundles):
        return b""
    try:
        return read_registry(registry_file(environ))
    except RegistryError as error:
        raise invalid("BAD_AIM_REGISTRY", str(error), "Name a file with an AIM registry.", REGISTRY_VARIABLE) from error


def parse_context(pairs: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE arguments as a mapping. Raises SwellError BAD_CONTEXT."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise invalid("BAD_CONTEXT", f"{pair!r} is not KEY=VALUE", "Write it as --context model=small.")
        found[key] = value
    return found
