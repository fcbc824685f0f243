"""Git as an algebra: a tree is what its files hold, a commit is a tree with ancestors, and a merge of what is apart succeeds."""

import msgspec

from services.events import Snapshot

BASE = "b" * 40


MARKED = "<<<<<<< "
"""How a text begins that holds both sides of a conflict."""

PEACE = "peace: "
"""How a text begins that goes together with what its workstream was at odds with."""


class Version(msgspec.Struct, frozen=True):
    """What a file holds: who wrote it, which text, and what is wrong with it."""

    text: str
    static_bad: str = ""
    runtime_bad: str = ""


Files = dict[str, Version]


class Repository:
    """Every commit and tree of a run, known to all executors."""

    def __init__(self) -> None:
        self._names: dict[tuple[tuple[str, Version], ...], str] = {}
        self.files: dict[str, Files] = {}
        self.tree: dict[str, str] = {}
        self.ancestors: dict[str, frozenset[str]] = {}
        self._commits: dict[tuple[str, tuple[str, ...]], str] = {}
        self.tree[BASE] = self.tree_of({})
        self.ancestors[BASE] = frozenset((BASE,))

    def tree_of(self, files: Files) -> str:
        key = tuple(sorted(files.items(), key=lambda item: item[0]))
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"t{len(self._names)}"
            self.files[name] = files
        return name

    def commit(self, files: Files, *parents: str) -> Snapshot:
        tree = self.tree_of(files)
        key = (tree, parents)
        name = self._commits.get(key)
        if name is None:
            name = self._commits[key] = f"c{len(self._commits)}"
            self.tree[name] = tree
            self.ancestors[name] = frozenset((name,)).union(*(self.ancestors[parent] for parent in parents))
        return Snapshot(commit=name, tree=tree)

    def files_at(self, commit: str) -> Files:
        return self.files[self.tree[commit]]

    def is_marked(self, commit: str) -> bool:
        """Whether conflict markers are left in it."""
        return any(version.text.startswith(MARKED) for version in self.files_at(commit).values())

    def marked(self, ours: str, theirs: str, paths: list[str]) -> Snapshot:
        """Both sides of a conflict in these files, on top of `ours`."""
        files = {**self.files_at(ours)}
        for path, version in self.files_at(theirs).items():
            if path in paths:
                files[path] = Version(f"{MARKED}{version.text}")
        return self.commit(files, ours)

    def merge(self, ours: str, theirs: str, base: str) -> tuple[Snapshot | None, list[str]]:
        """The merged commit, or the files in which both sides differ."""
        one, two, origin = self.files_at(ours), self.files_at(theirs), self.files_at(base)
        merged, conflicts = dict(one), []
        for path, version in two.items():
            if origin.get(path) == version or one.get(path) == version:
                continue
            if one.get(path) != origin.get(path):
                conflicts.append(path)
            merged[path] = version
        gone = origin.keys() - two.keys()
        conflicts += [path for path in gone if merged.pop(path, origin[path]) != origin[path]]
        if conflicts:
            return None, conflicts
        return self.commit(merged, ours, theirs), []
