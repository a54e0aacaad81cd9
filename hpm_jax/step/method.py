"""How a model is pre-trained: the plugs that every step is built from."""

import dataclasses
from typing import Any

from jax import Array
from jaxtyping import Float, Float32, UInt8

from hpm_jax.losses.ranking import Relative
from hpm_jax.losses.reconstruction import Objective, Reconstruction, SquaredError
from hpm_jax.losses.term import Own, Term
from hpm_jax.masking.hard import Hard, Random
from hpm_jax.masking.strategy import Strategy
from hpm_jax.masking.units import Unit
from hpm_jax.plugs import Plug, Setting
from hpm_jax.step.state import TrainState
from hpm_jax.targets import NormalizedPixels, Target, TargetContext
from hpm_jax.teachers import MovingAverage, Teacher
from hpm_jax.tokens import AnyArray, Tokenizer

NOTHING = Own()


@dataclasses.dataclass(frozen=True)
class Method:
    """How the model is pre-trained: the plugs of the step, and what they share.

    HPM is hard masks with a ranking loss; MAE is random masks and reconstruction alone.
    """

    tokenizer: Tokenizer
    unit: Unit  # what is hidden as one: a patch or a tube
    hidden: int  # units hidden in each image or clip; the most, where the ratio moves
    width: int  # of the encoder
    least_hidden: int = 0  # and the least; 0 where the ratio stays
    some_count: bool = False  # whether a share of the hidden enters the loss
    replaced: float = 0.0  # the share of visible patches that the student sees a token for
    views: int = 1  # masks of each clip, by one look of the teacher
    strategy: Strategy = Hard()
    target: Target = NormalizedPixels()
    objective: Objective = SquaredError()
    terms: tuple[Term, ...] = (Reconstruction(), Relative())
    teacher: Teacher = MovingAverage()

    @property
    def plugs(self) -> dict[str, Plug]:
        """Every plug by its slot: what it brings lies under that name in the state."""
        named: dict[str, Plug] = {"mask": self.strategy, "target": self.target}
        named |= {"objective": self.objective, "teacher": self.teacher}
        return named | {term.name: term for term in self.terms}

    @property
    def setting(self) -> Setting:
        """What the plugs may know before the run starts."""
        hidden = self.hidden * self.unit.size
        return Setting(self.tokenizer, self.unit.grid, hidden, self.width)

    @property
    def at_random(self) -> "Method":
        """The same under one random mask of each image, all of which counts."""
        return dataclasses.replace(
            self, strategy=Random(), views=1, some_count=False, least_hidden=0, replaced=0.0
        )

    @property
    def target_width(self) -> int:
        """Values of the target of one patch, D."""
        return self.target.width(self.setting)

    @property
    def predicts_loss(self) -> bool:
        """Whether the model needs a loss predictor."""
        return any(term.predicts_loss for term in self.terms)

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher looks at all."""
        return bool(self.strategy.reads) and "teacher" in self.strategy.onlookers

    @property
    def looks(self) -> int:
        """How many passes over the whole image the strategy asks for."""
        return len(self.strategy.onlookers) if self.strategy.reads else 0

    @property
    def parts(self) -> int:
        """Into how many views a look of the teacher is divided: as large as the student's."""
        if self.teacher.view == "whole":
            return 1
        return max(2, round(self.unit.count / (self.unit.count - self.hidden)))

    def patches(self, images: UInt8[AnyArray, "B *size C"]) -> Float32[Array, "R L P"]:
        """uint8 images to normalised patches `[B, L, P]` float32; see `Tokenizer`."""
        return self.tokenizer(images)

    def target_of(
        self, patches: Float[AnyArray, "B L P"], own: Own = NOTHING
    ) -> Float[AnyArray, "B L D"]:
        """What each patch `[B, L, P]` is to become, `[B, L, D]`."""
        return self.target(self.target_context(patches, own))

    def target_context(self, patches: Array, own: Own = NOTHING) -> TargetContext:
        """What the target may look at."""
        return TargetContext(patches, self.unit.grid, self.tokenizer, own.frozen, own.state)


def own(
    state: TrainState, slot: str, params: Any = None, drawn: dict[str, Any] | None = None
) -> Own:
    """What the plug in `slot` has brought itself.

    Args:
        params: of the student, where they are others than the state's.
    """
    trained = (state.params if params is None else params).get("terms", {})
    return Own(
        params=trained.get(slot),
        frozen=(state.frozen or {}).get(slot),
        state=(state.plugs or {}).get(slot),
        drawn=(drawn or {}).get(slot),
    )
