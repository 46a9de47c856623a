"""Farthest points on the CPU by buckets, compiled by numba when first called: the indices of the plain loop, sooner.

The plain loop measures all points against each point chosen. Here points lie in buckets of a k-d tree with their
bounding boxes. A bucket whose box is farther from the new point than its own points are from those chosen before cannot
change, and is passed over (QuickFPS, Han et al., IEEE TCAD 2023). The result is the same, index for index: distances
are computed by the same operations in the same order; rounding is monotone, so a box is never farther than a point in
it; and of equal distances the lowest index wins, within a bucket and among buckets.
"""

import numba
import numpy as np

BUCKET = 128  # most points of a bucket, more in clouds of more than BUCKETS buckets
BUCKETS = 1024


@numba.njit(cache=True, nogil=True)
def split(points, order, low, high):
    """Put the rows order[low:high] below the middle of their longest side first; return where the others begin."""
    axis, widest, middle = 0, points.dtype.type(0), points.dtype.type(0)
    for c in range(points.shape[1]):
        least = most = points[order[low], c]
        for i in range(low + 1, high):
            value = points[order[i], c]
            least, most = min(least, value), max(most, value)
        if most - least > widest:
            axis, widest, middle = c, most - least, least + (most - least) / 2
    at = low
    for i in range(low, high):
        if points[order[i], axis] < middle:
            order[at], order[i] = order[i], order[at]
            at += 1
    return at


@numba.njit(cache=True, nogil=True)
def bucket_borders(points, order, most):
    """Sort the rows `order` of points (P, C) into buckets of at most `most` or of equal points; return borders."""
    borders = [0]
    stack = [(0, len(order))]
    while len(stack):
        low, high = stack.pop()
        middle = split(points, order, low, high) if high - low > most else high
        if low < middle < high:
            stack.append((middle, high))
            stack.append((low, middle))
        else:
            borders.append(high)
    return np.array(borders)


@numba.njit(cache=True, nogil=True)
def boxes_of(points, borders):
    """Return the least and the greatest coordinates (buckets, C) of each bucket."""
    lows = np.empty((len(borders) - 1, points.shape[1]), points.dtype)
    highs = np.empty_like(lows)
    for b in range(len(lows)):
        for c in range(points.shape[1]):
            part = points[borders[b] : borders[b + 1], c]
            lows[b, c], highs[b, c] = part.min(), part.max()
    return lows, highs


@numba.njit(cache=True, nogil=True)
def farthest(cloud, rows, first, count):
    """Choose points far from each other, one after the other.

    Args:
        cloud: (P, C), finite.
        rows: indices of those that may be chosen, ascending, at least one.
        first: index of the first, chosen anyway.
        count: how many are chosen, at least one.

    Returns:
        Indices (count,).
    """
    order = rows.copy()
    borders = bucket_borders(cloud, order, max(BUCKET, len(rows) // BUCKETS))
    points = cloud[order]
    lows, highs = boxes_of(points, borders)
    nearest = np.full(len(points), np.inf, cloud.dtype)
    best, chief = np.full(len(lows), np.inf, cloud.dtype), np.zeros(len(lows), np.int64)
    chosen = np.empty(count, np.int64)
    chosen[0] = last = first
    place = cloud[last].copy()
    for step in range(1, count):
        top, last = cloud.dtype.type(-1), -1
        for b in range(len(lows)):
            if step == 1 or box_distance(lows[b], highs[b], place) < best[b]:
                best[b], chief[b] = update(points, order, nearest, borders[b], borders[b + 1], place)
            if best[b] > top or (best[b] == top and chief[b] < last):
                top, last = best[b], chief[b]
        chosen[step] = last
        place = cloud[last].copy()
    return chosen


@numba.njit(cache=True, nogil=True, inline="always")
def box_distance(low, high, place):
    """Squared distance of a point from a box, added up in the order of `update`."""
    total = place.dtype.type(0)
    for c in range(len(place)):
        off = max(low[c] - place[c], place[c] - high[c], place.dtype.type(0))
        total = total + off * off
    return total


@numba.njit(cache=True, nogil=True, inline="always")
def update(points, order, nearest, low, high, place):
    """Bring the distances of a bucket's points up to date; return the greatest and the lowest index that has it."""
    top, chief = points.dtype.type(-1), -1
    for i in range(low, high):
        total = points.dtype.type(0)
        for c in range(points.shape[1]):
            off = points[i, c] - place[c]
            total = total + off * off
        value = min(nearest[i], total)
        nearest[i] = value
        if value > top or (value == top and order[i] < chief):
            top, chief = value, order[i]
    return top, chief
