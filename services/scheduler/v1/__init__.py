"""Generated from proto/swell/scheduler/v1 by `make proto`; only the server and the client import it."""
