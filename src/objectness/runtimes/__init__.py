"""Runtimes that a trained network can run on or be exported for, all of them with the same selection after them.

`engine` says what an engine is; `choose` makes one by name and knows which is fastest; `pytorch`, `ncnn`, `onnxruntime`
and `openvino` are one runtime each, which write its files and run them, imported only when asked for. `cache` keeps
what was converted. `export` is what `objectness export` does: write, compare with torch on a photo, and only then let
the file appear; `onnx_selection` puts the selection behind the network where the format can.
"""
