"""score-edge: keep only the visual tokens that matter, and run a video VLM live on a Jetson-class board."""

import os

# ONNX Runtime from 1.32 on keeps a device id and a database of events in the user's cache, and sends them to Microsoft,
# unless this is set before its import. Here, because every import of ours and every process we start passes by here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
