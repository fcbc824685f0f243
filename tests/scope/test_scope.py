"""Scope: what may be declared, what a pattern covers, when two declarations collide, what is outside."""

import time
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pathspec import GitIgnoreSpec

from services.scope import (
    Droppings,
    Scope,
    ScopeError,
    ScopePattern,
    declare,
    nesting,
    normalise,
    overlap,
    overlap_key,
)

SEGMENT = st.sampled_from(["a", "b", "ab", "*", "**", "a*", "?", "[ab]", "[!a]", "*b"])
PATTERN = st.lists(SEGMENT, min_size=1, max_size=4).map("/".join)
PATH = st.lists(st.sampled_from(["a", "b", "ab", "ba", "c"]), min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(
    ("given_path", "expected"),
    [("src\\api\\x.py", "src/api/x.py"), ("./a//b/./c/", "a/b/c"), ("/a/b", "a/b"), ("a/", "a"), ("é", "é")],
)
def test_a_path_has_one_spelling(given_path, expected):
    assert normalise(given_path) == expected
    assert normalise(expected) == expected


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "/", "//", "..", "a/../b", "..\\x", "a\0b", "a\nb", ".git", ".GIT/config", "a/.git/x", "git~1"),
        *("\ud800", "a" * 4097, "é" * 2049),
    ],
)
def test_a_bad_path_is_refused_with_a_remedy(path):
    with pytest.raises(ScopeError) as caught:
        normalise(path)
    assert caught.value.remedy
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "pattern", ["/etc/passwd", "\\\\host\\x", "C:\\x", "c:x", "!a", " a", "a ", "[[:alpha:]]", "a/" * 65]
)
def test_a_bad_declaration_is_refused(pattern):
    with pytest.raises(ScopeError):
        declare(pattern)


@pytest.mark.parametrize(
    ("pattern", "covered", "not_covered"),
    [
        ("src/api", ["src/api", "src/api/x.py"], ["src/api2", "src", "x/src/api", "SRC/api/x"]),
        ("src/api/", ["src/api/x.py"], ["src/apix"]),
        ("README.md", ["README.md"], ["docs/README.md"]),
        ("*.py", ["a.py", "x/y/a.py"], ["a.pyc"]),
        ("src/*.py", ["src/a.py"], ["src/x/a.py", "x/src/a.py"]),
        ("src/**/x.py", ["src/x.py", "src/a/b/x.py"], ["x.py"]),
        ("src/**", ["src/a", "src/a/b"], ["src", "srcx/a"]),
        ("**/x", ["x", "a/b/x", "x/y"], ["ax"]),
        ("a?c", ["abc", "q/abc"], ["ac", "a/c"]),
        ("a/[!b]", ["a/c"], ["a/b"]),
        ("a/[^b]", ["a/c"], ["a/b"]),
        ("app/[slug]/page.tsx", ["app/[slug]/page.tsx", "app/s/page.tsx"], ["app/x/page.tsx"]),
        ("docs/*/", ["docs/a/b"], ["docs/a"]),
        ("*.d/", ["x/a.d/b"], ["a.d"]),
        ("#notes*", ["#notes.txt"], ["notes.txt"]),
    ],
)
def test_what_a_pattern_covers(pattern, covered, not_covered):
    parsed = ScopePattern.parse(pattern)
    assert [p for p in covered if not parsed.covers(p)] == []
    assert [p for p in not_covered if parsed.covers(p)] == []


@given(PATTERN, PATH)
def test_a_glob_covers_what_git_would_ignore(pattern, path):
    assume(any(wildcard in pattern for wildcard in "*?["))
    # Git reads a pattern of nothing but `**` as everything, and so do we.
    assert ScopePattern.parse(pattern).covers(path) == GitIgnoreSpec.from_lines([pattern]).match_file(path)


@given(PATTERN)
def test_declaring_twice_changes_nothing(pattern):
    assert declare(declare(pattern)) == declare(pattern)
    assert declare(declare(pattern + "/")) == declare(pattern + "/")


@pytest.mark.parametrize("pattern", ["*a" * 1000 + "b", "/".join(["**", "a*a*a*b"] * 32), "?" * 4000])
def test_a_hostile_pattern_is_matched_in_time(pattern):
    start = time.perf_counter()
    ScopePattern.parse(pattern).covers("a" * 2000)
    ScopePattern.parse(pattern).covers("aaaaaaaa/" * 400 + "a")
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (["src/x.py"], ["src/x.py"], ("src/x.py", "src/x.py")),
        (["src"], ["src/x.py"], ("src", "src/x.py")),
        (["src/api"], ["src/api2"], None),
        (["src/*.py"], ["src/api/x"], ("src/*.py", "src/api/x")),
        (["src/a*"], ["src/b*"], None),
        (["src/a*"], ["src/ab*"], ("src/a*", "src/ab*")),
        (["src"], ["src*"], ("src", "src*")),
        (["*.md"], ["src/x.py"], ("*.md", "src/x.py")),
        (["app/[id]/x"], ["app"], ("app/[id]/x", "app")),
        (["b", "a"], ["a", "b"], ("a", "a")),
        ([], ["a"], None),
    ],
)
def test_overlap(a, b, expected):
    assert overlap(a, b) == expected
    assert overlap(reversed(a), reversed(b)) == expected
    assert (overlap(b, a) is None) == (expected is None)


@given(PATTERN, PATTERN, PATH)
def test_patterns_that_cover_one_path_overlap(a, b, path):
    a, b = declare(a), declare(b)
    if ScopePattern(text=a).covers(path) and ScopePattern(text=b).covers(path):
        assert overlap([a], [b]) == (a, b)


@given(st.lists(PATTERN.map(declare).map(overlap_key), max_size=8))
def test_the_chain_of_a_key_is_every_key_it_lies_in(keys):
    parent = nesting(keys)
    for key in keys:
        chain, at = set(), parent[key]
        while at is not None:
            chain.add(at)
            at = parent[at]
        assert chain == {other for other in keys if other != key and key.startswith(other)}


def test_only_new_files_may_match_what_is_to_be_created():
    scope = Scope(edit=("src",), create=("docs/*.md",))
    changes = [("M", "src/a"), ("D", "src/b"), ("A", "src/c"), ("A", "docs/x.md")]
    assert scope.outside(changes) == []
    outside = scope.outside([("M", "docs/x.md"), ("D", "docs/x.md"), ("T", "docs/x.md"), ("A", "x.md"), ("R100", "y")])
    assert [(v.status, v.path) for v in outside] == [
        ("M", "docs/x.md"),
        ("D", "docs/x.md"),
        ("T", "docs/x.md"),
        ("A", "x.md"),
        ("R100", "y"),
    ]
    assert outside[3].message == "File 'x.md' is not in declared scope"


@pytest.mark.parametrize("path", [".git/config", "a/.GIT/hooks/x"])
def test_a_git_folder_is_in_no_scope(path):
    assert len(Scope(edit=("**", "a", ".git")).outside([("A", path)])) == 1


@pytest.mark.parametrize(
    "path", ["SRC/handler.py", "src/Handler.py", "src/caf\N{LATIN SMALL LETTER E}\N{COMBINING ACUTE ACCENT}.py"]
)
def test_a_twin_of_an_allowed_path_is_a_violation_that_names_it(path):
    allowed = ("src/handler.py", "src/caf\N{LATIN SMALL LETTER E WITH ACUTE}.py")
    (violation,) = Scope(edit=allowed).outside([("M", path)])
    assert violation.twin in allowed


def test_a_new_file_that_is_a_twin_of_another_change_is_a_violation():
    scope = Scope(edit=("src",))
    (violation,) = scope.outside([("A", "src/a.py"), ("A", "src/A.py")])
    assert (violation.path, violation.twin) == ("src/a.py", "src/A.py")
    assert scope.outside([("D", "src/a.py"), ("A", "src/A.py")]) == []
    assert scope.outside([("M", "src/a.py"), ("M", "src/A.py")]) == []


def test_droppings_follow_gitignore():
    droppings = Droppings([".aider*", "__pycache__/", "*.log", "!keep.log"])
    assert all(map(droppings.matches, [".aider.chat", "a/__pycache__/b.pyc", "x/y.log"]))
    assert not any(map(droppings.matches, ["keep.log", "__pycache__", "src/a.py"]))


@pytest.mark.parametrize("pattern", ["x" * 201, "*a*b*c*d"])
def test_a_complex_dropping_is_refused(pattern):
    with pytest.raises(ScopeError):
        Droppings([pattern])


def test_every_pair_of_shapes_gives_an_answer():
    shapes = ["a", "a/b", "a/*", "*", "**", "a*", "[a]", "**/a"]
    for a, b in product(shapes, shapes):
        assert (overlap([a], [b]) is None) == (overlap([b], [a]) is None)


@pytest.mark.parametrize("pattern", ["[z-a]", "a*b*c*d*e", "x" * 300])
def test_a_dropping_that_cannot_be_matched_is_refused(pattern):
    """Whatever the library underneath raises."""
    with pytest.raises(ScopeError):
        Droppings([pattern])
