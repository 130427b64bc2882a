"""Networks as files for other runtimes: the maps alone, or with the selection behind them where the format can.

`to_onnx`, `to_openvino` and `to_ncnn` write one format each; the engines run what they write. `files` is what
`objectness export` does: write, compare with torch on a photo, and only then let the file appear.
"""
