"""Generated from proto/swell/ledger/v1 by `make proto`; only the server and the client import it."""
