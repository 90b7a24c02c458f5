"""What an ONNX file is: what TensorRT refuses, its precision, its cost, how two of them differ."""
