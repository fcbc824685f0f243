"""What the scheduler asks of executors. Imperative; derivable from the log, so a command may be lost or repeated."""

from typing import TypeAlias

import msgspec

from services.events import Artifact, StepScheduled


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Common to all kinds: the tag field `kind`."""


class RunStep(Command, frozen=True, kw_only=True, tag="run_step"):
    """Claim attempt `<run>/<workstream>/<attempt>` and run it.

    `scheduled_ns` is the time of the decision in the log: the author date of any commit the attempt makes.
    `spec` is the run's definition; executors keep it by digest. `trace` is the W3C traceparent of the
    request that submitted the run, "" without one; what derives from it, services.trace says.
    """

    run: str
    spec: Artifact
    scheduled_ns: int
    step: StepScheduled
    trace: str = ""


AnyCommand: TypeAlias = RunStep
