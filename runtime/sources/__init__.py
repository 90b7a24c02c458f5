"""Where frames come from: files, cameras, streams, raw frames, the reference world."""
