"""Point operations on padded batches, with plain-torch, Triton and pytorch3d backends that agree index for index.

Semantics are pytorch3d's, written down here because its documentation does not say all of it:

- A cloud of `lengths[b]` points occupies the first rows of points[b]; what stands behind is never looked at.
- `farthest_point_sample` starts at index 0, the first maximum wins, and pads with -1 behind `min(K, length)`; an empty
  cloud, or one of which none are wanted beside others, still yields index 0 once.
- `knn` returns SQUARED distances (norm 2), ascending, ties to the lower index, and pads distances and indices with 0.
- `ball_query` returns the first K points in INDEX order strictly within the radius and pads with -1 (`fill="first"`
  repeats the first hit instead, as PointNet++ does; a ball without a hit is then filled with index 0).
- Distances are differentiable with respect to both clouds.

The plain torch backend is always there. On CUDA the Triton kernels of `kernels` are used for float32 where triton is
installed (it comes with torch on Linux). pytorch3d is used elsewhere where its compiled part loads and the input is
float32 on its side of the contract, except for searches that a k-d tree of the torch backend does sooner;
`backend="torch"`, `"triton"` or `"pytorch3d"` insists.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pointcloud import neighbors

BACKENDS = ("auto", "torch", "triton", "pytorch3d")
Counts = int | Sequence[int] | Tensor


@lru_cache(maxsize=1)
def load_pytorch3d() -> tuple[Any, str]:
    """pytorch3d's operations, or None and the reason why they cannot be had."""
    try:
        from pytorch3d import _C, ops  # noqa: F401  (importing the compiled part is the test)
    except (ImportError, OSError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return None, f"pytorch3d's compiled part does not load ({reason}); the README names versions that fit together"
    return ops, ""


@lru_cache(maxsize=1)
def load_triton() -> tuple[Any, str]:
    """The module of Triton kernels, or None and the reason why there is none."""
    try:
        from pointcloud import kernels
    except (ImportError, OSError, RuntimeError) as error:
        return None, f"triton does not load ({type(error).__name__}: {error})".splitlines()[0]
    if not torch.cuda.is_available() and not kernels.INTERPRETED:
        return None, "triton's kernels need a CUDA device"
    return kernels, ""


def available_backends() -> dict[str, str]:
    """Backends and, for those that cannot be used, why."""
    return {"torch": "", "triton": load_triton()[1], "pytorch3d": load_pytorch3d()[1]}


def searches(backend: str) -> Any:
    """Return the module whose searches a backend uses."""
    return load_triton()[0] if backend == "triton" else neighbors


def choose_backend(backend: str, *tensors: Tensor) -> str:
    """Return the backend that will run.

    Raises:
        ValueError: an unknown name, or a backend was insisted on and cannot be used.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r}: choose one of {', '.join(BACKENDS)}")
    if backend == "torch" or torch.compiler.is_compiling():
        return "torch"
    plain = all(t.dtype == torch.float32 for t in tensors)
    if backend == "triton" or (backend == "auto" and plain and all(t.is_cuda for t in tensors)):
        found, reason = load_triton()
        if backend == "triton" and (found is None or not plain):
            raise ValueError(f"backend 'triton' cannot be used: {reason or 'it takes float32'}. Use backend='torch'")
        if found is not None:
            return "triton"
    found, reason = load_pytorch3d()
    if backend == "pytorch3d" and found is None:
        raise ValueError(f"backend 'pytorch3d' cannot be used: {reason}. Use backend='torch'")
    fits = found is not None and all(t.dtype == torch.float32 and t.shape[1] for t in tensors)
    return "pytorch3d" if fits or backend == "pytorch3d" else "torch"


def check_cloud(name: str, points: Tensor) -> None:
    """Refuse tensors that are not a batch of clouds.

    Raises:
        ValueError: not (B, P, C).
    """
    if points.ndim != 3:
        raise ValueError(f"{name} must be a padded batch (B, P, C), got shape {tuple(points.shape)}: add a batch axis?")


def check_pair(query: Tensor, points: Tensor) -> None:
    """Refuse batches that do not belong together.

    Raises:
        ValueError: not (B, Q, C) and (B, P, C).
    """
    check_cloud("query", query)
    check_cloud("points", points)
    if query.shape[0] != points.shape[0] or query.shape[2] != points.shape[2]:
        raise ValueError(f"query {tuple(query.shape)} and points {tuple(points.shape)} differ in batch or channels")


def check_lengths(lengths: Counts | None, points: Tensor) -> Tensor | None:
    """Lengths as a tensor (B,) on the points' device; batches keep them on the host, where a look costs nothing.

    Raises:
        ValueError: another number of lengths than clouds, or one outside 0..P (of lengths on the host).
    """
    if lengths is None:
        return None
    lengths = torch.as_tensor(lengths, dtype=torch.int64)
    if lengths.shape != points.shape[:1]:
        raise ValueError(f"lengths {tuple(lengths.shape)} for a batch of {points.shape[0]} clouds")
    if not torch.compiler.is_compiling() and len(lengths) and lengths.device.type == "cpu":
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > points.shape[1]:
            raise ValueError(f"lengths {low}..{high} do not fit clouds padded to {points.shape[1]} points")
    return lengths.to(points.device, non_blocking=True)


def farthest_point_sample(
    points: Tensor,
    num_samples: Counts,
    lengths: Counts | None = None,
    skip_near_origin: bool = False,
    start: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Choose points that are far from each other, one after the other.

    Args:
        points: (B, P, C).
        num_samples: K for all clouds, or one number per cloud, on the host.
        lengths: points of each cloud, None for all P.
        skip_near_origin: never choose points with |p|^2 <= 1e-3, as the CUDA kernel of `pointnet2_ops` does.
        start: first index of each cloud (B,); default 0.
        backend: `auto`, `torch`, `triton` or `pytorch3d`.

    Returns:
        Indices (B, K), int64, -1 behind min(K, length).

    Raises:
        ValueError: shapes or lengths that do not fit.
    """
    check_cloud("points", points)
    lengths = check_lengths(lengths, points)
    batch, size = points.shape[:2]
    most = num_samples if isinstance(num_samples, int) else int(max(num_samples, default=0))
    if most < 0:
        raise ValueError(f"num_samples {num_samples}: cannot choose fewer than 0 points")
    wanted = torch.as_tensor(num_samples, dtype=torch.int64).to(points.device, non_blocking=True).expand(batch)
    points = points.detach()
    buckets = backend == "auto" and neighbors.use_buckets(points, most)  # the same answers, sooner
    chosen = "torch" if buckets else choose_backend(backend, points)
    if most and not skip_near_origin and start is None and chosen == "pytorch3d":
        ops, _ = load_pytorch3d()
        return ops.sample_farthest_points(points, lengths, num_samples)[1]
    limit = wanted.new_full((batch,), size) if lengths is None else lengths
    counts = torch.minimum(wanted, limit).clamp(min=1)
    valid = neighbors.valid_rows(lengths, batch, size, points.device)
    skip = (points.square().sum(-1) <= 1e-3) if skip_near_origin else torch.zeros_like(valid)
    first = torch.zeros_like(counts) if start is None else start.to(points.device)
    if not skip_near_origin:
        return searches(chosen).sample_farthest(points, counts, most, valid, first, skip)
    # that kernel knows no lengths shorter than K: it goes on choosing
    return searches(chosen).sample_farthest(points, wanted, most, valid, first, skip)


def knn(
    query: Tensor,
    points: Tensor,
    k: int,
    lengths1: Counts | None = None,
    lengths2: Counts | None = None,
    norm: int = 2,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The k nearest points of each query.

    Args:
        query: (B, Q, C).
        points: (B, P, C).
        k: neighbors wanted; more than there are is allowed.
        lengths1: queries of each cloud.
        lengths2: points of each cloud.
        norm: 2 for squared Euclidean, 1 for absolute distances.
        backend: `auto`, `torch`, `triton` or `pytorch3d`.

    Returns:
        Distances (B, Q, k), ascending and differentiable, and indices (B, Q, k); both 0 where there is no neighbor.

    Raises:
        ValueError: shapes, lengths, `k` or `norm` that do not fit.
    """
    check_pair(query, points)
    lengths1, lengths2 = check_lengths(lengths1, query), check_lengths(lengths2, points)
    if k < 1 or norm not in (1, 2):
        raise ValueError(f"k={k}, norm={norm}: k must be at least 1 and norm 1 or 2")
    tree = neighbors.use_tree(query, points, norm, neighbors.TREE_FROM)  # the same answers, much sooner
    chosen = choose_backend("torch" if tree and backend == "auto" else backend, query, points)
    if chosen == "pytorch3d":
        ops, _ = load_pytorch3d()
        found = ops.knn_points(query, points, lengths1, lengths2, norm=norm, K=k)
        return found.dists, found.idx
    batch, size = points.shape[:2]
    valid = neighbors.valid_rows(lengths2, batch, size, points.device)
    with torch.no_grad():
        idx = searches(chosen).nearest_indices(query.detach(), points.detach(), min(k, size), valid, norm)
        idx = torch.nn.functional.pad(idx, (0, k - min(k, size)))
        there = neighbors.valid_rows(lengths1, batch, query.shape[1], query.device)[:, :, None]
        total = torch.full((batch,), size, device=points.device) if lengths2 is None else lengths2
        there = there & (torch.arange(k, device=points.device) < total[:, None, None])  # (B, Q, k)
        idx = idx * there
    if size == 0:
        return query.new_zeros(idx.shape), idx
    dist = neighbors.pair_distances(query[:, :, None], gather(points, idx), norm)
    return torch.where(there, dist, torch.zeros_like(dist)), idx


def ball_query(
    query: Tensor,
    points: Tensor,
    radius: float,
    k: int,
    lengths1: Counts | None = None,
    lengths2: Counts | None = None,
    fill: str = "pad",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The first k points, in index order, strictly within `radius` of each query.

    Args:
        query: (B, Q, C).
        points: (B, P, C).
        radius: of the ball, in the unit of the points.
        k: most points kept of a ball.
        lengths1: queries of each cloud.
        lengths2: points of each cloud.
        fill: `pad` gives index -1 and distance 0 to missing points; `first` repeats the first hit.
        backend: `auto`, `torch`, `triton` or `pytorch3d`.

    Returns:
        Squared distances (B, Q, k) and indices (B, Q, k).

    Raises:
        ValueError: shapes, lengths, `radius`, `k` or `fill` that do not fit.
    """
    check_pair(query, points)
    lengths1, lengths2 = check_lengths(lengths1, query), check_lengths(lengths2, points)
    if k < 1 or radius <= 0 or fill not in ("pad", "first"):
        raise ValueError(f"k={k}, radius={radius}, fill={fill!r}: k >= 1, radius > 0, fill pad or first")
    tree = neighbors.use_tree(query, points, 2, neighbors.TREE_BALL_FROM)
    chosen = choose_backend("torch" if tree and backend == "auto" else backend, query, points)
    if chosen == "pytorch3d":
        ops, _ = load_pytorch3d()
        idx = ops.ball_query(query, points, lengths1, lengths2, K=k, radius=radius, return_nn=False).idx
    else:
        batch, size = points.shape[:2]
        with torch.no_grad():
            valid = neighbors.valid_rows(lengths2, batch, size, points.device)
            idx = searches(chosen).ball_indices(query.detach(), points.detach(), min(k, size), radius, valid)
            idx = torch.nn.functional.pad(idx, (0, k - min(k, size)), value=-1)
            there = neighbors.valid_rows(lengths1, batch, query.shape[1], query.device)
            idx = idx.masked_fill(~there[:, :, None], -1)
    if fill == "first":
        idx = torch.where(idx < 0, idx[..., :1], idx).clamp(min=0)
    if points.shape[1] == 0:
        return query.new_zeros(idx.shape), idx
    dist = neighbors.pair_distances(query[:, :, None], gather(points, idx.clamp(min=0)))
    return torch.where(idx < 0, torch.zeros_like(dist), dist), idx


def gather(values: Tensor, idx: Tensor) -> Tensor:
    """Rows of `values` by index; a negative index gives zeros.

    Args:
        values: (B, P, C).
        idx: (B, ...), int64.

    Returns:
        (B, ..., C).
    """
    flat = idx.flatten(1)  # (B, M)
    rows = flat.clamp(min=0)[..., None].expand(-1, -1, values.shape[-1])
    found = values.gather(1, rows).masked_fill((flat < 0)[..., None], 0)  # (B, M, C)
    return found.unflatten(1, idx.shape[1:])


def three_interpolate(
    query: Tensor,
    points: Tensor,
    values: Tensor,
    lengths1: Counts | None = None,
    lengths2: Counts | None = None,
    eps: float = 1e-8,
    backend: str = "auto",
) -> Tensor:
    """Carry values from few points to many by the three nearest ones, weighted by 1 / (squared distance + eps).

    Args:
        query: where values are wanted (B, Q, C), in the same unit as `points`.
        points: where they are known (B, P, C).
        values: (B, P, D).
        lengths1: queries of each cloud.
        lengths2: points of each cloud; a cloud with fewer than three uses what it has, an empty one gives 0.
        eps: keeps a coinciding point finite.
        backend: `auto`, `torch`, `triton` or `pytorch3d`.

    Returns:
        (B, Q, D).
    """
    lengths2 = check_lengths(lengths2, points)
    dist, idx = knn(query, points, 3, lengths1, lengths2, backend=backend)
    batch, size = points.shape[:2]
    total = torch.full((batch,), size, device=points.device) if lengths2 is None else lengths2
    there = torch.arange(3, device=points.device) < total[:, None, None]  # (B, 1, 3)
    weight = there / (dist + eps)
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    if size == 0:
        return values.new_zeros(*query.shape[:2], values.shape[-1])
    return (gather(values, idx) * weight[..., None]).sum(2)


def sample_and_group(
    points: Tensor,
    num_groups: int,
    group_size: int,
    lengths: Counts | None = None,
    skip_near_origin: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut clouds into groups: centers by farthest point sampling, members by nearest neighbors.

    Args:
        points: (B, P, 3).
        num_groups: G.
        group_size: K.
        lengths: points of each cloud.
        skip_near_origin: see `farthest_point_sample`.
        backend: `auto`, `torch`, `triton` or `pytorch3d`.

    Returns:
        Centers (B, G, 3), their indices (B, G), members' indices (B, G, K). A cloud with fewer than G points
        repeats its first point as center; one with fewer than K points repeats its nearest member.
    """
    center_idx = farthest_point_sample(points, num_groups, lengths, skip_near_origin, backend=backend).clamp(min=0)
    centers = gather(points, center_idx)
    lengths = check_lengths(lengths, points)
    _, idx = knn(centers, points, group_size, None, lengths, backend=backend)
    total = torch.full(points.shape[:1], points.shape[1], device=points.device) if lengths is None else lengths
    there = torch.arange(group_size, device=points.device) < total[:, None, None]
    return centers, center_idx, torch.where(there, idx, idx[..., :1])
