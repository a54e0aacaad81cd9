"""What a cheaper teacher costs, and how well it agrees with the one that sees every frame, always.

    python -m benchmarks.video_teacher runs/quickstart_video

The workdir is of a pre-training run on video with hard masks. On held-out clips, for every cheaper
way to ask the teacher: its operations for a clip and a step, beside the student's, and how many of
the hardest units are those that the full teacher would choose.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.data.pipeline import test_images, train_batches
from hpm_jax.data.sources import SOURCES
from hpm_jax.masking.strategy import hardest
from hpm_jax.models.flops import step_flops
from hpm_jax.run.build import build_optimizer
from hpm_jax.run.load import load_run
from hpm_jax.step.mask import run_network
from hpm_jax.step.schedules import PretrainTimetable
from hpm_jax.step.step import make_train_step

CLIPS = 256
STEPS = (1, 2, 4, 8, 16)


def main(workdir: str) -> None:
    """Prints the table."""
    config, model, method, state = load_run(workdir)
    splits = SOURCES[config.data.source](config.data)
    chosen = np.random.default_rng(0).permutation(len(splits.test))[:CLIPS]
    clips, _, _ = test_images(splits.test, chosen, config)
    patches = jax.jit(method.patches)(clips)
    n_hard = jnp.int32(config.hidden_units // 2)
    always = dataclasses.replace(method.teacher, frame_stride=1, every_steps=1)
    method = dataclasses.replace(method, teacher=always, views=1)

    def hard_units(teacher, stride=1):
        sparse = dataclasses.replace(always, frame_stride=stride)
        other = dataclasses.replace(method, teacher=sparse)
        said = jax.jit(lambda t, p: run_network(model, other, t, p)["predicted_loss"])(
            teacher, patches
        )
        return np.asarray(hardest(method.unit.pool(said), n_hard))

    def flops(stride=1):
        return step_flops(model, config.hidden, network_passes=1, frame_stride=stride)

    full = hard_units(state.teacher)
    student = flops().student

    def row(name, teacher_flops, found, student_flops=student):
        agreement = (full & found).sum() / full.sum()
        total = (student_flops + teacher_flops) / (student + flops().teacher)
        print(f"| {name} | {teacher_flops / student_flops:.2f} | {total:.2f} | {agreement:.1%} |")

    print("| teacher | operations, of the student's | step, of the full teacher's | agreement |")
    print("| --- | --: | --: | --: |")
    row("every frame, every step", flops().teacher, full)
    for stride in [s for s in range(2, model.grid[0] + 1) if model.grid[0] % s == 0]:
        row(f"one frame of {stride}", flops(stride).teacher, hard_units(state.teacher, stride))
    older = teachers_before(config, model, method, state, splits, max(STEPS))
    for steps in STEPS:
        # the word is 0 to k - 1 steps old: the mean age of a word that is used
        ages = [hard_units_of_age(hard_units, older, age) for age in range(steps)]
        now = hard_units(older[-1])
        agreement = np.mean([(now & found).sum() / now.sum() for found in ages])
        teacher = flops().teacher / steps
        total = (student + teacher) / (student + flops().teacher)
        print(f"| every {steps} steps | {teacher / student:.2f} | {total:.2f} | {agreement:.1%} |")
    for views in (2, 4):
        teacher = flops().teacher / views
        total = (student + teacher) / (student + flops().teacher)
        print(f"| {views} views of each pass | {teacher / student:.2f} | {total:.2f} | {1:.1%} |")
    random = int(n_hard) / config.unit.count
    print(f"| none: random | 0 | {student / (student + flops().teacher):.2f} | {random:.1%} |")


def hard_units_of_age(hard_units, teachers, age: int) -> np.ndarray:
    """What the teacher of `age` steps ago called hard."""
    return hard_units(teachers[-1 - age])


def teachers_before(config, model, method, state, splits, steps: int) -> list:
    """The teacher after each of the next steps of training, at half of the peak learning rate."""
    step = jax.jit(make_train_step(model, method, build_optimizer(config)))
    timetable = PretrainTimetable(config, len(splits.train), config.hidden_units)
    schedule = timetable.at(timetable.steps // 2)
    batches = train_batches(splits.train, config)
    state, teachers = state.replace(scores=None), [state.teacher]
    for _ in range(steps):
        state, _ = step(state, next(batches)["image"], jax.random.key(0), schedule)
        teachers.append(state.teacher)
    batches.close()
    return teachers


if __name__ == "__main__":
    main(sys.argv[1])
