"""The easy-to-hard schedule: how many of the hidden patches are chosen as hard ones."""


def hard_count(
    epoch: float, epochs: int, hidden: int, start: float = 0.0, end: float = 0.5, by: str = "epoch"
) -> int:
    """Returns the number of hard patches among `hidden` after `epoch` of `epochs`, in float64.

    The schedule "epoch" is `int(hidden * (start + (epoch + 1) / epochs * (end - start)))` with
    whole epochs from 0, as in the official code (with start 0 and end 0.5). With "step" the
    fraction grows from `start` at the first step to `end` at the last, without the offset of one
    epoch.
    """
    done = (int(epoch) + 1) / epochs if by == "epoch" else epoch / epochs
    share = start + min(done, 1.0) * (end - start)
    return min(max(int(hidden * share), 0), hidden)
