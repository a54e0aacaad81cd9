"""From easy to hard: how many of the hidden patches are chosen by the teacher."""


def hard_count(epoch: float, epochs: int, hidden: int, start: float = 0.0, end: float = 0.5) -> int:
    """The number of hard patches among `hidden` at `epoch` (0-based) of `epochs`.

    `int(hidden * (start + (epoch + 1) / epochs * (end - start)))`, truncated, in float64 as the
    official code has it (with start 0 and end 0.5). A whole `epoch` gives the official, epoch-wise
    schedule; a fractional one moves with every step.
    """
    share = start + (epoch + 1) / epochs * (end - start)
    return min(max(int(hidden * share), 0), hidden)
