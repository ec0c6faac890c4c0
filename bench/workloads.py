"""workloads.py: which networks are measured, how their integer forms are made, and what speed is the goal."""
import dataclasses
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("NARROW_BUILD_DIR", ROOT / "build" / "release"))
OUT = ROOT / "build" / "bench"
MODELS = OUT / "models"


@dataclasses.dataclass(frozen=True)
class Workload:
    """own, peer: the int8 form that narrow and onnxruntime are judged by: static (activations on calibrated scales) or
    dynamic (scales found at run time), for the peer whichever is faster there. goal: what narrow's int8 time may be, as a
    share of onnxruntime's int8 time."""
    own: str
    peer: str
    goal: float


WORKLOADS = {
    "resnet50": Workload("static", "static", 9.5 / 11.1),
    "resnet18": Workload("static", "static", 4.2 / 4.8),
    "mobilenet_v2": Workload("static", "static", 1.0 / 1.66),
    "mobilenet_v3_small": Workload("static", "static", 0.40 / 1.20),
    "squeezenet1_1": Workload("static", "static", 1.0 / 1.44),
    "shufflenet_v2_x1_0": Workload("static", "static", 0.75 / 2.00),
    "efficientnet_b0": Workload("static", "static", 2.0 / 5.07),
    "vgg11": Workload("static", "static", 17.5 / 20.8),
    "minilm": Workload("dynamic", "dynamic", 3.8 / 5.9),
    "bert_base": Workload("dynamic", "dynamic", 28 / 38.2),
    "lstm": Workload("static", "dynamic", 1.0 / 1.34),
    "lenet": Workload("static", "static", 0.010 / 0.033),
}
