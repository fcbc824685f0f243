"""The recovery table: what is tried after which failure, how long is waited, and that it comes to an end."""

from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scheduler_harness import Play, Unclaimed, broken, bundle, spec

from services.config import read_yaml
from services.events import ErrorClass, RecoveryChosen, StepScheduled
from services.resources import CONFIG
from services.scheduler.recovery import (
    DEFAULT_CLASSES,
    RecoveryConfig,
    RecoveryConfigError,
    Used,
    after,
    choose,
    parse_recovery_config,
)
