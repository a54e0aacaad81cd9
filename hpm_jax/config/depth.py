"""The options of the linear depth probe."""

import dataclasses

from hpm_jax.config.segment import PatchFeatures, SegmentWindows
from hpm_jax.config.shared import Data, Run, StartOptions
from hpm_jax.fields import option


@dataclasses.dataclass(frozen=True)
class DepthData(Data):
    """Images with depth maps; `image_size` is that of a window."""

    source: str = option("depth_maps", "name of the data source, which must have depth maps")
    test_split: str = option("test", "folder of the test images")
    unit: float = option(1e-3, "metres of one step of a stored value", above=0, high=1e3)
    nearest: float = option(1e-3, "smallest depth that counts, in metres", above=0, high=1e6)
    farthest: float = option(10.0, "largest depth that counts, in metres", above=0, high=1e6)
    short_side: int = option(
        0, "short side to which images are resized; 0 leaves them as they are", low=0, high=2**15
    )


@dataclasses.dataclass(frozen=True)
class DepthHead:
    """How the linear head is fitted."""

    baselines: bool = option(
        True, "whether random weights, raw pixels and the mean depth are measured too"
    )
    bank: int = option(
        50_000, "number of patches of the training images, as many of each", low=100, high=10**8
    )
    logarithm: bool = option(True, "whether the logarithm of depth is regressed, not depth itself")
    penalties: tuple[float, ...] = option(
        (1.0, 1e-1, 1e-2, 1e-3, 1e-4),
        "penalties of the regression, of which one is chosen on a tenth of the patches",
        above=0,
        high=1e6,
    )


@dataclasses.dataclass(frozen=True)
class DepthScoring(SegmentWindows):
    """How the test images are scored, at their own size, and drawn."""

    eigen_crop: bool = option(
        False, "whether pixels beyond Eigen's crop of 480 x 640 images are left out (NYUv2)"
    )
    pictures: int = option(4, "number of test images that are drawn", low=0, high=100)


@dataclasses.dataclass(frozen=True)
class DepthProbe(StartOptions):
    """The options of probing frozen patch tokens for depth."""

    task: str = option("depth_probe", "name of the task")
    seed: int = option(0, "random seed of random weights and of the patches", low=0, high=2**32 - 1)
    data: DepthData = DepthData()
    features: PatchFeatures = PatchFeatures()
    head: DepthHead = DepthHead()
    evaluation: DepthScoring = DepthScoring()
    run: Run = option(Run(), "how the images are loaded", changes_result=False)
