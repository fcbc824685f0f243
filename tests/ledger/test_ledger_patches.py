"""The life of patches, as the log tells it: which facts move them, and that nothing else does."""

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from ledger_histories import BASE, LOG, Story, histories, moved, scheduled, snapshot
from test_ledger_projector import Tables, folded

from services import events as ev
from services.ledger.patches import ALLOWED, SETTLED, refusal
from services.ledger.projector import Projector
from services.ledger.store import Store


@pytest.fixture
def story() -> Story:
    made = Story()
    made.accepted("a")
    return made


def patch(letter: str = "d") -> ev.Artifact:
    return ev.Artifact(role="patch", digest=letter * 64, name=f"patch-{letter}", size_bytes=56)


def made(letter: str = "d", **more) -> ev.StepFinished:
    """The close of an EDIT or FIX that left a patch."""
    told = {"ok": True, "snapshot": snapshot(letter), "changed": True, "artifacts": [LOG, patch(letter)]}
    return ev.StepFinished(**(told | more))


def merged(story: Story, *, number: int, ok: bool = True, **more) -> None:
    """A merge attempt of the line on behalf of a."""
    story.decide(scheduled(ev.LINE, number, "merge", on_behalf="a"))
    story.live(ev.LINE, number, ev.StepStarted(executor="e1", boot="k1"))
    story.live(ev.LINE, number, ev.StepFinished(ok=ok, snapshot=snapshot("f") if ok else None, **more))


def skipped(*checks: ev.Check) -> ev.StepSkipped:
    reason = "verdict_reused" if checks else "noop"
    return ev.StepSkipped(workstream="a", step="gate", tree="F" * 40, reason=reason, checks=list(checks))


ADVANCED = ev.IntegrationAdvanced(workstream="a", from_commit=BASE.commit, to=snapshot("f"))
QUEUED = moved("a", "validating", "merging")
CONFLICT = ev.MergeRefused(workstream="a", reason="conflict", message="conflicts with b in x.py", files=["x.py"])
CHECK = ev.Check(check="c", kind="static", name="ruff")


def committed(story: Story) -> None:
    """An edit whose patch goes all the way."""
    story.step("a", 1, "edit", made())
    story.decide(QUEUED)
    merged(story, number=1)
    story.decide(skipped(CHECK), ADVANCED, moved("a", "merging", "completed", "merged"))


def states(tables: Tables, attempt: int = 1) -> list[str]:
    """The states a patch of a was in, in order."""
    return [row[7] for row in tables.patch_history if row[4:6] == ("a", attempt)]


def test_a_patch_goes_from_its_attempt_to_the_head_of_the_line(story):
    committed(story)
    tables = folded([story.records])
    assert states(tables) == ["created", "validated", "queued", "applied", "verified", "committed"]
    row = tables.patches["r1", "a", 1]
    assert (row.state, row.digest, row.artifact, row.moves, row.refused_moves) == (
        "committed", "d" * 64, "patch-d", 6, 0,
    )  # fmt: skip
    reasons = {move[7]: move[8] for move in tables.patch_history}
    assert reasons["applied"] == f"merged as {'f' * 12}"
    assert reasons["verified"] == "every verdict on the merged tree is known"
    assert all(move[8] and move[9] == story.records[move[0] - 1].time_ns for move in tables.patch_history)
    assert [move[6] for move in tables.patch_history] == ["", *(move[7] for move in tables.patch_history[:-1])]


def test_a_gate_that_ran_verifies_as_well(story):
    story.step("a", 1, "edit", made())
    story.decide(QUEUED)
    merged(story, number=1)
    story.decide(scheduled(ev.LINE, 2, "gate", on_behalf="a"))
    story.live(ev.LINE, 2, ev.StepStarted(executor="e1", boot="k1"))
    story.live(ev.LINE, 2, ev.StepFinished(ok=True))
    assert states(folded([story.records]))[-1] == "verified"
    story.decide(ADVANCED)
    assert states(folded([story.records]))[-1] == "committed"


def test_a_later_patch_drops_the_one_before_and_equal_changes_share_a_hash(story):
    story.step("a", 1, "edit", made())
    story.step("a", 2, "fix", made("e", ok=False, error_class="tool_failed"))
    story.step("a", 3, "fix", made("d"))
    tables = folded([story.records])
    assert [states(tables, n)[-1] for n in (1, 2, 3)] == ["dropped", "dropped", "validated"]
    assert tables.patches["r1", "a", 1].reason == "attempt 2 replaces it"
    assert tables.patches["r1", "a", 1].digest == tables.patches["r1", "a", 3].digest
    assert tables.workstreams["r1", "a"].patch == 3


def test_attempts_without_a_patch_leave_the_one_there_is(story):
    story.step("a", 1, "edit", made())
    story.step("a", 2, "static", ev.StepFinished(ok=False, error_class="check_failed", artifacts=[LOG]))
    story.step("a", 3, "fix", ev.StepFinished(ok=False, error_class="no_change", artifacts=[LOG]))
    story.decide(QUEUED)
    tables = folded([story.records])
    assert (list(tables.patches), states(tables)[-1]) == ([("r1", "a", 1)], "queued")


def test_a_conflict_sends_it_back_and_it_may_be_queued_again(story):
    story.step("a", 1, "edit", made())
    story.decide(QUEUED)
    merged(story, number=1, ok=False, error_class="merge_conflict")
    story.decide(CONFLICT, moved("a", "merging", "fixing"))
    tables = folded([story.records])
    assert (states(tables)[-1], tables.patches["r1", "a", 1].reason) == ("apply_failed", CONFLICT.message)
    story.decide(moved("a", "fixing", "merging"))
    merged(story, number=2)
    assert states(folded([story.records]))[-3:] == ["apply_failed", "queued", "applied"]


def test_a_red_merged_tree_takes_an_applied_patch_back(story):
    story.step("a", 1, "edit", made())
    story.decide(QUEUED)
    merged(story, number=1)
    red = ev.MergeRefused(workstream="a", reason="red", message="red as merged")
    story.decide(red, moved("a", "merging", "awaiting_review", "red as merged"))
    assert states(folded([story.records]))[-3:] == ["applied", "apply_failed", "quarantined"]


def test_what_left_its_scope_is_quarantined_until_a_person_lets_it_go_on(story):
    outside = {"ok": False, "error_class": "scope_violation", "violations": ["x.py"]}
    story.step("a", 1, "edit", made(**outside))
    row = folded([story.records]).patches["r1", "a", 1]
    assert (row.state, row.reason) == ("quarantined", "changed outside its scope: x.py")
    story.decide(moved("a", "editing", "awaiting_review", "edit: scope_violation: x.py"))
    story.decide(moved("a", "awaiting_review", "ready", "approve by ann"))
    assert states(folded([story.records]))[-1] == "quarantined", "ready says nothing of its patch yet"
    story.decide(moved("a", "ready", "static_check"))
    tables = folded([story.records])
    assert (states(tables), tables.patches["r1", "a", 1].reason) == (
        ["created", "quarantined", "validated"],
        "approve by ann",
    )


def test_nothing_leads_out_of_quarantine_by_itself(story):
    story.step("a", 1, "edit", made(violations=["x.py"], message="outside"))
    story.decide(QUEUED)
    merged(story, number=1)
    story.decide(skipped(CHECK), ADVANCED)
    tables = folded([story.records])
    row = tables.patches["r1", "a", 1]
    assert states(tables) == ["created", "quarantined"]
    assert (row.refused_moves, row.refused) == (4, "quarantined does not lead to committed (at 10)")


def test_a_rejected_workstream_drops_its_patch(story):
    story.step("a", 1, "edit", made())
    story.decide(moved("a", "editing", "awaiting_review", "a person must look"))
    story.decide(moved("a", "awaiting_review", "failed", "reject by ann"))
    tables = folded([story.records])
    assert (states(tables)[-2:], tables.patches["r1", "a", 1].reason) == (["quarantined", "dropped"], "reject by ann")


@pytest.mark.parametrize("error_class", ["workspace_error", "unknown"])
def test_work_that_the_workstream_does_not_go_on_with_is_dropped(story, error_class):
    story.step("a", 1, "edit", made())
    story.step("a", 2, "fix", made("e", ok=False, error_class=error_class))
    tables = folded([story.records])
    assert (states(tables, 1)[-1], states(tables, 2)) == ("validated", ["created", "validated", "dropped"])
    assert tables.workstreams["r1", "a"].patch == 1


def test_a_machines_fix_that_leaves_the_scope_takes_no_patch_away(story):
    story.step("a", 1, "edit", made())
    story.decide(scheduled("a", 2, "fix", fix=ev.FixInput(step="static", attempt=1, mechanical=1)))
    story.live("a", 2, ev.StepStarted(executor="e1", boot="k1"))
    story.live("a", 2, made("e", ok=False, error_class="scope_violation", violations=["y.py"]))
    tables = folded([story.records])
    assert (states(tables, 1)[-1], states(tables, 2)) == ("validated", ["created", "quarantined", "dropped"])


@pytest.mark.parametrize("state", ["failed", "cancelled", "completed"])
def test_a_workstream_that_ends_without_its_patch_drops_it(story, state):
    story.step("a", 1, "edit", made())
    story.decide(moved("a", "editing", state))
    assert states(folded([story.records]))[-1] == "dropped"


def test_compensation_rolls_back_what_was_committed_after_the_run_has_ended(story):
    committed(story)
    story.finished()
    story.decide(moved("a", "completed", "compensating"), moved("a", "compensating", "compensated", "1 actions done"))
    for forgetful in (False, True):
        tables = folded([[record] for record in story.records], forgetful=forgetful)
        assert states(tables)[-2:] == ["committed", "rolled_back"]
        assert tables.patches["r1", "a", 1].reason == "1 actions done"


@pytest.mark.parametrize("forgetful", [False, True])
@pytest.mark.parametrize("culprit", ["a", "0"])
def test_what_is_staged_and_taken_back_is_merged_anew_unless_it_is_the_culprit(story, culprit, forgetful):
    """Of a it is told what happens; the other one stands before it."""
    story.step("a", 1, "edit", made())
    story.decide(QUEUED)
    merged(story, number=1)
    before = ev.MergeStaged(workstream="0", from_commit=BASE.commit, to=snapshot("e"))
    story.decide(before)  # an entry stages one merge: the line does one thing at a time
    story.decide(skipped(CHECK), ev.MergeStaged(workstream="a", from_commit="e" * 40, to=snapshot("f")))
    said = "GATE_INTEGRATION fails since it was merged"
    story.decide(ev.MergeRefused(workstream=culprit, reason="red", message=said, taken_back=True))
    tables = folded([[record] for record in story.records], forgetful=forgetful)
    after = ["rolled_back"] if culprit == "a" else ["rolled_back", "queued"]
    assert states(tables)[-len(after) - 1 :] == ["verified", *after]
    assert tables.patches["r1", "a", 1].refused_moves == 0
    if culprit == "a":
        assert tables.patches["r1", "a", 1].reason == said
    else:
        merged(story, number=2)
        assert states(folded([story.records]))[-2:] == ["queued", "applied"]


@pytest.mark.parametrize("purpose", ["wave", "start", "search"])
def test_what_is_only_found_out_moves_no_patch(story, purpose):
    story.step("a", 1, "edit", made())
    story.decide(QUEUED)
    for number, step in ((1, "merge"), (2, "gate")):
        story.decide(scheduled(ev.LINE, number, step, on_behalf="a", purpose=purpose))
        story.live(ev.LINE, number, ev.StepStarted(executor="e1", boot="k1"))
        story.live(ev.LINE, number, ev.StepFinished(ok=True, snapshot=snapshot("f")))
    assert states(folded([story.records]))[-1] == "queued"


def test_late_facts_make_no_patch(story):
    story.decide(scheduled("a", 1, "edit"))
    story.live("a", 1, ev.StepLost(reason="gone", executor="e1"))
    story.late("a", 1, ev.ResultRefused(executor="e1", boot="k", result=made()))
    assert folded([story.records]).patches == {}


def test_every_state_can_be_reached_and_only_what_is_settled_stays():
    assert {to for ways in ALLOWED.values() for to in ways} | {"created"} == set(ALLOWED)
    assert {state for state, ways in ALLOWED.items() if "dropped" not in ways} == SETTLED


def test_only_moves_of_the_table_are_made():
    made = {(state, to) for state, to in itertools.product(ALLOWED, ALLOWED) if not refusal(state, to, "why")}
    assert made == {(state, to) for state, ways in ALLOWED.items() for to in ways}


def test_the_document_has_the_same_table():
    text = (Path(__file__).resolve().parents[2] / "docs" / "patches.md").read_text()
    rows = [line.split("|")[1:4] for line in text.splitlines() if line.startswith("| `") and line.count("|") == 4]
    told = {re.findall("`(.+)`", state)[0]: set(re.findall("`([a-z_]+)`", leads)) for state, _, leads in rows}
    assert told == ALLOWED


def test_quarantine_needs_a_reason():
    assert refusal("queued", "quarantined", "") == "quarantined needs a reason"


@settings(max_examples=60, deadline=None)
@given(histories())
def test_whatever_the_log_holds_a_history_is_a_walk_through_the_table(records):
    tables = folded([records])
    walks: dict[tuple, list[tuple[str, str, str]]] = {}
    for move in tables.patch_history:
        walks.setdefault(move[3:6], []).append((move[6], move[7], move[8]))
    assert walks.keys() == tables.patches.keys()
    for key, moves in walks.items():
        row = tables.patches[key]
        assert (moves[0][0], moves[0][1]) == ("", "created")
        assert [before for before, _, _ in moves[1:]] == [to for _, to, _ in moves[:-1]]
        assert all(to in ALLOWED[before] for before, to, _ in moves[1:])
        assert all(reason for _, to, reason in moves if to == "quarantined")
        assert (row.state, row.moves) == (moves[-1][1], len(moves))
    places = [move[:3] for move in tables.patch_history]
    assert places == sorted(set(places))


def test_the_store_gives_back_the_patches_that_workstreams_go_on_with(story, tmp_path: Path):
    committed(story)
    story.decide(moved("b", "ready", "editing"))
    story.step("b", 1, "edit", made("e"))
    story.step("b", 2, "fix", made("f"))
    store = Store.open(tmp_path / "l")
    tables = folded([story.records])
    store.commit(Projector(store.tip, store).fold(story.records))
    known = store.run("r1")
    assert known is not None
    assert {row.workstream: row for row in known.patches} == {
        "a": tables.patches["r1", "a", 1],
        "b": tables.patches["r1", "b", 2],
    }
    store.close()
