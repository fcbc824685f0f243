"""The FIX-loop breaker: limits hold for any history, and a decision names the one that tripped."""

from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from services.bundle import WorkstreamBundle
from services.scheduler import breaker
from services.scheduler.breaker import (
    BreakerConfig,
    BreakerConfigError,
    CircuitBreakerError,
    FixLoopState,
    StepLimits,
    allow_fix_attempt,
    decide,
    detect_oscillation,
    parse_breaker_config,
    record_failure,
    record_fix,
)

SHIPPED = Path(breaker.__file__).parents[2] / "config" / "circuit_breaker_config.yaml"
FORM = {
    "max_fix_iterations": {"static": 3, "runtime": 2},
    "oscillation_window": 5,
    "min_oscillation_repeats": 2,
    "timeouts": {"edit": 600, "static": 300, "runtime": 300, "fix": 300, "idle": 120},
}


def failures(*signatures, step="static"):
    """Each failure on a tree of its own, a FIX after each but the last."""
    state = FixLoopState()
    for at, signature in enumerate(signatures):
        state = record_failure(state, step, signature, f"tree-{at}")
        if at < len(signatures) - 1:
            state = record_fix(state, step)
    return state


def test_the_usage_of_the_seed():
    breaker_config = FORM
    state = FixLoopState()
    assert allow_fix_attempt(state, step="static", cfg=breaker_config)
    assert not detect_oscillation(state, cfg=breaker_config)
    assert issubclass(CircuitBreakerError, RuntimeError)


@pytest.mark.parametrize(("step", "limit"), [("static", 3), ("runtime", 2), ("edit", 0), ("merge", 2), ("gate", 2)])
def test_fix_calls_are_limited_by_step(step, limit):
    state, calls = FixLoopState(), 0
    while decide(state, step, BreakerConfig()).allowed:
        state = record_fix(record_failure(state, step, f"error-{calls}", f"tree-{calls}"), step)
        calls += 1
    assert calls == limit
    verdict = decide(state, step, BreakerConfig())
    assert verdict.limit == "max_fix_iterations"
    assert f"{limit} allowed" in verdict.reason


def test_one_error_left_as_it_was_by_one_fix_trips():
    assert decide(failures("e"), "static", FORM).allowed
    verdict = decide(failures("e", "e"), "static", FORM)
    assert (verdict.allowed, verdict.limit) == (False, "oscillation_signature")
    assert "2 times in the last 5 failures" in verdict.reason


def test_an_error_that_comes_back_trips():
    assert decide(failures("e", "f"), "static", FORM).allowed
    assert decide(failures("e", "f", "e"), "static", FORM).limit == "oscillation_signature"


def test_the_same_tree_twice_trips():
    state = record_failure(record_failure(FixLoopState(), "static", "e", "t"), "runtime", "f", "t")
    assert decide(state, "runtime", FORM).limit == "oscillation_tree"
    assert detect_oscillation(state, cfg=BreakerConfig())


def test_an_occurrence_outside_the_window_does_not_count():
    config = {**FORM, "oscillation_window": 2, "max_fix_iterations": {"static": 9}}
    assert decide(failures("e", "f", "e"), "static", config).allowed
    assert not decide(failures("e", "e"), "static", config).allowed


def test_zero_repeats_switches_oscillation_off():
    assert decide(failures("e", "e", "e"), "static", {"min_oscillation_repeats": 0}).allowed


def test_counters_span_the_workstream():
    state = record_fix(record_failure(failures("a", "b"), "runtime", "c", "t"), "runtime")
    assert (state.step_attempts, state.fix_attempts) == (3, 2)
    assert state.step_attempts_by_step == {"static": 2, "runtime": 1}
    assert state.fix_attempts_by_step == {"static": 1, "runtime": 1}
    assert state.signature_counts == {"a": 1, "b": 1, "c": 1}
    assert (state.recent_signatures, state.recent_trees) == (("a", "b", "c"), ("tree-0", "tree-1", "t"))


def test_recording_leaves_the_earlier_state_alone():
    before = FixLoopState()
    record_fix(record_failure(before, "static", "e", "t"), "static")
    assert before == FixLoopState()
    assert msgspec.convert(msgspec.to_builtins(failures("a", "b")), FixLoopState) == failures("a", "b")


HISTORY = st.lists(
    st.tuples(st.sampled_from(["static", "runtime"]), st.sampled_from("abc"), st.sampled_from("xyz")), max_size=12
)


@given(HISTORY, st.integers(1, 6), st.integers(1, 4))
def test_oscillation_is_occurrences_within_the_window(history, window, repeats):
    state = FixLoopState()
    for step, signature, tree in history:
        state = record_failure(state, step, signature, tree)
    last = history[-window:]
    signatures, trees = [s for _, s, _ in last], [t for _, _, t in last]
    expected = any(column.count(v) >= repeats for column in (signatures, trees) for v in column)
    config = {"oscillation_window": window, "min_oscillation_repeats": repeats}
    assert detect_oscillation(state, cfg=config) == expected


@given(st.lists(st.tuples(st.sampled_from(["static", "runtime"]), st.text(max_size=3), st.text(max_size=3))))
def test_no_behaviour_of_tools_exceeds_the_limits(history):
    state, calls = FixLoopState(), {"static": 0, "runtime": 0}
    for step, signature, tree in history:
        state = record_failure(state, step, signature, tree)
        if decide(state, step, BreakerConfig()).allowed:
            state = record_fix(state, step)
            calls[step] += 1
    assert calls["static"] <= 3
    assert calls["runtime"] <= 2


@given(st.integers(0, 300))
def test_a_state_stays_small(count):
    state = FixLoopState()
    for at in range(count):
        state = record_failure(state, "static", str(at), str(at))
    assert len(state.recent_trees) == min(count, breaker.OSCILLATION_WINDOW_MAX)


def test_the_shipped_file_states_the_defaults():
    text = SHIPPED.read_text()
    assert yaml.safe_load(text) == FORM
    assert parse_breaker_config(yaml.safe_load(text), "shipped") == BreakerConfig()


@pytest.mark.parametrize("empty", [None, {}, {"defaults": {}}, {"per_step": {}}, {"circuit_breakers": None}])
def test_absent_keys_take_the_defaults(empty):
    assert parse_breaker_config(empty, "x") == BreakerConfig()


def test_a_part_of_the_form_leaves_the_rest():
    config = parse_breaker_config({"max_fix_iterations": {"static": 7}, "timeouts": {"edit": 0.5}}, "x")
    assert (config.static.max_fix_iterations, config.runtime.max_fix_iterations) == (7, 2)
    assert (config.timeouts.edit, config.timeouts.fix) == (0.5, 300)


LEGACY = {
    "defaults": {
        "max_attempts_per_step": 3,
        "max_fix_attempts_per_step": 2,
        "max_attempts_per_error_signature": 3,
        "oscillation_window": 4,
        "oscillation_threshold": 2,
        "enable_fix_for_steps": ["static", "runtime"],
    },
    "per_step": {
        "static": {"max_attempts_per_step": 9, "max_fix_attempts_per_step": 5, "oscillation_window": 6},
        "runtime": {"max_attempts_per_step": 2},
    },
}


@pytest.mark.parametrize("mapping", [LEGACY, {"circuit_breakers": LEGACY}])
def test_the_older_form_is_read_and_per_step_overrides_defaults(mapping):
    config = parse_breaker_config(mapping, "x")
    assert config.static == StepLimits(
        max_fix_iterations=5, oscillation_window=6, min_oscillation_repeats=2, error_repeats_max=3
    )
    assert config.runtime == StepLimits(
        max_fix_iterations=1, oscillation_window=4, min_oscillation_repeats=2, error_repeats_max=3
    )
    assert config.timeouts == BreakerConfig().timeouts


def test_the_older_keys_may_stand_by_themselves():
    config = parse_breaker_config({"max_fix_attempts_per_step": 1, "enable_fix_for_steps": ["static"]}, "x")
    assert (config.static.max_fix_iterations, config.runtime.max_fix_iterations) == (1, 0)


@pytest.mark.parametrize(
    ("mapping", "key"),
    [
        ({"max_fix": 1}, "max_fix"),
        ({"max_fix_iterations": {"edit": 1}}, "edit"),
        ({"timeouts": {"merge": 1}}, "merge"),
        ({"defaults": {"x": 1}}, "x"),
        ({"per_step": {"edit": {}}}, "edit"),
        ({"per_step": {"static": {"enable_fix_for_steps": []}}}, "enable_fix_for_steps"),
        ({**LEGACY, "min_oscillation_repeats": 2}, "min_oscillation_repeats"),
        ({"max_fix_attempts_per_step": 1, "timeouts": {}}, "timeouts"),
        ({"oscillation_window": 0}, "oscillation_window"),
        ({"oscillation_window": True}, "oscillation_window"),
        ({"oscillation_window": "5"}, "oscillation_window"),
        ({"max_fix_iterations": {"static": -1}}, "static"),
        ({"timeouts": {"edit": 0}}, "edit"),
        ({"timeouts": {"edit": float("nan")}}, "edit"),
        ({"timeouts": {"edit": float("inf")}}, "edit"),
    ],
)
def test_a_bad_key_is_refused_by_name(mapping, key):
    with pytest.raises(BreakerConfigError, match=key) as caught:
        parse_breaker_config(mapping, "breaker.yaml")
    assert str(caught.value).startswith("breaker.yaml: ")


@pytest.mark.parametrize("other", [[], "x", 5, {5: 1}, {"circuit_breakers": []}])
def test_what_is_no_mapping_of_keys_is_refused(other):
    with pytest.raises(BreakerConfigError):
        parse_breaker_config(other, "x")


def bundle(**circuit_breaker):
    return WorkstreamBundle(
        id="ws-a",
        openspec_change="OS-1",
        ccpm_issue=1,
        gate=1,
        files_scope=("a",),
        tasks=(),
        tool="t",
        circuit_breaker=circuit_breaker or None,
    )


def test_a_bundle_overrides_both_loops():
    config = BreakerConfig().for_bundle(bundle(max_attempts=2, max_error_repeats=4, oscillation_threshold=3))
    limits = StepLimits(max_fix_iterations=1, min_oscillation_repeats=3, error_repeats_max=4)
    assert (config.static, config.runtime) == (limits, limits)
    assert BreakerConfig().for_bundle(bundle()) == BreakerConfig()
    assert BreakerConfig().for_bundle(bundle(max_attempts=1)).static.max_fix_iterations == 0


def test_repeats_of_one_error_are_counted_over_the_whole_workstream():
    config = BreakerConfig().for_bundle(bundle(max_attempts=9, max_error_repeats=3, oscillation_threshold=0))
    assert decide(failures("e", "f", "e", "g"), "static", config).allowed
    assert decide(failures("e", "f", "e", "g", "e"), "static", config).limit == "oscillation_signature"
