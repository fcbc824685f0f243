"""Prompts from Python: what a workstream is classified as, and the text that a tool of a given kind would be told.

What the engine itself hands to tools is written by the same templates (services/executor/prompts), but keeps text that is
not ASCII as it is.
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from services.bundle import WorkstreamBundle, parse_bundles
from services.executor import prompts
from services.executor.prompts import Classification

__all__ = ["Classification", "PromptContext", "PromptEngine"]

RUN = "none"
"""What a prompt names as its run when there is none."""

Bundle = WorkstreamBundle | Mapping[str, Any]


class PromptContext(msgspec.Struct, frozen=True, kw_only=True):
    """For whom a prompt is written, and where.

    `target_app` is a tool's name: `aider` and `codex` have templates of their own, every other shares one. `repo_path` and
    `worktree_path` are named if they are given; `additional_context` is quoted as JSON.
    """

    target_app: str = "universal"
    repo_path: str = ""
    worktree_path: str = ""
    additional_context: Mapping[str, Any] | None = None


class PromptEngine:
    """Classifies workstreams, and renders their EDIT prompts."""

    def classify(self, bundle: Bundle) -> Classification:
        """Complexity, quality, domain and operation. Raises BundleValidationError."""
        return prompts.classify(_bundle(bundle))

    def role(self, bundle: Bundle) -> str:
        """Who would do it well, as in `Senior Software Engineer specializing in debugging`. Raises BundleValidationError."""
        return prompts.role(self.classify(bundle))

    def render_v11(self, bundle: Bundle, context: PromptContext | None = None) -> str:
        """The prompt as ASCII text: every other character is a question mark.

        A template that cannot be filled in is replaced by a plain form. Raises BundleValidationError for a bundle that is
        not valid, ValueError for an additional context that is not JSON.
        """
        context = context or PromptContext()
        extra = ""
        if context.additional_context:
            extra = json.dumps(dict(context.additional_context), indent=2, sort_keys=True, allow_nan=False)
        written = prompts.edit(
            _bundle(bundle),
            RUN,
            tool=context.target_app,
            repository=context.repo_path,
            worktree=context.worktree_path,
            extra=extra,
        )
        return written.text.encode("ascii", errors="replace").decode("ascii")


def _bundle(given: Bundle) -> WorkstreamBundle:
    if isinstance(given, WorkstreamBundle):
        return given
    # A bundle alone has nothing to depend on.
    (bundle,) = parse_bundles([("bundle", json.dumps({**given, "depends_on": []}).encode())])
    return bundle
