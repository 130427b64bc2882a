import copyreg
import io
import os
import pickle
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from objectness.errors import AnnotationError, CheckpointError
from objectness.pickles import Inert, read_arrays

ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "big-endian": np.arange(6, dtype=">f8").reshape(3, 2),
    "empty": np.zeros((0, 4), np.float32),
    "by columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "by another order": np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0),
    "strided": np.arange(16).reshape(4, 4)[::2, ::2],
    "no axes": np.array(5),
    "strings": np.array(["ab", "ü"]),
    "bytes": np.array([b"ab", b"\xff"]),
    "bools": np.array([True, False]),
    "complex": np.array([1 + 2j]),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_arrays_as_pickle_does(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "arrays.pkl"
    file.write_bytes(pickle.dumps(ARRAYS, protocol))
    found = read_arrays(file)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert isinstance(found[name], np.ndarray)
        assert found[name].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], array, strict=array.dtype.isnative)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_plain_values_and_tensors(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "values.pkl"
    values = [1, 2.5, None, True, "ü\u2028", b"", b"\x00\xff", (1, (2,)), {3, 4}, {"a": [10**30]}, np.float32(3.5)]
    tensors = [torch.arange(6.0).reshape(2, 3)[:, 1:], torch.ones(2, dtype=torch.bfloat16), torch.zeros(0, 4)]
    state = OrderedDict(weight=1, bias=2)
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # as a network's state dict has it
    file.write_bytes(pickle.dumps((values, tensors, state), protocol))
    read_values, read_tensors, read_state = read_arrays(file)
    assert read_values == values
    assert [type(value) for value in read_values] == [type(value) for value in values]
    for read, tensor in zip(read_tensors, tensors, strict=True):
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)
    assert isinstance(read_state, dict)
    assert list(read_state.items()) == [("weight", 1), ("bias", 2)]


def test_reads_what_python_2_wrote(tmp_path: Path) -> None:
    """Its strings are bytes (opcode U), and so are an array's values: 1.0 and 2.0 as little-endian float32."""
    file = tmp_path / "python2.pkl"
    file.write_bytes(
        b"\x80\x02}(U\x04fileU\x05\xe9.jpgU\x05arraycnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        b"U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tbu."
    )
    found = read_arrays(file)
    assert found["file"] == "é.jpg"
    assert found["array"].tolist() == [1.0, 2.0]


class Holder:
    """A class of somebody else's."""

    def __init__(self) -> None:
        self.boxes = np.ones((1, 4))
        raise AssertionError("made")


class Mode:
    def __reduce__(self) -> tuple[object, ...]:
        return Mode, (1,)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_named_classes_become_inert(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "objects.pkl"
    holder = Holder.__new__(Holder)
    holder.boxes = np.ones((1, 4))
    file.write_bytes(pickle.dumps([holder, Mode()], protocol))
    with pytest.raises(CheckpointError, match=rf"objects\.pkl: asks to run {__name__}\.Holder, which no file of"):
        read_arrays(file)
    first, second = read_arrays(file, inert=[f"{__name__}.Holder", f"{__name__}.Mode"])
    assert isinstance(first, Inert)
    assert (first.args, second.args, second.state) == ((), (1,), None)
    assert first.state["boxes"].tolist() == [[1, 1, 1, 1]]


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., object], *args: object):
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


class TakesState:
    """Pickles as an ordered dict that is given a state."""

    def __init__(self, state: object):
        self.state = state

    def __reduce__(self) -> tuple[object, ...]:
        return OrderedDict, (), self.state


def put(text: str) -> bytes:
    """The opcode that puts a string on the stack."""
    content = text.encode()
    return b"X" + len(content).to_bytes(4, "little") + content


def save_with_torch(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


EXTENSION = 200  # a code for private use


@pytest.fixture
def _extension() -> Iterator[None]:
    copyreg.add_extension("posix", "system", EXTENSION)
    yield
    copyreg.remove_extension("posix", "system", EXTENSION)
    copyreg.clear_extension_cache()


def make_attacks(marker: Path) -> dict[str, bytes]:
    """Pickles that make a file when they are read without care; the opcodes by hand where no class leads to them."""
    touch, code = f"touch '{marker}'", f"open({str(marker)!r}, 'w').close()"
    runs = Calls(os.system, touch)
    return {
        "os.system": pickle.dumps(runs),
        "os.system, protocol 0": pickle.dumps(runs, 0),
        "eval": pickle.dumps(Calls(eval, code)),
        "exec, protocol 2": pickle.dumps(Calls(exec, code), 2),
        "subprocess": pickle.dumps(Calls(subprocess.call, ["touch", str(marker)])),
        "deep within": pickle.dumps({"boxes": [np.ones(4), (runs,)]}),
        "as a key": pickle.dumps({runs: 1}),
        "in a state": pickle.dumps(TakesState({"x": runs})),
        "in an array's values": pickle.dumps(np.array([runs], dtype=object)),
        "in a tensor's storage": pickle.dumps(Calls(torch.storage._load_from_bytes, save_with_torch(runs))),
        "getattr": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(" + put("os") + b"tR" + put("system") + b"tR("
        + put(touch) + b"tR.",
        "a name with a dot": b"\x80\x04" + put("shutil") + put("os.system") + b"\x93(" + put(touch) + b"tR.",
        "INST": b"(" + put(code) + b"ibuiltins\neval\n.",
        "OBJ": b"(cbuiltins\neval\n" + put(code) + b"o.",
        "NEWOBJ": b"cbuiltins\nlist\n(cbuiltins\nmap\n(cbuiltins\nexec\n(" + put(code) + b"lt\x81tR.",
        "EXT1": b"\x80\x02\x82" + bytes([EXTENSION]) + b"(" + put(touch) + b"tR.",
    }  # fmt: skip


def run_by_pickle(file: Path, marker: Path) -> None:
    """See that an ordinary reader runs it: what does no harm there would show nothing here."""
    pickle.loads(file.read_bytes())
    marker.unlink()


@pytest.mark.usefixtures("_extension")
@pytest.mark.parametrize("name", list(make_attacks(Path("marker"))))
def test_nothing_runs(tmp_path: Path, name: str) -> None:
    marker, file = tmp_path / "marker", tmp_path / "evil.pkl"
    file.write_bytes(make_attacks(marker)[name])
    run_by_pickle(file, marker)  # this also puts the extension into copyreg's cache
    with pytest.raises(AnnotationError, match=r"evil\.pkl: .*(; nothing was run$|Weights only load failed)"):
        read_arrays(file, error=AnnotationError)
    assert not marker.exists()


def test_a_state_that_is_called_later_is_not(tmp_path: Path) -> None:
    """BUILD calls __setstate__, which the first BUILD can have put there: a function of the pickle's choice."""
    marker, file = tmp_path / "marker", tmp_path / "evil.pkl"
    touch = f"touch '{marker}'"
    made = f"c{__name__}\nThing\n(tR"
    file.write_bytes(made.encode() + b"}(" + put("__setstate__") + b"cos\nsystem\nub" + put(touch) + b"b.")
    run_by_pickle(file, marker)
    with pytest.raises(CheckpointError, match=r"asks to run os\.system"):
        read_arrays(file, inert=[f"{__name__}.Thing"])
    assert not marker.exists()


class Thing:
    """An object with attributes."""


def test_says_what_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "evil.pkl"
    file.write_bytes(pickle.dumps(Calls(eval, "1")))
    with pytest.raises(CheckpointError) as caught:
        read_arrays(file)
    assert str(caught.value) == f"{file}: asks to run builtins.eval, which no file of arrays needs; nothing was run"
    file.write_bytes(b"c" + b"m" * 1000 + b"\nsystem\n.")
    with pytest.raises(CheckpointError, match=r"asks to run mm+\.\.\.m*\.system, which") as caught:
        read_arrays(file)
    assert len(str(caught.value)) < len(str(file)) + 150


SHARED = [
    "numpy.core.multiarray\n_reconstruct",
    "numpy\ndtype",
    "numpy\nndarray",
    "collections\nOrderedDict",
    "__builtin__\nset",
    "_codecs\nencode",
    f"{__name__}\nHolder",
]


def test_nothing_is_changed_for_the_next_file(tmp_path: Path) -> None:
    """A state may be given to whatever is on the stack: to functions, classes and dtypes that all readings share."""
    fine, evil = tmp_path / "fine.pkl", tmp_path / "evil.pkl"
    fine.write_bytes(pickle.dumps([ARRAYS["float32"], TakesState({}), {1}], 2))
    state = b"N}(" + put("__defaults__") + b"(K\x01t" + put("_make") + b"K\x01" + put("__setstate__") + b"K\x01u\x86b."
    for name in SHARED:
        evil.write_bytes(b"\x80\x02c" + name.encode() + b"\n" + state)
        with pytest.raises(CheckpointError, match="no readable pickle"):
            read_arrays(evil, inert=[f"{__name__}.Holder"])
    swap = b"(K\x03X\x01\x00\x00\x00>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb."
    evil.write_bytes(b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4K\x00K\x00tR" + swap)  # the dtype itself, not a copy
    read_arrays(evil)
    assert np.dtype("f4").byteorder == "="
    assert read_arrays(fine)[0].tolist() == ARRAYS["float32"].tolist()


DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(tR"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"no readable pickle of arrays \(Ran out of input\)"),
        (b"\x80\x04", "no readable pickle"),
        (b"\xff\xd8\xff\xe0 a photo", r"no readable pickle of arrays \(invalid load key"),
        (b"[" * 3, "no readable pickle"),
        (pickle.dumps(ARRAYS)[:-20], "no readable pickle.*; it may be cut short, copy it again"),
        (pickle.dumps(ARRAYS, 2)[:200], "no readable pickle"),
        (b"Pboxes\n.", "no readable pickle.*persistent"),
        (b"X\x05\x00\x00\x00boxesQ.", "no readable pickle.*persistent"),
        (b"\x80\x05\x97.", "no readable pickle.*buffer"),
        (EMPTY + b"(K\x01K\x02\x85" + DTYPE + b"\x89C\x04aaaatb.", "4 bytes for an array of"),
        (EMPTY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89C\x00tb.", "an array without its shape"),
        (EMPTY + b"(K\x01K\x01\x85X\x02\x00\x00\x00f4\x89C\x04aaaatb.", "an array without its shape, dtype"),
        (EMPTY + b"(K\x01K\x01\x85" + DTYPE + b"\x89]tb.", "list in place of bytes"),
        (EMPTY + 2 * (b"(K\x01K\x01\x85" + DTYPE + b"\x89C\x04aaaatb") + b".", "an array without its shape"),
        (b"cnumpy.core.multiarray\nscalar\n(" + DTYPE + b"C\x02aatR.", "no readable pickle"),
        (b"cnumpy.core.multiarray\nscalar\n(X\x02\x00\x00\x00f4C\x04aaaatR.", "an array without its dtype"),
        (
            b"cnumpy._core.numeric\n_frombuffer\n(" + EMPTY + DTYPE + b"K\x00\x85X\x01\x00\x00\x00CtR.",
            "_Array in place",
        ),
        (b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR.", "holds an array of Python objects, which no file of arrays needs"),
        (b"cnumpy\ndtype\n(X\x02\x00\x00\x00V8tR.", "holds an array of the type 'V8', which"),
        (pickle.dumps(np.zeros(1, [("a", "f4")])), "holds an array of the type 'V4', which"),
        (DTYPE + b"(K\x03X\x01\x00\x00\x00<N(X\x01\x00\x00\x00at}tb.", "holds an array of records, which"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", "an encoder of 'rot13', which"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00K\x01\x85K\x01\x85tR.", "a tensor without a storage"),
        (b"ctorch.storage\n_load_from_bytes\n(C\x03abctR.", "no readable pickle"),
    ],
)
def test_refuses_what_is_not_made_of_arrays(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "odd.pkl"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_arrays(file)
    assert len(str(caught.value).splitlines()) == 1


def test_tensors_stay_within_their_storage(tmp_path: Path) -> None:
    file = tmp_path / "beyond.pkl"
    make, (storage, *_) = torch.arange(4.0).__reduce_ex__(4)
    for size, is_fine in ((4, True), (5, False)):
        file.write_bytes(pickle.dumps(Calls(make, storage, 0, (size,), (1,), False, OrderedDict())))
        if is_fine:
            assert read_arrays(file).tolist() == [0, 1, 2, 3]
        else:
            with pytest.raises(CheckpointError, match=r"no readable pickle of arrays \(.*out of bounds"):
                read_arrays(file)


def test_says_that_a_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"gone\.pkl: cannot be read \(No such file or directory\)"):
        read_arrays(tmp_path / "gone.pkl", error=AnnotationError)
    with pytest.raises(CheckpointError, match=r"cannot be read \(Is a directory\)"):
        read_arrays(tmp_path)
