"""Messages are for ever: every kind has golden bytes, and whatever else arrives is refused with a reason."""

import contextlib
from pathlib import Path

import msgspec
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from regenerate import full_entry, minimal_entry

from services import events as ev
from services.commands import RunStep
from services.wire import (
    COMMAND_BYTES_MAX,
    ENTRY_BYTES_MAX,
    Entry,
    Place,
    UnknownKindError,
    WireError,
    all_of_run,
    attempt_subject,
    command_subject,
    decode_command,
    decode_entry,
    decode_envelope,
    encode_command,
    encode_entry,
    late_subject,
    parse_subject,
    request_subject,
    run_subject,
    token,
)

GOLDEN = Path(__file__).parent / "golden"
EARLIER = Path(__file__).parent / "earlier"
"""What versions before wrote of kinds that have gained fields since."""
EVENT_KINDS = sorted(kind.__struct_config__.tag for kind in ev.AnyEvent.__args__)
COMMAND_KINDS = ["run_step"]


def golden(kind):
    """The recorded bytes: every field set, and only what is required."""
    forms = msgspec.json.decode((GOLDEN / f"{kind}.json").read_bytes(), type=dict[str, msgspec.Raw])
    return bytes(forms["full"]), bytes(forms["minimal"])


def test_every_kind_has_golden_bytes_and_every_golden_file_a_kind():
    assert sorted(path.stem for path in GOLDEN.iterdir()) == sorted([*EVENT_KINDS, *COMMAND_KINDS])
    assert sorted(samples.FULL) == sorted(samples.MINIMAL) == EVENT_KINDS
    assert {RunStep.__struct_config__.tag} == set(COMMAND_KINDS) == set(samples.FULL_COMMANDS)


def test_a_kind_is_its_class_in_snake_case_and_stands_once():
    names = {kind.__name__: kind.__struct_config__.tag for kind in ev.AnyEvent.__args__}
    assert len(set(names.values())) == len(names)
    for name, tag in names.items():
        assert tag.replace("_", "") == name.lower()


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_events_are_written_and_read_as_recorded(kind):
    full, minimal = golden(kind)
    whole, least = full_entry(samples.FULL[kind]), minimal_entry(samples.MINIMAL[kind])
    assert encode_entry(whole) == full
    assert encode_entry(least) == minimal
    assert decode_entry(full) == whole
    assert decode_entry(minimal) == least


@pytest.mark.parametrize("kind", sorted(path.stem for path in EARLIER.iterdir()))
def test_what_earlier_versions_wrote_is_read_and_written_as_it_was(kind):
    """A field added since has its default, so that the bytes stay the same."""
    is_command = kind.rstrip("_23456789") in COMMAND_KINDS
    decode, encode = (decode_command, encode_command) if is_command else (decode_entry, encode_entry)
    forms = msgspec.json.decode((EARLIER / f"{kind}.json").read_bytes(), type=dict[str, msgspec.Raw])
    for written in (bytes(forms["full"]), bytes(forms["minimal"])):
        assert encode(decode(written)) == written


@pytest.mark.parametrize("kind", COMMAND_KINDS)
def test_commands_are_written_and_read_as_recorded(kind):
    full, minimal = golden(kind)
    assert encode_command(samples.FULL_COMMANDS[kind]) == full
    assert encode_command(samples.MINIMAL_COMMANDS[kind]) == minimal
    assert decode_command(full) == samples.FULL_COMMANDS[kind]
    assert decode_command(minimal) == samples.MINIMAL_COMMANDS[kind]


def test_an_entry_says_its_trace():
    """The one field of the envelope that the golden files are without: they are what earlier versions wrote."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    entry = msgspec.structs.replace(minimal_entry(samples.MINIMAL["step_started"]), trace=trace)
    data = encode_entry(entry)
    assert data == golden("step_started")[1][:-1] + f',"trace":"{trace}"}}'.encode()
    assert decode_entry(data) == entry
    assert decode_envelope(data).trace == trace


def fields(value, path=""):
    """Every field of a value and of what it holds, with its default and what is there."""
    for field in msgspec.structs.fields(value):
        found = getattr(value, field.name)
        yield f"{path}{field.name}", field, found
        for inner in found if isinstance(found, list) else [found]:
            if isinstance(inner, msgspec.Struct):
                yield from fields(inner, f"{path}{field.name}.")


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_the_full_form_sets_every_field_and_the_minimal_form_none_it_need_not(kind):
    full = {name: (field, found) for name, field, found in fields(samples.FULL[kind])}
    for field, found in (full[f.name] for f in msgspec.structs.fields(samples.FULL[kind])):
        assert field.required or found not in (field.default, [], None), f"{kind}.{field.name} is not set"
    written = msgspec.json.decode(golden(kind)[1])["events"][0]
    required = {f.encode_name for f in msgspec.structs.fields(samples.MINIMAL[kind]) if f.required}
    assert written.keys() == {"kind"} | required


def test_every_field_of_every_nested_value_is_set_somewhere():
    """The full forms exercise what is optional in artifacts, snapshots, checks, results and FIX inputs too."""
    seen, unset = set(), set()
    for event in samples.FULL.values():
        for _, field, found in fields(event):
            (seen if found not in (None, "", 0, [], False) else unset).add(field.name)
    assert unset <= seen


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_fields_of_a_newer_version_are_ignored(kind):
    entry = msgspec.json.decode(golden(kind)[0])
    entry["added_later"] = {"a": [1, None]}
    entry["events"][0]["added_later"] = "x"
    assert decode_entry(msgspec.json.encode(entry)) == full_entry(samples.FULL[kind])


def test_fields_of_a_newer_command_are_ignored():
    command = msgspec.json.decode(golden("run_step")[0])
    command["added_later"] = command["step"]["added_later"] = [1]
    assert decode_command(msgspec.json.encode(command)) == samples.FULL_COMMANDS["run_step"]


# Kinds we do not know


def entry_of(*events):
    return msgspec.json.encode({"id": "i", "run": "r", "at_ns": 0, "by": "b", "events": list(events)})


def test_an_unknown_kind_is_named():
    known = msgspec.to_builtins(samples.FULL["step_started"])
    with pytest.raises(UnknownKindError, match=r"'budget_reserved' is not known to this version: upgrade this service"):
        decode_entry(entry_of(known, {"kind": "budget_reserved", "amount_ns": 5}))


def test_an_unknown_kind_outweighs_what_else_is_wrong():
    """A newer version may write known kinds in another way too; the remedy is the same."""
    with pytest.raises(UnknownKindError, match="brand_new"):
        decode_entry(entry_of({"kind": "step_started"}, {"kind": "brand_new"}))


@pytest.mark.parametrize("event", [{}, {"kind": 5}, {"kind": None}, {"kind": ["x"]}, {"kind": {}}])
def test_an_event_without_a_kind_is_not_of_a_newer_version(event):
    """Nobody writes that, ever: it must not make a scheduler give up its leadership."""
    with pytest.raises(WireError) as refused:
        decode_entry(entry_of(event))
    assert not isinstance(refused.value, UnknownKindError)


def test_an_unknown_command_is_refused():
    with pytest.raises(WireError, match="not a command of this version"):
        decode_command(b'{"kind":"stop_everything"}')


# Hostile bytes

HOSTILE = [
    b"",
    b"\x00",
    b"null",
    b"[]",
    b"42",
    b"{",
    b"\xff\xfe\xfd",
    b'{"id":"\xff"}',
    b'{"id":"\\ud800","run":"r","at_ns":1,"by":"b","events":[]}',
    b"[" * 100_000,
    b'{"id":' * 50_000,
    b'{"id":"x","run":"r","at_ns":1,"by":"b","events":[' + b"[" * 50_000,
    b'{"id":"x","run":"r","at_ns":1,"by":"b","added":'
    + b"[" * 5_000
    + b"]" * 5_000
    + b',"events":[{"kind":"step_lost"}]}',
    b'{"id":"x","run":"r","at_ns":' + b"9" * 100_000 + b',"by":"b","events":[]}',
    b'{"id":"x","run":"r","at_ns":1e999,"by":"b","events":[]}',
    b'{"id":"x","run":"r","at_ns":"1","by":"b","events":[]}',
    b'{"id":5,"run":"r","at_ns":1,"by":"b","events":[]}',
    b'{"id":"x","run":"r","at_ns":1,"by":"b","events":{}}',
    b'{"id":"x","run":"r","at_ns":1,"by":"b","events":[null]}',
    b'{"id":"x","run":"r","at_ns":1,"by":"b","events":["step_lost"]}',
    b'{"id":"x","run":"r","at_ns":1,"by":"b"}',
    b'{"id":"x","run":"r","at_ns":1,"by":"b","events":[{"kind":"step_lost","reason":5}]}',
    b'{"id":"x","run":"r","at_ns":1,"by":"b","events":[{"kind":"step_lost","reason":"\xc3\x28"}]}',
    b'{"id":"x","run":"r","at_ns":1,"by":"b","events":[{"kind":"step_lost","reason":"' + b"x" * 2001 + b'"}]}',
    b'{"id":"x","run":"r","at_ns":1,"by":"b","events":[{"kind":"step_finished","ok":"yes"}]}',
    b'{"id":"x","run":"r","at_ns":1,"by":"b","events":[{"kind":"step_finished","ok":true,"error_class":"new"}]}',
    b'{"id":"x","run":"r","at_ns":1,"by":"b","events":[]} trailing',
    b"x" * 10_000_000,
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_are_refused(data):
    for decode in (decode_entry, decode_command):
        with pytest.raises(WireError) as refused:
            decode(data)
        assert not isinstance(refused.value, UnknownKindError)
        assert len(str(refused.value)) < 1000


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    for decode in (decode_entry, decode_command):
        with contextlib.suppress(WireError):
            decode(data)


@given(st.data())
def test_any_damage_to_a_message_is_read_or_refused(data):
    """One byte of a recorded message is another, or it ends early."""
    whole = golden(data.draw(st.sampled_from(EVENT_KINDS)))[0]
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + data.draw(st.sampled_from([b"", bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]]))
    with contextlib.suppress(WireError):
        decode_entry(damaged)


# Size


def widened(value, text, items):
    """A value with every text and every list as long as they get."""
    changes = {}
    for field in msgspec.structs.fields(value):
        found = getattr(value, field.name)
        if isinstance(found, str) and isinstance(msgspec.inspect.type_info(field.type), msgspec.inspect.StrType):
            limited = msgspec.inspect.type_info(field.type).max_length
            changes[field.name] = text[:limited] if limited else text[:200]
        elif isinstance(found, list) and found:
            inner = found[0]
            wide = widened(inner, text, items) if isinstance(inner, msgspec.Struct) else inner
            changes[field.name] = [text[:200] if isinstance(wide, str) else wide] * items
        elif isinstance(found, msgspec.Struct):
            changes[field.name] = widened(found, text, items)
    return msgspec.structs.replace(value, **changes)


@pytest.mark.parametrize("kind", EVENT_KINDS)
@pytest.mark.parametrize("letter", ["x", "\x00", "😀"])
def test_an_entry_fits_or_is_refused_by_name(kind, letter):
    for items in (1, 100, 5000):
        entry = full_entry(widened(samples.FULL[kind], letter * 4000, items))
        size = len(msgspec.json.encode(entry))
        if size > ENTRY_BYTES_MAX:
            assert items > 1, f"the longest {kind} with one item in each list does not fit"
            with pytest.raises(WireError, match=rf"{type(entry.events[0]).__name__}.*move its text to an artifact"):
                encode_entry(entry)
        else:
            assert decode_entry(encode_entry(entry)) == entry


def test_the_limit_is_exact():
    def of(count):
        return full_entry(ev.WaveStarted(wave=1, workstreams=["x" * count]))

    rest = ENTRY_BYTES_MAX - len(encode_entry(of(0)))
    assert len(encode_entry(of(rest))) == ENTRY_BYTES_MAX
    with pytest.raises(WireError, match=f"entry of run r1 is {ENTRY_BYTES_MAX + 1} bytes, over {ENTRY_BYTES_MAX}"):
        encode_entry(of(rest + 1))


def test_a_command_fits_or_is_refused():
    step = samples.FULL["step_scheduled"]
    command = samples.FULL_COMMANDS["run_step"]
    large = msgspec.structs.replace(command, step=msgspec.structs.replace(step, merged=[(n, n) for n in range(50_000)]))
    with pytest.raises(WireError, match=f"command of run r1 is .* over {COMMAND_BYTES_MAX}"):
        encode_command(large)


@pytest.mark.parametrize(
    "event",
    [
        ev.StepLost(reason="x" * 2001),
        ev.StepFinished(ok=True, files=["caf\udce9.py"]),
        ev.StepFinished(ok=True, wall_s=float("nan")),
    ],
    ids=["text over its limit", "a name that is not UTF-8", "not a number"],
)
def test_what_could_not_be_read_back_is_not_written(event):
    """An entry that nobody can decode would stand in the log for ever."""
    with pytest.raises(WireError):
        encode_entry(full_entry(event))


# Subjects


@pytest.mark.parametrize(
    ("subject", "place"),
    [
        (run_subject("r1"), Place("run", "r1")),
        (request_subject("r1"), Place("request", "r1")),
        (attempt_subject("r1", "ws-a", 12), Place("attempt", "r1", "ws-a", 12)),
        (attempt_subject("r1", ev.LINE, 1), Place("attempt", "r1", "_line", 1)),
        (late_subject("r1", "ws-a", 12), Place("late", "r1", "ws-a", 12)),
        ("swell.event.fleet.run", Place("run", "fleet")),
        ("swell.event.fleet.request", Place("request", "fleet")),
    ],
)
def test_a_subject_says_its_place(subject, place):
    assert parse_subject(subject) == place


NAMES = st.from_regex(r"\A[A-Za-z0-9_-]{1,128}\Z")


@given(NAMES, NAMES, st.integers(1, 999_999_999))
def test_subjects_round_trip(run, workstream, attempt):
    assert parse_subject(run_subject(run)) == Place("run", run)
    assert parse_subject(request_subject(run)) == Place("request", run)
    assert parse_subject(attempt_subject(run, workstream, attempt)) == Place("attempt", run, workstream, attempt)
    assert parse_subject(late_subject(run, workstream, attempt)) == Place("late", run, workstream, attempt)
    everything = all_of_run(run).removesuffix(">")
    for subject in (run_subject(run), request_subject(run), late_subject(run, workstream, attempt)):
        assert subject.startswith(everything)
    assert command_subject("p", run, workstream, attempt) == f"swell.command.p.{run}.{workstream}.{attempt}"


@pytest.mark.parametrize(
    "subject",
    [
        "", "swell", "swell.event", "swell.event.r1", "swell.event.r1.other", "swell.event.r1.ws-a.x",
        "swell.event.r1.ws-a.-1", "swell.event.r1.ws-a.1.2", "swell.event.r1.ws-a.1.late.more", "swell.command.p.r1.ws-a.1",
        "swell.event.r1.ws-a.²", "swell.event.r1.ws-a.٣", "swell.event.r1.ws-a.", "swell.event.r1.ws-a." + "9" * 5000,
        "SWELL.EVENT.r1.run",
    ],
)  # fmt: skip
def test_any_other_subject_is_refused(subject):
    with pytest.raises(WireError, match="is not a subject of SWELL_EVENTS"):
        parse_subject(subject)


@given(st.text(max_size=60))
def test_any_subject_is_understood_or_refused(text):
    for subject in (text, f"swell.event.{text}", f"swell.event.r.{text}", f"swell.event.r.w.{text}"):
        with contextlib.suppress(WireError):
            parse_subject(subject)


@pytest.mark.parametrize(
    "name",
    ["", "a.b", "a b", "*", ">", "ws-*", "a\n", "\n", "a\r\nPUB x", "ä", "a\x00", "x" * 129, "²", "a/b", "\u2028"],
)
def test_what_cannot_be_one_token_is_refused(name):
    """A subject is made of what users name: a wildcard, a dot or a line feed in it would be another subject."""
    with pytest.raises(WireError, match="cannot be part of a subject"):
        token(name)
    for build in (run_subject, request_subject, all_of_run, lambda n: attempt_subject("r", n, 1)):
        with pytest.raises(WireError):
            build(name)
    with pytest.raises(WireError):
        command_subject(name, "r", "w", 1)


@pytest.mark.parametrize("name", ["a", "_line", "ws-a", "R1_x-9", "x" * 128])
def test_what_can_be_one_token_is_itself(name):
    assert token(name) == name


def test_an_entry_keeps_the_order_of_its_events():
    events = [samples.FULL["wave_started"], samples.FULL["step_scheduled"], samples.MINIMAL["wave_started"]]
    entry = Entry(id="i", run="r", at_ns=0, by="b", events=events)
    assert decode_entry(encode_entry(entry)).events == events


def test_bytes_are_the_same_whenever_they_are_written():
    """Equality of bytes is how a lost acknowledgement is recognised."""
    for kind in EVENT_KINDS:
        entry = full_entry(samples.FULL[kind])
        assert encode_entry(entry) == encode_entry(decode_entry(encode_entry(entry)))
