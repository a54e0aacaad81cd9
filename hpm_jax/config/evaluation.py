"""The options of reports, probes and scoring."""

import dataclasses

from hpm_jax.config.finetune import Accuracy
from hpm_jax.config.shared import Data, Run, StartOptions, TaskOptions
from hpm_jax.fields import option
from hpm_jax.models.scaled_dot_product import ATTENTIONS


@dataclasses.dataclass(frozen=True)
class Features:
    """Which features of a frozen encoder are used."""

    block: int = option(
        -1, "block whose output is used, from 1; -1 is the last", low=-1024, high=1024
    )
    pool: str = option(
        "cls",
        "feature of an image: cls token, mean of patches, or both",
        choices=("cls", "mean", "both"),
    )
    dtype: str = option("float32", "dtype of matrix products", choices=("float32", "bfloat16"))
    batch_size: int = option(256, "number of images per batch", low=1, high=10**7)


@dataclasses.dataclass(frozen=True)
class Probes:
    """Which probes a report trains on frozen features, and how."""

    names: tuple[str, ...] = option(
        ("baselines", "knn", "few_shot", "linear", "logistic"),
        "probes of the report; 'attentive' is another one",
    )
    neighbors: tuple[int, ...] = option(
        (10, 20, 100, 200), "numbers of neighbours of kNN, one row each", low=1, high=10**6
    )
    temperature: float = option(0.07, "temperature of kNN's votes", low=1e-3, high=1e3)
    shots: tuple[int, ...] = option(
        (1, 5, 10), "numbers of few-shot images per class, one row each", low=1, high=10**6
    )
    draws: int = option(5, "number of random draws per few-shot row", low=1, high=10**4)
    epochs: int = option(100, "number of epochs of the linear probe", low=1, high=10**6)
    attentive_epochs: int = option(20, "number of epochs of the attentive probe", low=1, high=10**6)
    attentive_heads: int = option(
        4, "number of attention heads of the attentive probe", low=1, high=2**16
    )
    batch_size: int = option(1024, "number of images per batch, for both probes", low=1, high=10**7)


@dataclasses.dataclass(frozen=True)
class Budget:
    """The fine-tuning of a report."""

    epochs: int = option(0, "number of epochs; 0 for no fine-tuning", low=0, high=10**6)
    batch_size: int = option(256, "number of images per step", low=1, high=10**7)
    base_learning_rate: float = option(1e-3, "peak learning rate per 256 images", above=0, high=1e3)


@dataclasses.dataclass(frozen=True)
class Report(StartOptions):
    """The options of a report: a table of results of one pre-trained encoder."""

    task: str = option("report", "name of the task")
    data: Data = Data()
    features: Features = Features()
    features_file: str = option("", "file of the features, .npz: read if it exists, else written")
    probes: Probes = Probes()
    finetune: Budget = Budget()
    run: Run = option(Run(), "how the run is executed", changes_result=False)


@dataclasses.dataclass(frozen=True)
class ProbeOptimizer:
    """The optimizer of a probe, and the learning rates and weight decays of its sweep."""

    kind: str = option(
        "sgd", "optimizer: sgd, lars (MAE's), or adamw", choices=("sgd", "lars", "adamw")
    )
    epochs: int = option(100, "number of epochs", low=1, high=10**6)
    batch_size: int = option(2048, "number of images per step", low=1, high=10**7)
    base_learning_rates: tuple[float, ...] = option(
        (1e-3,),
        "peak learning rates of the sweep, each scaled by batch_size / 256",
        above=0,
        high=1e6,
    )
    weight_decays: tuple[float, ...] = option((0.0,), "weight decays of the sweep", low=0, high=1e3)
    momentum: float = option(0.9, "momentum of sgd and lars", low=0, below=1)
    warmup_epochs: float = option(
        10.0, "number of epochs in which the learning rate rises from 0", low=0, high=10**6
    )
    floor: float = option(0.0, "learning rate at the end of the run", low=0, high=1e3)
    accumulation: int = option(
        1, "number of gradient accumulation parts per batch", low=1, high=10**7
    )

    @property
    def learning_rate(self) -> float:
        """The peak of the factor that multiplies all learning rates of the sweep."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class Probe(StartOptions):
    """A probe on the features of augmented images: the protocol of the papers."""

    task: str = option("probe", "name of the task")
    head: str = option("linear", "type of probe", choices=("linear", "attentive"))
    choose_on: float = option(
        0.02, "fraction of the training images held out to choose the setting, or 0", low=0, below=1
    )
    data: Data = Data(crop_scale=(0.08, 1.0))
    features: Features = Features()
    optimizer: ProbeOptimizer = ProbeOptimizer()
    evaluation: Accuracy = option(Accuracy(), "evaluations during training", changes_result=False)
    run: Run = option(Run(), "how the run is executed", changes_result=False)


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How a classifier is scored; these options do not change a result."""

    batch_size: int = option(256, "number of images per batch", low=1, high=10**7)


@dataclasses.dataclass(frozen=True)
class Evaluate(TaskOptions):
    """The options of scoring a classifier with its own head."""

    task: str = option("evaluate", "name of the task")
    init_from: str = option("", "workdir of a fine-tuning run, its best/ folder, or a weights file")
    weights: str = option(
        "student",
        "which weights to use: student, or teacher (the moving average, if there is one)",
        choices=("student", "teacher"),
    )
    split: str = option(
        "any",
        "images to score: 'test' is the test split of training; 'any' is the test folder or list, "
        "or all of data.path",
        choices=("any", "test"),
    )
    classes: str = option(
        "", "names of the model's classes in order: a file, a classes.json, or a folder"
    )
    restrict: bool = option(
        True, "whether predictions are limited to the classes of the data (ImageNet-A and -R)"
    )
    dtype: str = option("float32", "dtype of matrix products", choices=("float32", "bfloat16"))
    attention: str = option(
        "xla",
        "attention kernel: xla, cudnn on NVIDIA GPUs in bfloat16, pallas on one TPU, or auto: "
        "cudnn if it runs",
        choices=ATTENTIONS,
    )
    data: Data = Data()
    evaluation: Scoring = option(Scoring(), "how the classifier is scored", changes_result=False)
    run: Run = option(Run(), "how the run is executed", changes_result=False)
