"""What each role may call: one table for both services. Pure.

A role may do what those before it may. What changes anything needs at least an operator, what changes it for all runs an
admin. A method that is not in the table is refused to everybody.

Some principals are bound to tenants. What they may see of a method's answers is the method's reach:

    open     says nothing that belongs to a tenant, or only to who knows an unguessable name
    run      is about the one run that the request must name, and that run must be of one of their tenants
    tenant   is narrowed to one of their tenants by the request's own field; their only one is taken by itself
    own      the service itself narrows it
    fleet    is about all runs at once and cannot be narrowed: refused to them
"""

from typing import Final, Literal, NamedTuple, get_args

Role = Literal["viewer", "operator", "admin"]
Reach = Literal["open", "run", "tenant", "own", "fleet"]

ROLES: Final[tuple[Role, ...]] = get_args(Role)


class Rule(NamedTuple):
    """The least role that may call a method, and its reach."""

    role: Role
    reach: Reach

    @property
    def changes(self) -> bool:
        """Whether the method may change anything; a refusal of it is recorded."""
        return self.role != "viewer"

    def allows(self, role: Role) -> bool:
        """Whether this role may call it."""
        return ROLES.index(role) >= ROLES.index(self.role)


_SCHEDULER: Final[dict[str, Rule]] = {
    "PlanRun": Rule("viewer", "open"),
    "GetBudget": Rule("viewer", "run"),
    "ListReviews": Rule("viewer", "own"),
    "GetFleet": Rule("viewer", "fleet"),
    "GetSharedBudgets": Rule("viewer", "fleet"),
    "SubmitRun": Rule("operator", "own"),
    "CancelRun": Rule("operator", "run"),
    "RequestStep": Rule("operator", "run"),
    "PauseRun": Rule("operator", "run"),
    "ResumeRun": Rule("operator", "run"),
    "SetBudget": Rule("operator", "run"),
    "ResolveReviews": Rule("operator", "run"),
    "AdjustWorkstream": Rule("operator", "run"),
    "RetryRun": Rule("operator", "run"),
    "RollbackRun": Rule("operator", "run"),
    "DeliverRun": Rule("operator", "run"),
    "RecoverStep": Rule("operator", "run"),
    "PauseFleet": Rule("admin", "fleet"),
    "ResumeFleet": Rule("admin", "fleet"),
    "SetSharedBudget": Rule("admin", "fleet"),
}
_LEDGER: Final[dict[str, Rule]] = {
    "GetStatus": Rule("viewer", "open"),
    "ReadArtifact": Rule("viewer", "open"),
    "GetRun": Rule("viewer", "run"),
    "ListWorkstreams": Rule("viewer", "run"),
    "ListAttempts": Rule("viewer", "run"),
    "GetAttempt": Rule("viewer", "run"),
    "ListEvents": Rule("viewer", "run"),
    "WatchEvents": Rule("viewer", "run"),
    "WatchOutput": Rule("viewer", "run"),
    "GetPatch": Rule("viewer", "run"),
    "ListPatches": Rule("viewer", "run"),
    "ListPatchMoves": Rule("viewer", "run"),
    "ListWaves": Rule("viewer", "run"),
    "ListTransitions": Rule("viewer", "run"),
    "ListErrors": Rule("viewer", "run"),
    "ExplainRun": Rule("viewer", "run"),
    "ListRuns": Rule("viewer", "tenant"),
    "WatchRuns": Rule("viewer", "tenant"),
    "GetCosts": Rule("viewer", "tenant"),
    "GetMetrics": Rule("viewer", "tenant"),
    "ListExecutors": Rule("viewer", "fleet"),
    "ListToolBreakers": Rule("viewer", "fleet"),
    "ListPauses": Rule("viewer", "fleet"),
    "Query": Rule("viewer", "fleet"),
    "GetAnchor": Rule("viewer", "fleet"),
    "VerifyAudit": Rule("viewer", "fleet"),
    "ExportAudit": Rule("viewer", "fleet"),
    "VerifyLedger": Rule("operator", "fleet"),
    "RebuildLedger": Rule("admin", "fleet"),
    "ArchiveLedger": Rule("admin", "fleet"),
    "BackupLedger": Rule("admin", "fleet"),
    "RestoreLedger": Rule("admin", "fleet"),
}

RULES: Final[dict[str, Rule]] = {
    f"/{service}/{method}": rule
    for service, methods in (
        ("swell.scheduler.v1.SchedulerService", _SCHEDULER),
        ("swell.ledger.v1.LedgerService", _LEDGER),
        # What may be called is no secret to who may call anything.
        ("grpc.reflection.v1alpha.ServerReflection", {"ServerReflectionInfo": Rule("viewer", "open")}),
    )
    for method, rule in methods.items()
}
"""By a method's full name."""
