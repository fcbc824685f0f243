"""Prompts: what a coding tool is told. See writing.py for what a prompt holds, quoting.py for how data gets into one.

* classification: what kind of work it is, and who would do it well (pure)
* quoting: data that cannot break out of its place (pure)
* templates: the shipped templates; owns jinja2
* writing: a prompt within its number of tokens
"""

from services.executor.prompts.classification import Classification, classify, family, role
from services.executor.prompts.templates import (
    PromptTemplate,
    PromptTemplateError,
    PromptTemplates,
    shipped_templates,
)
from services.executor.prompts.writing import (
    EDIT_TOKENS_MAX,
    FIX_TOKENS_MAX,
    FIX_TOKENS_MIN,
    Failure,
    Prompt,
    edit,
    fix,
)

__all__ = [
    "EDIT_TOKENS_MAX",
    "FIX_TOKENS_MAX",
    "FIX_TOKENS_MIN",
    "Classification",
    "Failure",
    "Prompt",
    "PromptTemplate",
    "PromptTemplateError",
    "PromptTemplates",
    "classify",
    "edit",
    "family",
    "fix",
    "role",
    "shipped_templates",
]
