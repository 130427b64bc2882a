from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import make_tiny
from torch import Tensor

from objectness.config import InputOptions
from objectness.errors import ConfigError, ObjectnessError
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer
from objectness.runtimes import choose
from objectness.runtimes.agreement import fold_maps
from objectness.runtimes.choose import make_engine
from objectness.runtimes.engine import FASTEST_FIRST, PACKAGES, EngineName, find_installed
from objectness.runtimes.pytorch import TorchEngine
from objectness.structures import Output

RUNTIMES: tuple[EngineName, ...] = ("ncnn", "openvino", "onnxruntime")


class FakeEngine:
    """Reads the weights that `write` wrote, and may be wrong by a factor."""

    def __init__(self, folder: Path, name: str, factor: float, options: dict[str, Any]):
        self.name = name
        self.options = options
        self.network = torch.load(folder / "network.pt", weights_only=False)
        self.factor = factor

    def __call__(self, images: Tensor) -> Output:
        with torch.inference_mode():
            output = self.network(images)
        return Output((), fold_maps(output), tuple(each * self.factor for each in output.deltas))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Pretend that some runtimes are installed, all of them a FakeEngine; what was converted is noted."""

    def install(*names: str, factor: float = 1.0, broken: tuple[str, ...] = ()) -> list[str]:
        converted: list[str] = []

        def load(name: str) -> tuple[Any, Any]:
            def write(network: RegionProposalNetwork, folder: Path) -> None:
                converted.append(name)
                if name in broken:
                    raise ObjectnessError(f"{name} is broken")
                torch.save(network, folder / "network.pt")

            return lambda folder, **options: FakeEngine(folder, name, factor, options), write

        packages = {package for name in names for package in PACKAGES[name]}
        monkeypatch.setattr("objectness.packages.find_spec", lambda package: package in packages or None)
        monkeypatch.setattr(choose, "version", lambda package: "1.0")
        monkeypatch.setattr(choose, "load_runtime", load)
        return converted

    return install


def test_an_engine_comes_from_the_cache_the_second_time(fake: Callable[..., list[str]], tmp_path: Path) -> None:
    converted, network, notes = fake("ncnn"), make_tiny(), list[str]()
    images = torch.randn(2, 3, 64, 96)
    for _ in range(2):
        engine = make_engine(network, "ncnn", cache_folder=tmp_path, say=notes.append)
        torch.testing.assert_close(engine(images).logits, fold_maps(network(images)))
    assert converted == ["ncnn"]
    assert [note.partition(",")[0] for note in notes] == ["converting the network for ncnn"]
    with torch.no_grad():
        network.head.reg.bias += 1
    assert make_engine(network, "ncnn", cache_folder=tmp_path)(images).deltas[0].mean() > 0.5  # not the old one's
    assert converted == ["ncnn", "ncnn"]


def test_an_engine_that_computes_something_else_is_refused_and_not_kept(
    fake: Callable[..., list[str]], tmp_path: Path
) -> None:
    fake("ncnn", factor=1.01)
    with pytest.raises(ObjectnessError, match=r"ncnn: what it computes differs from torch by 1\.0e-02 of the largest"):
        make_engine(make_tiny(), "ncnn", cache_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_auto_takes_the_fastest_that_is_installed(fake: Callable[..., list[str]], tmp_path: Path) -> None:
    fake()
    assert find_installed() == ("torch",)
    assert make_engine(make_tiny(), cache_folder=tmp_path).name == "torch"
    assert not list(tmp_path.iterdir())
    for count in range(1, len(FASTEST_FIRST)):
        names = FASTEST_FIRST[-1 - count :]
        fake(*names)
        assert find_installed() == names
        assert make_engine(make_tiny(), cache_folder=tmp_path).name == names[0]


def test_auto_goes_on_where_one_fails(fake: Callable[..., list[str]], tmp_path: Path) -> None:
    converted, notes = fake("ncnn", "onnxruntime", broken=("ncnn",)), list[str]()
    assert make_engine(make_tiny(), cache_folder=tmp_path, say=notes.append).name == "onnxruntime"
    assert converted == ["ncnn", "onnxruntime"]
    assert "engine ncnn is left out: ncnn is broken" in notes
    fake("ncnn", "onnxruntime", broken=("ncnn", "onnxruntime"))
    assert make_engine(make_tiny(), cache_folder=tmp_path / "other").name == "torch"


@pytest.mark.parametrize("name", RUNTIMES)
def test_what_is_not_installed_is_named(fake: Callable[..., list[str]], name: EngineName, tmp_path: Path) -> None:
    fake()
    with pytest.raises(ObjectnessError) as caught:
        make_engine(make_tiny(), name, cache_folder=tmp_path)
    extra = {"onnxruntime": "export"}.get(name, name)
    assert str(caught.value) == f"engine {name} needs {' and '.join(PACKAGES[name])}: pip install 'objectness[{extra}]'"


def test_names_are_checked() -> None:
    with pytest.raises(ConfigError, match="engine 'tensorrt' is none of auto, torch, ncnn, openvino, onnxruntime"):
        make_engine(make_tiny(), "tensorrt")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="precision 'int4' is none of float32, bfloat16, int8"):
        make_engine(make_tiny(), precision="int4")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["auto", "torch", "ncnn", "onnxruntime"])
def test_int8_is_openvinos_alone(name: EngineName) -> None:
    with pytest.raises(ConfigError, match=f"int8 is OpenVINO's alone, not of engine {name}"):
        make_engine(make_tiny(), name, precision="int8", calibration=[Path("a.jpg")])


def test_int8_needs_its_packages(fake: Callable[..., list[str]]) -> None:
    fake("openvino")
    with pytest.raises(ObjectnessError, match=r"precision int8 needs nncf: pip install 'objectness\[openvino\]'"):
        make_engine(make_tiny(), "openvino", precision="int8", calibration=[Path("a.jpg")])


def test_photos_without_int8_are_refused() -> None:
    with pytest.raises(ConfigError, match="for precision int8"):
        make_engine(make_tiny(), "openvino", calibration=[Path("a.jpg")])


def test_another_device_than_the_cpu_is_torchs(fake: Callable[..., list[str]]) -> None:
    fake("ncnn")
    network = make_tiny().to("meta")  # no GPU here, but not the CPU either
    with pytest.raises(ConfigError, match="engine ncnn computes on the CPU; take device cpu with it, or engine torch"):
        make_engine(network, "ncnn")
    assert isinstance(make_engine(network, "auto"), TorchEngine)


def test_other_paddings_are_torchs(tmp_path: Path) -> None:
    network = make_tiny(input=InputOptions(64, 96, pad_multiple=16))
    assert make_engine(network, "torch").name == "torch"
    from objectness.runtimes.maps import Maps

    with pytest.raises(ConfigError, match=r"input\.pad_multiple = 16: only networks whose inputs are padded to a"):
        Maps(network)
    assert Maps(make_tiny(input=InputOptions(64, 96, pad_multiple=64)))


def test_torch_says_what_the_network_says() -> None:
    network = make_tiny()
    images = torch.randn(2, 3, 64, 96)
    expected, found = network(images), make_engine(network, "torch")(images)
    torch.testing.assert_close(found.logits, fold_maps(expected))
    torch.testing.assert_close(found.deltas, expected.deltas)
    torch.testing.assert_close(found.features, expected.features)


def test_a_proposer_takes_an_engine(fake: Callable[..., list[str]], tmp_path: Path, photos: list[Path]) -> None:
    fake("ncnn")
    network = make_tiny()
    expected = Proposer(network)(photos[0])
    found = Proposer(network, engine=make_engine(network, "ncnn", cache_folder=tmp_path))(photos[0])
    assert len(found) == len(expected) > 50
    torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)


def test_torch_leaves_its_threads_to_other_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    network = make_tiny()
    assert [Proposer(network, at_once=count).torch_threads for count in (1, 2, 4, 9)] == [6, 3, 1, 1]
    assert Proposer(network, engine=TorchEngine(network), at_once=2).torch_threads == 3
    other: Any = SimpleNamespace(name="ncnn")
    assert Proposer(network, engine=other, at_once=2).torch_threads == 1


def test_bfloat16_is_close_and_what_comes_out_is_float32() -> None:
    network, images = make_tiny(), torch.randn(2, 3, 64, 96)
    expected, found = network(images), make_engine(network, "torch", precision="bfloat16")(images)
    for maps, others in zip((found.features, found.deltas), (expected.features, expected.deltas), strict=True):
        for each, other in zip(maps, others, strict=True):
            assert each.dtype == torch.float32
            assert 1e-4 < (each - other).abs().max() / other.abs().max() < 0.03
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["ncnn", "onnxruntime"])
def test_bfloat16_is_for_two_engines(name: EngineName) -> None:
    with pytest.raises(ConfigError, match=f"precision bfloat16 is for engines openvino and torch, not for {name}"):
        make_engine(make_tiny(), name, precision="bfloat16")


def test_auto_takes_the_fastest_that_has_bfloat16(fake: Callable[..., list[str]], tmp_path: Path) -> None:
    fake("ncnn", "openvino")
    made = make_engine(make_tiny(), precision="bfloat16", at_once=3, cache_folder=tmp_path)
    assert isinstance(made, FakeEngine)
    assert (made.name, made.options) == ("openvino", {"at_once": 3, "narrow": True})
    fake("ncnn")
    assert make_engine(make_tiny(), precision="bfloat16", cache_folder=tmp_path).name == "torch"


@pytest.mark.parametrize("there", [True, False])
def test_a_processor_without_bfloat16_is_told_of(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(choose, "computes_bfloat16", lambda device: there)
    notes: list[str] = []
    make_engine(make_tiny(), "torch", precision="bfloat16", say=notes.append)
    said = "precision bfloat16: cpu has no instructions for it; float32 is likely to be faster"
    assert notes == ([] if there else [said])


def test_images_at_once_are_counted() -> None:
    for make in (make_engine, Proposer):
        with pytest.raises(ConfigError, match="at_once = 0 must be at least 1"):
            make(make_tiny(), at_once=0)
