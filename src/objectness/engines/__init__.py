"""Runtimes that a trained network can run on, all of them with the same selection after them.

`interface` says what an engine is, makes one by name and knows which is fastest; `torch_engine`, `ncnn_engine`,
`onnxruntime_engine` and `openvino_engine` are one runtime each, imported only when asked for. What they run is written
by `objectness.export`, once, and kept by `cache`.
"""
