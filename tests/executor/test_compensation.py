"""The grammar of compensation actions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.compensation import (
    ACTION_CHARS_MAX,
    ACTIONS_MAX,
    WORDS_MAX,
    BranchDelete,
    Cmd,
    CompensationError,
    GitRevert,
    parse_action,
    parse_actions,
)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("cmd:make clean", Cmd(("make", "clean"))),
        ("cmd: sh -c 'rm -f a && echo \"$HOME\"' ", Cmd(("sh", "-c", 'rm -f a && echo "$HOME"'))),
        ("cmd:echo {files} $(id) | cat", Cmd(("echo", "{files}", "$(id)", "|", "cat"))),
        ("cmd:a:b", Cmd(("a:b",))),
        ("cmd:echo ''", Cmd(("echo", ""))),
        ("branch:delete", BranchDelete()),
        (" branch: delete\n", BranchDelete()),
        ("git:revert", GitRevert()),
    ],
)
def test_what_can_be_written(text, action):
    assert parse_action(text) == action


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "branch:delete"),
        ("cmd", "is not known"),
        ("cmd:", "names no command"),
        ("cmd:''", "names no command"),
        ("cmd:echo 'open", "quotation"),
        ("branch:remove", "is not known"),
        ("branch:delete:now", "is not known"),
        ("CMD:true", "is not known"),
        ("rm -rf /", "cmd:<command line>"),
        ("cmd:a\0b", "control character"),
        ("cmd:a\x1bb", "control character"),
        ("cmd:a\ud800", "surrogate"),
        (f"cmd:{'x' * ACTION_CHARS_MAX}", f"over {ACTION_CHARS_MAX}"),
        (f"cmd:{'x ' * (WORDS_MAX + 1)}", f"over {WORDS_MAX}"),
    ],
)
def test_what_cannot_be_written_says_what_can(text, said):
    with pytest.raises(CompensationError, match=said):
        parse_action(text)


def test_there_are_only_so_many():
    assert parse_actions(["cmd:true"] * ACTIONS_MAX) == (Cmd(("true",)),) * ACTIONS_MAX
    with pytest.raises(CompensationError, match=f"more than {ACTIONS_MAX}"):
        parse_actions(["cmd:true"] * (ACTIONS_MAX + 1))


@given(st.text(max_size=200))
def test_any_text_is_an_action_or_an_error_with_a_text_that_can_be_shown(text):
    try:
        parse_action(text)
    except CompensationError as error:
        str(error).encode()
