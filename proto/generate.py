"""Generates the gRPC stubs: `python -m proto.generate` writes them, `--check` compares them with what is committed.

The stubs of service X stand in services/X/v1, and import each other by that path.
"""

import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("ledger", "scheduler")


def generate(target: Path) -> None:
    """Write the stubs of every service below `target`, as services/<service>/v1/<service>_pb2*.py."""
    for service in SERVICES:
        folder = target / "services" / service / "v1"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "services" / service / "v1"
            source.mkdir(parents=True)
            original = ROOT / "proto" / "swell" / service / "v1" / f"{service}.proto"
            (source / f"{service}.proto").write_bytes(original.read_bytes())
            well_known = Path(grpc_tools.__file__).parent / "_proto"
            code = protoc.main(
                [
                    "protoc",
                    f"-I{scratch}",
                    f"-I{well_known}",
                    f"--python_out={target}",
                    f"--pyi_out={target}",
                    f"--grpc_python_out={target}",
                    f"services/{service}/v1/{service}.proto",
                ]
            )
            if code != 0:
                raise SystemExit(f"protoc failed for {original}")
        (folder / "__init__.py").write_text(
            f'"""Generated from proto/swell/{service}/v1 by `make proto`; only the server and the client import it."""\n'
        )


def differences(target: Path) -> list[str]:
    """Paths below `target` whose committed twin differs or is missing."""
    return [
        str(path.relative_to(target))
        for path in sorted(target.rglob("*.py*"))
        if not (ROOT / path.relative_to(target)).is_file()
        or (ROOT / path.relative_to(target)).read_bytes() != path.read_bytes()
    ]


def main() -> None:
    """Entry point of `make proto` and of the check in `make check`."""
    if sys.argv[1:] == ["--check"]:
        with tempfile.TemporaryDirectory() as scratch:
            generate(Path(scratch))
            stale = differences(Path(scratch))
        if stale:
            raise SystemExit(f"generated stubs are stale: {', '.join(stale)}; run `make proto` and commit the result")
        sys.stdout.write("generated stubs are current\n")
    else:
        generate(ROOT)


if __name__ == "__main__":
    main()
