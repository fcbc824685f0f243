"""How much of a model's context window files take, from Python. The rules are those of services/context.py.

Only regular files are read, and of each at most FILE_BYTES_MAX: of a longer one the size in bytes stands for its
characters. A file that cannot be read counts as empty; it is not dropped.
"""

import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from services.context import WINDOW_TOKENS_DEFAULT, ContextFile, decide_context, estimate_tokens

__all__ = ["ContextEstimator"]

FILE_BYTES_MAX: Final = 16 * 1024 * 1024
CHUNK_TOKENS_DEFAULT: Final = 64_000
LARGEST_SHOWN: Final = 5

PathLike = str | Path


class ContextEstimator:
    """Estimates tokens, and chooses which files fit. `max_tokens` is the window; `model` names the ratio's family."""

    def __init__(self, max_tokens: int = WINDOW_TOKENS_DEFAULT, model: str = "") -> None:
        """By default a window of 128,000 tokens, and 4 characters for each.

        Raises ValueError when `max_tokens` is less than 1.
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}: a window has at least 1 token")
        self.max_tokens = max_tokens
        self.model = model

    def estimate_tokens(self, files: Iterable[PathLike], extra: str = "") -> int:
        """Tokens of these files and of a further text."""
        return sum(self._tokens(_measured(file)) for file in files) + estimate_tokens(len(extra), self.model)

    def optimize_context(
        self, files: Sequence[PathLike], extra: str = "", priority_files: Iterable[PathLike] = ()
    ) -> dict[str, Any]:
        """What is left when the files have to fit: the priority files all the same, and the smallest others.

        Returns `estimated_tokens`, `file_count` and `total_chars` of what is left, `optimization_applied`,
        `pruned_files` (in their order) and `decision` (`fits`, `reduced` or `too_large`).
        """
        measured = [_measured(file) for file in files]
        sizes = {file.path: file.chars for file in measured}
        decided = decide_context(
            measured,
            limit_tokens=self.max_tokens,
            prompt_tokens=estimate_tokens(len(extra), self.model),
            priority={str(file) for file in priority_files},
            model=self.model,
        )
        pruned = [file.path for file in decided.left_out]
        return {
            "estimated_tokens": decided.estimated_tokens,
            "file_count": len(decided.files),
            "total_chars": sum(sizes[path] for path in decided.files) + len(extra),
            "optimization_applied": bool(pruned),
            "pruned_files": pruned,
            "decision": decided.decision,
        }

    def split_context(self, files: Sequence[PathLike], chunk_size: int = CHUNK_TOKENS_DEFAULT) -> list[list[str]]:
        """The files in their order, in chunks of at most `chunk_size` tokens; one that is larger has its own."""
        if chunk_size < 1:
            raise ValueError(f"chunk_size is {chunk_size}: a chunk has at least 1 token")
        chunks: list[list[str]] = []
        used = chunk_size
        for file in map(_measured, files):
            tokens = self._tokens(file)
            if not chunks or used + tokens > chunk_size:
                chunks.append([])
                used = 0
            chunks[-1].append(file.path)
            used += tokens
        return chunks

    def get_file_statistics(self, files: Sequence[PathLike]) -> dict[str, Any]:
        """`file_count`, `total_chars`, `total_tokens`, `average_tokens`, and the `largest_files` (path, chars, tokens)."""
        measured = [_measured(file) for file in files]
        tokens = sum(map(self._tokens, measured))
        largest = sorted(measured, key=lambda file: (-file.chars, file.path))[:LARGEST_SHOWN]
        return {
            "file_count": len(measured),
            "total_chars": sum(file.chars for file in measured),
            "total_tokens": tokens,
            "average_tokens": tokens / len(measured) if measured else 0.0,
            "largest_files": [{"path": f.path, "chars": f.chars, "tokens": self._tokens(f)} for f in largest],
        }

    def _tokens(self, file: ContextFile) -> int:
        return estimate_tokens(file.chars, self.model)


def _measured(file: PathLike) -> ContextFile:
    path = Path(file)
    chars = 0
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode):
            chars = found.st_size
            if chars <= FILE_BYTES_MAX:
                with path.open("rb") as opened:
                    chars = len(opened.read(FILE_BYTES_MAX).decode(errors="replace"))
    except (OSError, ValueError):
        chars = 0
    return ContextFile(str(file), chars)
