"""The recovery table: what is tried after which failure, how long is waited, and that it comes to an end."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler_harness import SECOND_NS, Play, Unclaimed, broken, bundle, spec

from services.config import load_yaml
from services.events import ErrorClass, RecoveryChosen, StepDelayed, StepScheduled
from services.profiles import ToolProfile
from services.resources import resource
from services.scheduler.recovery import (
    DEFAULT_CLASSES,
    RecoveryConfig,
    RecoveryConfigError,
    Used,
    after,
    choose,
    parse_recovery_config,
)

A, B = "ws-a", "ws-b"
CLASSES = get_args(ErrorClass)
EXACT = RecoveryConfig(jitter=0)
PROFILES = {
    "editor": ToolProfile(command="editor", args=("{files}",), fallback=("second", "unknown", "third")),
    "second": ToolProfile(command="second", args=("{files}",)),
    "third": ToolProfile(command="third"),
}


def choice(config, used, error_class, tool="editor", fallback=("second", "third"), *, reducible=True):
    return choose(config, used, error_class, tool=tool, fallback=fallback, reducible=reducible, name="r/ws/edit")


def story(config, error_class, **given):
    """Every choice for a step that fails for ever in the same way, up to the person."""
    used, tool, told = Used(), "editor", []
    for _ in range(1000):
        chosen = choice(config, used, error_class, used.tool or tool, **given)
        told.append(chosen)
        if chosen.strategy == "review":
            return told
        used = after(used, chosen.strategy, chosen.tool, chosen.reduction, used.tool or tool)
    raise AssertionError("it never ends")


# Delays


def test_delays_are_one_two_four_seconds_up_to_the_cap():
    assert [EXACT.delay_s(n, "x") for n in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


@given(
    initial=st.floats(0, 86_400), factor=st.floats(1, 100), most=st.floats(0, 86_400), jitter=st.floats(0, 1),
    used=st.integers(0, 100), name=st.text(max_size=20),
)  # fmt: skip
def test_a_delay_has_bounds_and_is_the_same_for_the_same_attempt(initial, factor, most, jitter, used, name):
    config = RecoveryConfig(initial_delay_s=initial, factor=factor, delay_max_s=most, jitter=jitter)
    exact = RecoveryConfig(initial_delay_s=initial, factor=factor, delay_max_s=most, jitter=0).delay_s(used, name)
    assert exact <= config.delay_s(used, name) <= min(exact * (1 + jitter) * 1.0000001, most)
    assert config.delay_s(used, name) == config.delay_s(used, name)
    assert exact <= config.delay_max_s


def test_attempts_that_fail_together_do_not_come_back_together():
    config = RecoveryConfig()
    delays = {config.delay_s(0, f"r/ws-{n}/edit") for n in range(50)}
    assert len(delays) == 50
    assert all(1 <= delay <= 1.1 for delay in delays)


# Strategies


def test_strategies_come_in_the_order_of_the_table():
    told = story(EXACT, "tool_failed")
    assert [c.strategy for c in told] == [
        "retry", "retry", "retry", "reduce_context", "fallback_tool", "fallback_tool", "review",
    ]  # fmt: skip
    assert [c.delay_s for c in told] == [1, 2, 4, 0, 0, 0, 0]
    assert [c.tool for c in told[4:6]] == ["second", "third"]
    assert told[3].reduction == told[4].reduction == 1, "what was reduced stays reduced under another tool"


def test_another_order_is_kept_as_well():
    config = parse_recovery_config({"classes": {"tool_failed": ["fallback_tool", "retry"]}, "retries": 1}, "x")
    assert [c.strategy for c in story(config, "tool_failed")] == ["fallback_tool", "fallback_tool", "retry", "review"]


def test_what_cannot_help_is_left_out():
    """Fewer files for a tool that is given none, another tool where there is none."""
    told = story(EXACT, "tool_failed", fallback=(), reducible=False)
    assert [c.strategy for c in told] == ["retry", "retry", "retry", "review"]


@pytest.mark.parametrize("error_class", CLASSES)
def test_every_class_ends_with_a_person_who_is_told_why(error_class):
    told = story(RecoveryConfig(), error_class)
    assert told[-1].strategy == "review"
    assert all(c.reason.startswith(f"{error_class}: ") for c in told)
    assert "a person has to decide" in told[-1].reason


@pytest.mark.parametrize(
    "error_class",
    ["auth", "budget", "scope_violation", "tampering", "setup_error", "check_failed", "merge_conflict", "lost", "queue_timeout",
     "delivery_refused", "protocol_error"],
)  # fmt: skip
def test_what_no_repetition_helps_goes_to_a_person_at_once(error_class):
    assert [c.strategy for c in story(RecoveryConfig(), error_class)] == ["review"]


@pytest.mark.parametrize(
    ("error_class", "expected"),
    [
        ("timeout", ["reduce_context", "fallback_tool", "fallback_tool"]),
        ("idle_timeout", ["retry"] * 3 + ["fallback_tool"] * 2),
        ("rate_limited", ["wait"] * 20),
        ("usage_limit", ["wait"] * 20),
        ("overloaded", ["wait"] * 20),
        ("server_error", ["retry"] * 3 + ["fallback_tool"] * 2),
        ("context_window", ["reduce_context", "fallback_tool", "fallback_tool"]),
        ("refusal", ["fallback_tool"] * 2),
        ("no_change", ["fallback_tool"] * 2),
        ("tool_missing", ["fallback_tool"] * 2),
        ("check_error", ["retry"] * 3),
        ("workspace_error", ["retry"] * 3),
        ("unknown", ["retry"] * 3),
    ],
)
def test_the_default_of_each_class(error_class, expected):
    assert [c.strategy for c in story(RecoveryConfig(), error_class)] == [*expected, "review"]


@given(
    classes=st.lists(st.sampled_from(CLASSES), min_size=1, max_size=300),
    retries=st.integers(0, 10),
    reductions=st.integers(0, 10),
    fallback=st.lists(st.sampled_from(["editor", "second", "third", "fourth"]), max_size=10),
    table=st.dictionaries(
        st.sampled_from(["tool_failed", "timeout", "unknown", "no_change"]),
        st.lists(st.sampled_from(["retry", "reduce_context", "fallback_tool", "review"]), max_size=6),
        max_size=4,
    ),
)
def test_no_sequence_of_failures_is_recovered_from_for_ever(classes, retries, reductions, fallback, table):
    config = parse_recovery_config({"retries": retries, "reductions": reductions, "classes": table}, "x")
    used, steps = Used(), 0
    while True:
        tool = used.tool or "editor"
        chosen = choice(config, used, classes[steps % len(classes)], tool, fallback)
        if chosen.strategy == "review":
            break
        used = after(used, chosen.strategy, chosen.tool, chosen.reduction, tool)
        steps += 1
        assert steps <= retries + reductions + config.waits + 4


# Configuration


def test_the_shipped_file_states_exactly_the_defaults():
    file = resource("config/recovery.yaml")
    config = parse_recovery_config(load_yaml(file, 100_000), str(file))
    default = RecoveryConfig()
    for field in ("retries", "initial_delay_s", "factor", "delay_max_s", "jitter", "reductions", "compensations"):
        assert getattr(config, field) == getattr(default, field), field
    assert set(load_yaml(file, 100_000)) == set(RecoveryConfig.__struct_fields__), "every key is shown"
    for error_class in CLASSES:
        assert config.strategies(error_class) == default.strategies(error_class), error_class
    assert not set(config.classes) - set(DEFAULT_CLASSES)


def test_every_class_that_has_a_default_is_shown_in_the_shipped_file():
    shown = set(load_yaml(resource("config/recovery.yaml"), 100_000)["classes"])
    assert set(DEFAULT_CLASSES) - shown <= {"delivery_refused"}, "a delivery is not retried, so it has no row"


@pytest.mark.parametrize("mapping", [None, {}])
def test_an_empty_configuration_is_the_default(mapping):
    assert parse_recovery_config(mapping, "x") == RecoveryConfig()


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"retrys": 1}, ["retrys", "the keys are", "retries"]),
        ({"retries": 101}, ["retries", "100"]),
        ({"retries": -1}, ["retries"]),
        ({"retries": "many"}, ["retries"]),
        ({"factor": 0.5}, ["factor"]),
        ({"jitter": 2}, ["jitter"]),
        ({"delay_max_s": 1e9}, ["delay_max_s"]),
        ({"classes": {"tool_faild": ["retry"]}}, ["tool_faild", "tool_failed"]),
        ({"classes": {"timeout": ["pray"]}}, ["pray"]),
        ({"classes": {"check_failed": ["retry", "review"]}}, ["classes.check_failed", "leave [review]"]),
        ({"classes": {"lost": ["fallback_tool"]}}, ["classes.lost", "leave [review]"]),
        ({"classes": {"merge_conflict": ["reduce_context"]}}, ["classes.merge_conflict", "leave [review]"]),
        ({"classes": {"timeout": ["retry", "fail"]}}, ["classes.timeout", 'review = "fail"']),
        ([1], []),
        ("x", []),
    ],
)
def test_what_is_wrong_is_named_with_source_key_and_remedy(mapping, said):
    with pytest.raises(RecoveryConfigError) as raised:
        parse_recovery_config(mapping, "my.yaml")
    for words in ("my.yaml", *said):
        assert words in str(raised.value)


# In a run


def recovering(script, *, recovery=None, **options):
    return Play(
        spec([bundle(A), bundle(B)], recovery=recovery or {"jitter": 0}, profiles=PROFILES,
             **{"review": "wait", **options}),
        script,
    )  # fmt: skip


def edits(play, name=A):
    return [e for e in play.of(StepScheduled) if e.workstream == name and e.step == "edit"]


def test_a_failed_tool_is_retried_reduced_replaced_and_then_reviewed():
    play = recovering({(A, "edit"): [broken("tool_failed")] * 20}).until_stuck()
    chosen = play.of(RecoveryChosen)
    assert [c.strategy for c in chosen] == [
        "retry", "retry", "retry", "reduce_context", "fallback_tool", "fallback_tool", "review",
    ]  # fmt: skip
    assert all(c.reason and c.workstream == A and c.step == "edit" for c in chosen)
    assert [c.attempt for c in chosen] == list(range(1, 8))
    assert [e.tool for e in edits(play)] == ["editor"] * 5 + ["second", "third"]
    assert [e.reduction for e in edits(play)] == [0, 0, 0, 0, 1, 1, 1]
    assert play.states == {A: "awaiting_review", B: "completed"}


def test_nothing_is_scheduled_before_a_delay_is_over():
    play = recovering({(A, "edit"): [broken("tool_failed")] * 2})
    play.settle()
    for seconds in (1, 2):
        play.act(A, len(edits(play)))
        failed_ns = play.now_ns
        before = len(edits(play))
        play.settle()
        delayed = play.of(StepDelayed)[-1]
        assert delayed.cause == "retry"
        assert delayed.reason
        assert abs(delayed.until_ns - failed_ns - seconds * SECOND_NS) < SECOND_NS // 10
        play.now_ns = delayed.until_ns - 10_000_000
        play.settle()
        assert len(edits(play)) == before
        play.now_ns = max(play.now_ns, delayed.until_ns)
        play.settle()
        assert len(edits(play)) == before + 1
    play.play()
    assert play.states[A] == "completed"


def test_what_waits_for_its_repetition_holds_no_slot():
    play = recovering({(A, "edit"): [broken("tool_failed")]}, max_workers=1)
    play.settle()
    play.act(A, 1)
    play.settle()
    assert set(play.state.open) == {(B, 1)}


def test_each_step_has_counters_of_its_own():
    play = recovering(
        {(A, "edit"): [broken("unknown")] * 0 + [broken("tool_failed")] * 3, (A, "static"): [broken("check_error")] * 3}
    )
    play.play()
    assert play.states[A] == "completed"
    assert [(c.step, c.strategy) for c in play.of(RecoveryChosen)] == [("edit", "retry")] * 3 + [
        ("static", "retry")
    ] * 3


def test_in_a_run_that_nobody_reviews_it_fails():
    play = recovering({(A, "edit"): [broken("auth")]}, review="fail").play()
    assert play.states == {A: "failed", B: "completed"}
    [chosen] = play.of(RecoveryChosen)
    assert (chosen.strategy, chosen.error_class) == ("review", "auth")


def test_a_queue_that_nobody_serves_names_its_class():
    play = recovering({(A, "edit"): [Unclaimed]}).until_stuck()
    assert play.states[A] == "awaiting_review"
    assert play.of(RecoveryChosen)[-1].error_class == "queue_timeout"
    assert "start one" in play.reason(A)


def test_a_merge_that_could_not_judge_is_tried_again_after_a_delay():
    play = recovering(
        {(A, "gate"): [broken("check_error")], (A, "merge"): [broken("setup_error")]},
        recovery={"classes": {"setup_error": ["retry"]}, "jitter": 0},
    )
    play.play()
    assert set(play.states.values()) == {"completed"}
    assert play.of(RecoveryChosen)[0].workstream == "_line"
    assert play.of(StepDelayed)[0].step.step == "merge"


def test_a_definition_whose_table_cannot_be_read_ends_its_run_with_the_reason():
    play = recovering({}, recovery={"retries": 1000}).play()
    assert play.state.status == "failed"
    assert "retries" in play.state.reason


@given(st.data())
def test_a_run_whose_every_attempt_fails_still_comes_to_rest(data):
    """I9: whatever each attempt comes to, within the bound that the table implies."""
    outcomes = data.draw(
        st.lists(st.sampled_from([c for c in CLASSES if c not in {"handed_back", "budget"}]), min_size=1, max_size=12)
    )
    script = {(A, step): [broken(c) for c in outcomes * 30] for step in ("edit", "static", "runtime", "merge")}
    play = recovering(script, recovery={"retries": 2}).until_stuck()
    assert play.states[A] in {"awaiting_review", "completed"}
    assert play.states[B] == "completed"
