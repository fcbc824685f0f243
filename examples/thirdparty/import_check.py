"""Import modules of the package in this folder: `import_check.py FILE…`.

Started as a script, so this folder comes first on the module path; a module that was found elsewhere is an error.
Exit codes: 0 all imported, 1 one cannot be imported (its name is printed), 2 wrong arguments.
"""

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(files: list[str]) -> int:
    """The command; see the module's docstring."""
    if not files:
        print("import_check: name at least one file", file=sys.stderr)
        return 2
    failed = 0
    for file in files:
        name = ".".join(Path(file).with_suffix("").parts)
        try:
            found = Path(importlib.import_module(name).__file__ or "").resolve()
        except Exception as error:  # noqa: BLE001 - whatever a module raises, it cannot be imported
            print(f"{file}: {type(error).__name__}: {error}")
            failed += 1
            continue
        if HERE not in found.parents:
            print(f"{file}: imported from elsewhere")
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
