"""From easy to hard: how many of the hidden patches are chosen because they are hard."""


def hard_count(
    epoch: float, epochs: int, hidden: int, start: float = 0.0, end: float = 0.5, by: str = "epoch"
) -> int:
    """The number of hard patches among `hidden` after `epoch` of `epochs`, in float64.

    By "epoch", `int(hidden * (start + (epoch + 1) / epochs * (end - start)))` with whole epochs
    from 0, as the official code has it (with start 0 and end 0.5). By "step" the share runs from
    `start` at the first step to `end` at the last, without the jump ahead by an epoch.
    """
    done = (int(epoch) + 1) / epochs if by == "epoch" else epoch / epochs
    share = start + min(done, 1.0) * (end - start)
    return min(max(int(hidden * share), 0), hidden)
