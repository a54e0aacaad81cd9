"""Every option of every task, with its default, as frozen dataclasses."""

from hpm_jax.config.compare import Compare as Compare
from hpm_jax.config.evaluation import Budget as Budget
from hpm_jax.config.evaluation import Evaluate as Evaluate
from hpm_jax.config.evaluation import Features as Features
from hpm_jax.config.evaluation import Probe as Probe
from hpm_jax.config.evaluation import ProbeOptimizer as ProbeOptimizer
from hpm_jax.config.evaluation import Probes as Probes
from hpm_jax.config.evaluation import Report as Report
from hpm_jax.config.evaluation import Scoring as Scoring
from hpm_jax.config.finetune import Accuracy as Accuracy
from hpm_jax.config.finetune import Augment as Augment
from hpm_jax.config.finetune import Finetune as Finetune
from hpm_jax.config.finetune import FinetuneOptimizer as FinetuneOptimizer
from hpm_jax.config.finetune import Regularize as Regularize
from hpm_jax.config.model import ClassifierModel as ClassifierModel
from hpm_jax.config.model import EncoderOptions as EncoderOptions
from hpm_jax.config.model import Model as Model
from hpm_jax.config.parse import defaults as defaults
from hpm_jax.config.parse import freeze as freeze
from hpm_jax.config.parse import parse_variant as parse_variant
from hpm_jax.config.pretrain import Config as Config
from hpm_jax.config.pretrain import Evaluation as Evaluation
from hpm_jax.config.pretrain import MaskOptions as MaskOptions
from hpm_jax.config.shared import Data as Data
from hpm_jax.config.shared import OnGrid as OnGrid
from hpm_jax.config.shared import Optimizer as Optimizer
from hpm_jax.config.shared import Run as Run
from hpm_jax.config.shared import TaskOptions as TaskOptions
from hpm_jax.config.tasks import TASKS as TASKS
from hpm_jax.config.tasks import Task as Task
from hpm_jax.config.tasks import register_task as register_task
from hpm_jax.errors import ConfigError as ConfigError
from hpm_jax.errors import check_choice as check_choice
from hpm_jax.errors import nearest as nearest

# Options that may differ when a workdir is gone on with: they change no result.
FREE = (
    "run",
    "evaluation",
    "data.path",
    "data.max_broken",
    "model.remat",
    "model.unroll",
    "model.attention",
)
