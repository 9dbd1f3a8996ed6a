"""Networks of other tools: ONNX (Open Neural Network Exchange) in and out."""
