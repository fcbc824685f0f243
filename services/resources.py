"""Files that come with Swell: beside the packages in a checkout, inside the front door's package in an installation."""

from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def resource(path: str) -> Path:
    """Where a shipped file or folder is, such as config/tool_profiles.json or examples/modernise."""
    packaged = _ROOT / "swell" / "data" / path
    return packaged if packaged.exists() else _ROOT / path
