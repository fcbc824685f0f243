"""Words of a submitter's own by which runs and what they cost are found: labels, and the tenant a run is for."""

import re
from collections.abc import Mapping
from typing import Final

LABELS_MAX: Final = 32
LABEL_CHARACTERS_MAX: Final = 63
VALUE_CHARACTERS_MAX: Final = 256
TENANT_CHARACTERS_MAX: Final = 63

_KEY: Final = re.compile(r"[a-z0-9][a-z0-9._/-]*", re.ASCII)
_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def key_problem(key: str) -> str:
    """What is wrong with a label's key; '' when nothing is."""
    if len(key) > LABEL_CHARACTERS_MAX or not _KEY.fullmatch(key):
        return (
            f"{key[:80]!a} is no label: use 1 to {LABEL_CHARACTERS_MAX} of a-z, 0-9, '.', '_', '/' and '-', "
            "beginning with a letter or digit"
        )
    return ""


def labels_problem(labels: Mapping[str, str]) -> str:
    """What is wrong with labels; '' when nothing is. Values are printable texts of at most 256 characters."""
    if len(labels) > LABELS_MAX:
        return f"{len(labels)} labels are too many: give at most {LABELS_MAX}"
    for key, value in labels.items():
        if problem := key_problem(key):
            return problem
        if len(value) > VALUE_CHARACTERS_MAX or not value.isprintable():
            return f"the value of {key} is no printable text of at most {VALUE_CHARACTERS_MAX} characters"
    return ""


def tenant_problem(tenant: str) -> str:
    """What is wrong with a tenant's name; '' when nothing is, as with none."""
    if tenant and (len(tenant) > TENANT_CHARACTERS_MAX or not _TENANT.fullmatch(tenant)):
        return (
            f"{tenant[:80]!a} is no tenant: use 1 to {TENANT_CHARACTERS_MAX} letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return ""
