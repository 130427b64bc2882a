"""Each runtime that is installed, against torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from unittest.mock import MagicMock

import pytest
import torch
from tiny import OPTIONS, make_tiny

from objectness.config import Config, InputOptions
from objectness.device import computes_bfloat16
from objectness.errors import ConfigError, ObjectnessError
from objectness.geometry.boxes import compute_iou
from objectness.model.backbone import BACKBONES, Backbone
from objectness.model.efficientnet import LITE0, EfficientNetLite
from objectness.model.norm import make_norm
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer
from objectness.proposals import Proposals
from objectness.runtimes import openvino as openvino_engine
from objectness.runtimes.agreement import copy_eager, measure_agreement
from objectness.runtimes.choose import make_engine
from objectness.runtimes.engine import PACKAGES, Engine, EngineName

SIZES = [(1, 32, 32), (1, 64, 224), (3, 96, 160), (1, 320, 32), (2, 352, 256)]  # images, height, width; C5 1 to 11
CLOSE = 1e-4  # of the largest value

Make = Callable[[RegionProposalNetwork], Engine]


def skip_without(packages: tuple[str, ...]) -> None:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(params=["ncnn", "openvino", "onnxruntime"])
def name(request: pytest.FixtureRequest) -> EngineName:
    if request.param == "openvino":
        from objectness.runtimes.openvino import import_openvino

        try:
            import_openvino()
        except ImportError:
            pytest.skip("openvino is not installed")
    skip_without(PACKAGES[request.param])
    chosen: EngineName = request.param
    return chosen


@pytest.fixture
def make(name: EngineName, folder: Path) -> Make:
    return lambda network: make_engine(network, name, cache_folder=folder)


def compare(engine: Engine, network: RegionProposalNetwork, size: tuple[int, int, int]) -> None:
    images = torch.randn(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(1))
    assert measure_agreement(engine(images), copy_eager(network)(images)).worst < CLOSE


def test_every_size_and_number_of_images(make: Make) -> None:
    network = make_tiny()
    engine = make(network)
    for size in SIZES:
        compare(engine, network, size)
    compare(engine, network, SIZES[0])  # and back to a small one


def test_maps_of_an_onnx_file_have_names_and_sizes(folder: Path) -> None:
    skip_without(PACKAGES["onnxruntime"])
    import onnx

    make_engine(make_tiny(), "onnxruntime", cache_folder=folder)
    [file] = folder.glob("onnxruntime-*/network.onnx")
    model = onnx.load(str(file))
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes["images"] == ["N", 3, "H", "W"]
    assert shapes["logits3"] == ["N", 3, "H3", "W3"]
    assert shapes["deltas6"] == ["N", 12, "H6", "W6"]


@pytest.mark.slow
def test_every_option_of_a_network_in_training(make: Make) -> None:
    """And lopsided padding: EfficientNet-Lite with one narrow block a stage."""
    stages = tuple(design._replace(num_blocks=1, channels=8, expansion=min(design.expansion, 2)) for design in LITE0)
    body = EfficientNetLite(make_norm("trained"), stages)
    config = Config(
        backbone="narrow lite",
        batch_norm="trained",
        pyramid_channels=8,
        pyramid_norm="batch",
        top_down="adjacent",
        head_depth=2,
        class_order="object_last",
        delta_order="yxhw",
    )
    network = RegionProposalNetwork(config, Backbone(body, BACKBONES["efficientnet_lite0"].stages)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    compare(make(network), network, (1, 96, 160))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_options_of_the_network_that_ships(make: Make, options: dict[str, object], photos: list[Path]) -> None:
    network = make_tiny(**options)
    engine = make(network)
    for size in SIZES:
        compare(engine, network, size)
    compare_proposals(Proposer(network, engine=engine)(photos[1]), Proposer(network)(photos[1]))


def test_proposals_are_the_same(make: Make, photos: list[Path]) -> None:
    network = make_tiny()
    expected, found = Proposer(network)(photos[1]), Proposer(network, engine=make(network))(photos[1])
    compare_proposals(found, expected)


def compare_proposals(found: Proposals, expected: Proposals) -> None:
    assert len(found) == len(expected) > 30
    torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-3, rtol=1e-4)
    assert found.levels.tolist() == expected.levels.tolist()


def test_threads_share_an_engine(make: Make) -> None:
    network = make_tiny()
    share_among_threads(make(network), network)


def test_threads_at_once_get_the_same(name: EngineName, folder: Path) -> None:
    network = make_tiny()
    share_among_threads(make_engine(network, name, at_once=3, cache_folder=folder), network)


def share_among_threads(engine: Engine, network: RegionProposalNetwork) -> None:
    failures = list[BaseException]()

    def work(size: tuple[int, int, int]) -> None:
        try:
            for _ in range(5):
                compare(engine, network, size)
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=work, args=(size,)) for size in SIZES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    ("at_once", "expected"),
    [
        (1, {"PERFORMANCE_HINT": "LATENCY"}),
        (3, {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": 3, "ENABLE_CPU_PINNING": False}),
    ],
)
def test_openvino_is_told_how_many_come_at_once(
    monkeypatch: pytest.MonkeyPatch, at_once: int, expected: dict[str, object]
) -> None:
    core = MagicMock()
    monkeypatch.setattr(openvino_engine, "open_core", lambda: core)
    openvino_engine.OpenVinoEngine(Path("gone"), 6, at_once)
    settings = core.compile_model.call_args.args[2]
    assert settings == {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 6, **expected}
    assert core.compile_model.return_value.create_infer_request.call_count == at_once


def test_openvino_in_bfloat16_is_close(folder: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    network, images = make_tiny(), torch.randn(1, 3, 64, 96)
    found = make_engine(network, "openvino", precision="bfloat16", cache_folder=folder)(images)
    narrow = computes_bfloat16(torch.device("cpu"))
    assert (CLOSE if narrow else 0) < measure_agreement(found, copy_eager(network)(images)).worst < 0.05


def test_results_outlive_the_next_call(make: Make) -> None:
    engine = make(make_tiny())
    first = engine(torch.ones(1, 3, 64, 64))
    kept = [each.clone() for each in first.deltas]
    engine(torch.zeros(1, 3, 64, 64))
    assert all(torch.equal(a, b) for a, b in zip(first.deltas, kept, strict=True))


def test_images_in_any_layout(make: Make) -> None:
    engine, images = make(make_tiny()), torch.randn(2, 3, 64, 96)
    expected = engine(images)
    for same in (images.contiguous(memory_format=torch.channels_last), images.flip(3).flip(3)):
        torch.testing.assert_close(engine(same).logits, expected.logits)


def test_ncnn_names_a_folder_that_it_cannot_read(tmp_path: Path) -> None:
    skip_without(("ncnn",))
    from objectness.runtimes.ncnn import NcnnEngine

    with pytest.raises(ObjectnessError, match="ncnn cannot read the network in it"):
        NcnnEngine(tmp_path)


def test_openvino_does_not_report_its_use() -> None:
    """Imported plainly, it tells its makers over the network and leaves an identity in the home folder."""
    script = """
import sys
from objectness.runtimes.openvino import import_openvino
try:
    import_openvino()
except ImportError:
    sys.exit(77)
assert sys.modules["openvino_telemetry"] is None
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__.endswith("telemetry_stub"), telemetry_utils.tm
"""
    code = subprocess.run([sys.executable, "-c", script], check=False).returncode
    if code == 77:
        pytest.skip("openvino is not installed")
    assert code == 0


def test_ctrl_c_after_openvino_is_ordinary(tmp_path: Path) -> None:
    """Its plugin left signals a stack that was gone, and Python ended in a segmentation fault."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    make_engine(make_tiny(), "openvino", cache_folder=tmp_path)
    [model] = tmp_path.glob("openvino-*/network.xml")
    script = f"""
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
from objectness.runtimes.openvino import OpenVinoEngine
engines = [OpenVinoEngine(Path({str(model.parent)!r})) for _ in range(2)]
del engines[0], engines[0]
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    sys.exit(77)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 77


class TestInt8:
    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        from objectness.runtimes.openvino import import_openvino

        try:
            import_openvino()
            import nncf  # noqa: F401
        except ImportError as error:
            pytest.skip(f"{error.name} is not installed")

    @pytest.mark.slow
    def test_maps_are_close_and_the_photos_are_part_of_the_key(
        self, tmp_path: Path, photos: list[Path], capfd: pytest.CaptureFixture[str]
    ) -> None:
        network, notes = make_tiny(input=InputOptions(64, 96)), list[str]()
        images = torch.randn(1, 3, 64, 96)
        for chosen in (photos[:2], photos[1::-1], photos[2:]):
            engine = make_engine(
                network, "openvino", precision="int8", calibration=chosen, cache_folder=tmp_path, say=notes.append
            )
            worst = measure_agreement(engine(images), network(images)).worst
            assert CLOSE < worst < 0.5  # of noise; 0.32 on a processor with AVX2 only
        assert len(list(tmp_path.iterdir())) == 2  # the order of the photos changes nothing
        assert "calibrating on 2 photos; with 100 or more it is more exact" in notes[0]
        assert capfd.readouterr() == ("", "")

    @pytest.mark.slow
    def test_distances_stay_exact(self, tmp_path: Path, photos: list[Path]) -> None:
        """Their sums of exponentials were quantised too, and half of a box was elsewhere."""
        network = make_tiny(**OPTIONS["cspnet"])
        with torch.no_grad():
            for head in network.head.levels:
                head.reg.weight *= 30  # distributions as narrow as a trained network's
        int8 = make_engine(network, "openvino", precision="int8", calibration=photos, cache_folder=tmp_path)
        expected, found = Proposer(network)(photos[1]), Proposer(network, engine=int8)(photos[1])
        ious = compute_iou(expected.boxes, found.boxes).amax(dim=1)
        assert ious.median() > 0.8  # 0.92; it was 0.51

    def test_photos_are_needed(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="name a folder with a hundred or more"):
            make_engine(make_tiny(), "openvino", precision="int8", cache_folder=tmp_path)
        assert not list(tmp_path.iterdir())
