"""The options of reports and probes: what scores a frozen encoder."""

import dataclasses

from hpm_jax.config.finetune import Accuracy
from hpm_jax.config.shared import Data, Run


@dataclasses.dataclass(frozen=True)
class Features:
    """What a frozen encoder gives of an image."""

    block: int = -1  # after which block, from 1, or from the end; -1 is the last
    pool: str = "cls"  # cls, mean, or both
    dtype: str = "float32"
    batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class Probes:
    """What the report measures on frozen features, and how."""

    names: tuple[str, ...] = ("knn", "few_shot", "linear", "logistic")  # and "attentive"
    neighbors: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07
    shots: tuple[int, ...] = (1, 5, 10)  # images a class
    draws: int = 5
    epochs: int = 100  # of the linear probe
    attentive_epochs: int = 20
    attentive_heads: int = 4
    batch_size: int = 1024  # of both


@dataclasses.dataclass(frozen=True)
class Budget:
    """The fine-tuning of a report."""

    epochs: int = 0  # 0 for none
    batch_size: int = 256
    base_learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Report:
    """A table of results of one pre-trained encoder."""

    task: str = "report"
    seed: int = 0
    init_from: str = ""  # the workdir of a run, or a file of weights; see docs/weights.md
    weights: str = "student"  # which of them: student, teacher, or "random" for fresh ones
    data: Data = Data()
    features: Features = Features()
    features_file: str = ""  # .npz of the features: written, or read where it is there
    probes: Probes = Probes()
    finetune: Budget = Budget()
    run: Run = Run()


@dataclasses.dataclass(frozen=True)
class ProbeOptimizer:
    """How long a probe is trained, and by what; its learning rates are the sweep's."""

    kind: str = "sgd"  # sgd, lars (MAE's), or adamw
    epochs: int = 100
    batch_size: int = 2048
    base_learning_rates: tuple[float, ...] = (1e-3,)  # for 256 images, each times batch_size / 256
    weight_decays: tuple[float, ...] = (0.0,)
    momentum: float = 0.9
    warmup_epochs: float = 10.0
    floor: float = 0.0
    accumulation: int = 1

    @property
    def learning_rate(self) -> float:
        """The peak of the factor that all rates of the sweep are multiplied with."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class Probe:
    """A probe on the features of augmented images: the protocol of the papers."""

    task: str = "probe"
    seed: int = 0
    init_from: str = ""
    weights: str = "student"
    head: str = "linear"  # or attentive
    choose_on: float = 0.02  # share of training images held out to choose the setting by, or 0
    data: Data = Data(crop_scale=(0.08, 1.0))
    features: Features = Features()
    optimizer: ProbeOptimizer = ProbeOptimizer()
    evaluation: Accuracy = Accuracy()
    run: Run = Run()


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How a classifier is scored; none of it changes a result."""

    batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """The accuracy of a classifier with the head that it has."""

    task: str = "evaluate"
    init_from: str = ""  # the workdir of a fine-tuning run, or its best/, or a file of weights
    weights: str = "student"  # or teacher: the moving average, where there is one
    split: str = "any"  # the test folder or list, or all of data.path; "test": as in training
    classes: str = ""  # the model's classes in its order: a file, a classes.json, or a folder
    restrict: bool = True  # choose among the classes of the data alone, as for ImageNet-A and -R
    dtype: str = "float32"
    attention: str = "xla"
    data: Data = Data()
    evaluation: Scoring = Scoring()
    run: Run = Run()
