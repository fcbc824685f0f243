"""Where an adapter reads: the tool's two outputs, or a file that it writes."""

from typing import Literal

Source = Literal["stdout", "stderr", "file"]
