"""ONNX → TensorRT: prepare, build, compare, file. Needs no torch: it runs on the board."""
