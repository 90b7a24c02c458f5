"""What runs encoder and policy: ONNX Runtime or TensorRT, on CPU or GPU."""
