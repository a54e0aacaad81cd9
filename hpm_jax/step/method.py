"""How a model is pre-trained: the plugs that every step is built from."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

from jax import Array
from jaxtyping import Float, Float32, UInt8

from hpm_jax.losses.ranking import Relative
from hpm_jax.losses.reconstruction import Objective, Reconstruction, SquaredError
from hpm_jax.losses.term import Own, Term
from hpm_jax.masking.hard import Hard, Random
from hpm_jax.masking.strategy import Readings, Strategy
from hpm_jax.masking.units import Unit
from hpm_jax.models.decoders import Decoder
from hpm_jax.plugs import Plug, Setting
from hpm_jax.step.state import TrainState
from hpm_jax.targets import NormalizedPixels, Target, TargetContext
from hpm_jax.teachers import MovingAverage, Teacher
from hpm_jax.tokens import AnyArray, Tokenizer

NOTHING = Own()
NO_READINGS: Readings = {}


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
    queried: int = 0  # hidden units that the decoder predicts in a step; 0 for all
    replaced: float = 0.0  # the share of visible patches that the student sees a token for
    views: int = 1  # masks of each clip, from one pass of the teacher
    strategy: Strategy = Hard()
    target: Target = NormalizedPixels()
    objective: Objective = SquaredError()
    terms: tuple[Term, ...] = (Reconstruction(), Relative())
    decoder: Decoder | None = None  # that of the model; None where it draws no random numbers
    teacher: Teacher = MovingAverage()

    @property
    def plugs(self) -> dict[str, Plug]:
        """Every plug by its slot: what it brings lies under that name in the state."""
        named: dict[str, Plug] = {"mask": self.strategy, "target": self.target}
        named |= {"objective": self.objective, "teacher": self.teacher}
        named |= {"decoder": self.decoder} if self.decoder else {}
        return named | {term.name: term for term in self.terms}

    @property
    def setting(self) -> Setting:
        """What the plugs may know before the run starts."""
        hidden = self.hidden * self.unit.size
        setting = Setting(self.tokenizer, self.unit.grid, hidden, self.width)
        setting = setting._replace(features_width=self.teacher.features_width(setting))
        return setting._replace(target_width=self.target.width(setting))

    @property
    def at_random(self) -> "Method":
        """The same under one random mask of each image, all of which counts."""
        return dataclasses.replace(
            self.in_full, strategy=Random(), some_count=False, least_hidden=0, replaced=0.0
        )

    @property
    def in_full(self) -> "Method":
        """The same with one mask of each image, all of which is predicted, as in evaluations."""
        return dataclasses.replace(self, views=1, queried=0, decoder=None)

    @property
    def target_width(self) -> int:
        """Values of the target of one patch, D."""
        return self.setting.target_width

    @property
    def predicts_values(self) -> bool:
        """Whether the model predicts the values of the target, and not a direction or nothing."""
        return self.objective.to_scale and (self.decoder is None or self.decoder.predicts)

    @property
    def predicts_loss(self) -> bool:
        """Whether the model needs a loss predictor."""
        return any(term.predicts_loss for term in self.terms)

    @property
    def uses_teacher(self) -> bool:
        """Whether the strategy reads outputs of the teacher."""
        return bool(self.strategy.reads) and "teacher" in self.strategy.networks

    @property
    def network_passes(self) -> int:
        """Passes over the whole image, one for each model that the strategy reads."""
        return len(self.models(self.strategy.networks)) if self.strategy.reads else 0

    def models(self, networks: Iterable[str]) -> list[str]:
        """The networks that are models as the student is, unlike a frozen teacher."""
        return [name for name in networks if name != "teacher" or self.teacher.in_state]

    def networks(self, hard: bool = True) -> dict[str, tuple[str, ...]]:
        """By network, the outputs that a step reads of it, in one pass of each.

        Args:
            hard: whether the strategy reads too; the target and the terms always do.
        """
        of_strategy = self.strategy.reads if hard else ()
        found = {name: of_strategy for name in self.strategy.networks if of_strategy}
        if self.always_read:
            found["teacher"] = tuple(dict.fromkeys(found.get("teacher", ()) + self.always_read))
        return found

    @property
    def always_read(self) -> tuple[str, ...]:
        """Outputs of the teacher that the target and the terms read, in every step."""
        reads = itertools.chain(self.target.reads, *(term.reads for term in self.terms))
        return tuple(dict.fromkeys(reads))

    @property
    def student_blocks(self) -> tuple[int, ...]:
        """Blocks of the student's encoder, from 1, whose outputs the terms take."""
        return tuple(sorted({block for term in self.terms for block in term.student_blocks}))

    @property
    def takes_latents(self) -> bool:
        """Whether a term compares predictions with the encoder's output of hidden patches."""
        return any(term.takes_latents for term in self.terms)

    @property
    def annotations(self) -> tuple[str, ...]:
        """What the terms read of each example beside its image, in the order of a step's inputs."""
        return tuple(dict.fromkeys(itertools.chain(*(term.annotations for term in self.terms))))

    @property
    def encodes_whole(self) -> bool:
        """Whether the student also encodes the whole image, for a term."""
        return any(term.whole_image for term in self.terms)

    @property
    def masks(self) -> bool:
        """Whether anything is predicted or read of the student's masked pass."""
        predicts = self.decoder is None or self.decoder.predicts
        return predicts or any(term.of_visible for term in self.terms)

    def whole_input(self, patches: Array, drawn: dict[str, Any] | None) -> Array:
        """What the student sees as the whole image `[B, L, P]`, for the terms that take it.

        Where nothing was drawn, as in some evaluations, it is the image.
        """
        if drawn is None:
            return patches
        for term in self.terms:
            its_own = drawn.get(term.name)
            patches = term.whole_input(patches, self.unit.grid, self.tokenizer, its_own)
        return patches

    @property
    def related_blocks(self) -> tuple[int, ...]:
        """Blocks of the student's encoder whose query, key and value the terms take."""
        return tuple(sorted({block for term in self.terms for block in term.related_blocks}))

    @property
    def parts(self) -> int:
        """Number of parts that the teacher sees one by one; see `losses_by_parts`."""
        if self.teacher.view != "parts":
            return 1
        return max(2, round(self.unit.count / (self.unit.count - self.hidden)))

    @property
    def unseen(self) -> int:
        """Number of units of each image that a random view of the teacher leaves out; or 0."""
        left_out = {"half": self.unit.count // 2, "visible": self.hidden}
        return left_out.get(self.teacher.view, 0)

    def patches(self, images: UInt8[AnyArray, "B *size C"]) -> Float32[Array, "R L P"]:
        """uint8 images to normalised patches `[B, L, P]` float32; see `Tokenizer`."""
        return self.tokenizer(images)

    def target_of(
        self,
        patches: Float[AnyArray, "B L P"],
        own: Own = NOTHING,
        readings: Readings = NO_READINGS,
    ) -> Float[AnyArray, "B L D"]:
        """What each patch `[B, L, P]` is to become, `[B, L, D]`."""
        return self.target(self.target_context(patches, own, readings))

    def target_context(
        self, patches: Array, own: Own = NOTHING, readings: Readings = NO_READINGS
    ) -> TargetContext:
        """The input of the target; `readings` is what it reads of the teacher."""
        own_parts = own.frozen, own.state, own.params
        return TargetContext(patches, self.unit.grid, self.tokenizer, *own_parts, readings)


def own(
    state: TrainState, slot: str, params: Any = None, drawn: dict[str, Any] | None = None
) -> Own:
    """What the plug in `slot` has brought itself.

    Args:
        params: of the student, where they are others than the state's.
    """
    trained = (state.params if params is None else params).get("terms", {})
    averaged = (state.teacher or {}).get("terms", {})
    return Own(
        params=trained.get(slot),
        frozen=(state.frozen or {}).get(slot),
        state=(state.plugs or {}).get(slot),
        drawn=(drawn or {}).get(slot),
        teacher=averaged.get(slot),
    )
