"""score-edge: keep only the visual tokens that matter, and run a video VLM live on a Jetson-class board."""

__version__ = "0.1.0"
