"""Options of earlier versions: old runs can resume, and an error gives an option's new name."""

import re
from collections.abc import Mapping
from typing import Any

# old option: its replacement on the command line
MOVED = {
    "mask.hard_start": "--config.mask.strategy='hard(start={})'",
    "mask.hard_end": "--config.mask.strategy='hard(end={})'",
    "mask.schedule": "--config.mask.strategy='hard(schedule=\"{}\")'",
    "ranking.loss": '--config.losses="(\'ranking\',)", "(\'absolute\',)" or "()"',
    "ranking.weight": "--config.losses=\"('ranking(weight={})',)\"",
    "ranking.pairs": "--config.losses=\"('ranking(pairs=\\'{}\\')',)\"",
    "ranking.distances": "--config.losses=\"('ranking(pairs=\\'sampled\\', distances={})',)\"",
    "teacher.keep": "--config.teacher=moving_average or none",
    "teacher.decay_start": "--config.teacher='moving_average(start={})'",
    "teacher.decay_end": "--config.teacher='moving_average(end={})'",
    "teacher.ramp_epochs": "--config.teacher='moving_average(ramp_epochs={})'",
    "teacher.frame_stride": "--config.teacher='moving_average(frame_stride={})'",
    "teacher.every_steps": "--config.teacher='moving_average(every_steps={})'",
    "target_frames": "--config.target='normalized_pixels(frames=\"{}\")'",
}


def moved(words: list[str]) -> str | None:
    """Returns the replacement of an option of an earlier version; None if there is none.

    Args:
        words: the arguments of a command line.
    """
    for word in words:
        found = re.match(r"--config\.([\w.]+)(?:=(.*))?$", word)
        if found and found[1] in MOVED:
            return f"config.{found[1]} is now {MOVED[found[1]].format(found[2] or 'VALUE')}"
    return None


def renewed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a pre-training run, with old options under their present names."""
    new = dict(options)
    if new.get("task", "pretrain") != "pretrain" or not is_old(new):
        return new
    mask, ranking = dict(new.get("mask", {})), new.pop("ranking", {})
    hard = {
        name: mask.pop(old)
        for old, name in (("hard_start", "start"), ("hard_end", "end"), ("schedule", "schedule"))
        if old in mask
    }
    if mask.get("strategy", "hard") == "hard":
        mask["strategy"] = _call("hard", hard)
    new["mask"] = mask
    if "ranking" in options:
        loss = ranking.get("loss", "relative")
        name = {"relative": "ranking"}.get(loss, loss)
        values = {key: value for key, value in ranking.items() if key != "loss"}
        new["losses"] = () if loss == "none" else (_call(name, values),)
    teacher = new.get("teacher")
    if isinstance(teacher, Mapping):
        values = {
            {"decay_start": "start", "decay_end": "end"}.get(key, key): value
            for key, value in teacher.items()
            if key != "keep"
        }
        new["teacher"] = _call("moving_average", values) if teacher.get("keep", True) else "none"
    if "target_frames" in new:
        frames = new.pop("target_frames")
        if frames != "all":
            new["target"] = _call(new.get("target", "pixels"), {"frames": frames})
    return new


def is_old(options: Mapping[str, Any]) -> bool:
    """Whether the options are of a version in which strategies had no options of their own."""
    mask = options.get("mask", {})
    return (
        "ranking" in options
        or "target_frames" in options
        or not isinstance(options.get("teacher", ""), str)
        or any(name in mask for name in ("hard_start", "hard_end", "schedule"))
    )


def _call(name: str, values: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in values.items())})"
