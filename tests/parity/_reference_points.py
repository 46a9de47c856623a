"""Sparse operations and Point Transformer V3 (Sonata) voxel by voxel, in float64; official keys."""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.parity import _reference as r
from tests.parity.core import Case

Voxel = tuple[int, ...]


def three(value: Any) -> tuple[int, ...]:
    """One number for each axis."""
    return (value,) * 3 if isinstance(value, int) else tuple(value)


def offsets(size: Any, steps: tuple[int, ...], cross: bool) -> list[Voxel]:
    """Offsets of a kernel's weights, x fastest; odd sizes around 0, even ones from 0."""
    size = three(size)
    if cross:
        found = [(0, 0, 0)]
        for axis in range(3):
            reach = size[axis] // 2
            for i in [*range(1, reach + 1), *range(-reach, 0)]:
                found.append(tuple(i * steps[axis] if a == axis else 0 for a in range(3)))
        return found
    number = [[(i - n // 2 if n % 2 else i) * step for i in range(n)] for n, step in zip(size, steps, strict=True)]
    return [(x, y, z) for z in number[2] for y in number[1] for x in number[0]]


def moved(voxel: Voxel, offset: Voxel) -> Voxel:
    """A voxel of the same cloud."""
    return voxel[0], *(c + o for c, o in zip(voxel[1:], offset, strict=True))


class Sparse:
    """Features by voxel, the stride, and the voxels of all strides that were made."""

    def __init__(self, rows: dict[Voxel, Tensor], stride: tuple[int, ...], made: dict[Any, list[Voxel]]):
        self.rows, self.stride, self.made = rows, stride, made
        made.setdefault(stride, list(rows))


def applied(x: Sparse, op: str, args: dict[str, Any], s: r.State, prefix: str) -> Sparse:
    """One layer."""
    kernel, bias = s.get(f"{prefix}kernel"), s.get(f"{prefix}bias")
    step, dilation = three(args.get("stride", 1)), three(args.get("dilation", 1))
    back = op in ("convtr", "gentr")
    stride = tuple(a // b if back else a * b for a, b in zip(x.stride, step, strict=True))
    own = stride if back else x.stride
    steps = tuple(a * b for a, b in zip(own, dilation, strict=True))
    shifts = offsets(args.get("kernel_size", 2 if kernel is None else 3), steps, args.get("cross", False))
    made = x.made
    if op == "gentr":
        made, targets = {}, sorted({moved(c, o) for c in x.rows for o in shifts})
    elif stride in made:
        targets = made[stride]
    else:
        cut = {(c[0], *(v // t * t for v, t in zip(c[1:], stride, strict=True))) for c in x.rows}
        targets = sorted(cut)
    out = {}
    for u in targets:
        seen = [(k, x.rows.get(moved(u, tuple(-v for v in o) if back else o))) for k, o in enumerate(shifts)]
        seen = [(k, row) for k, row in seen if row is not None]
        if kernel is None:
            width = len(next(iter(x.rows.values())))
            rows = torch.stack([row for _, row in seen]) if seen else torch.zeros(1, width, dtype=torch.float64)
            out[u] = {"max": rows.amax(0), "sum": rows.sum(0), "avg": rows.mean(0)}[op]
        else:
            weight = kernel if kernel.ndim == 3 else kernel[None]
            out[u] = sum((row @ weight[k] for k, row in seen), torch.zeros(kernel.shape[-1], dtype=torch.float64))
            out[u] = out[u] + bias[0] if bias is not None else out[u]
    return Sparse(out, stride, made)


def minkowski(case: Case) -> Any:
    """All operations of a case."""
    cells = voxels_of(case)
    features = r.given(case, "features")
    found: dict[str, Tensor] = {"coordinates": torch.tensor(cells).int()}
    losses = {}
    for name, about in case.json["variants"].items():
        given = features.clone().requires_grad_()
        x = Sparse(dict(zip(cells, given, strict=True)), (1, 1, 1), {})
        s = r.doubled(case.state(about["state"])) if about["state"] else {}
        for i, (op, args) in enumerate(about["after"]):
            x = applied(x, op, args, s, f"{name}.pre{i}.")
        x = applied(x, about["op"], about["args"], s, f"{name}.")
        order = sorted(x.rows)
        out = torch.stack([x.rows[c] for c in order])
        found |= {f"{name}.coordinates": torch.tensor(order).int(), f"{name}.features": out}
        own = {k: v for k, v in s.items() if ".pre" not in k}
        losses[f"{name}.grad:"] = r.cotangent(case, out), {"input": given, **own}
    return found, losses


def voxels_of(case: Case) -> list[Voxel]:
    """Voxels of clouds 0 and 2, in no order; cloud 1 is empty."""
    rng = np.random.default_rng(case.seed)
    count, spread = case.json["inputs"]["features"]["shape"][0], case.arch.get("spread", 3)
    rows = rng.integers(-spread, spread + 1, (50 * count, 4))
    rows[:, 0] = rng.integers(0, 2, len(rows)) * 2
    return [tuple(map(int, row)) for row in dict.fromkeys(map(tuple, rows))][:count]


def code(order: str, cell: Voxel, depth: int) -> int:
    """The place of a voxel (x, y, z) on a curve."""
    x, y, z = cell
    first = (y, x, z) if order.endswith("trans") else (x, y, z)
    if order.startswith("z"):
        return sum((first[a] >> j & 1) << (3 * j + 2 - a) for j in range(depth) for a in range(3))
    h = [[v >> (depth - 1 - b) & 1 for b in range(depth)] for v in first]
    for b, a in itertools.product(range(depth), range(3)):
        for c in range(b + 1, depth):
            if h[a][b]:
                h[0][c] ^= 1
            else:
                h[0][c], h[a][c] = h[a][c], h[0][c]
    value, last = 0, 0
    for b, a in itertools.product(range(depth), range(3)):
        last ^= h[a][b]
        value = value * 2 + last
    return value


class Level:
    """Voxels with their clouds, curves and mean places."""

    def __init__(self, grid: Any, cloud: Any, coord: Tensor, depth: int, codes: list[list[int]]):
        self.grid, self.cloud, self.coord, self.depth, self.codes = grid, cloud, coord, depth, codes
        self.padded: dict[int, list[list[int]]] = {}

    def sequences(self, curve: int, size: int) -> list[list[int]]:
        """Patches of rows along a curve: cut for the size that was asked for first."""
        rows = sorted(range(len(self.cloud)), key=self.codes[curve % len(self.codes)].__getitem__)
        clouds = [[i for i in rows if self.cloud[i] == b] for b in dict.fromkeys(self.cloud)]
        smallest = min(map(len, clouds))
        if not self.padded:
            self.padded[0] = [[min(size, smallest)]]
        first, patches = self.padded[0][0][0], []
        for own in clouds:
            n = len(own)
            missing = -n % first
            own = own + [own[n + t - first] for t in range(missing)]
            k = min(size, smallest)
            patches += [(own[i : i + k], max(0, min(k, n - i))) for i in range(0, len(own), k)]
        return patches  # type: ignore[return-value]


def level_of(a: dict[str, Any], grid: Any, cloud: Any, coord: Tensor, beyond: int) -> Level:
    """Curves of voxels."""
    depth = (max(max(c) for c in grid) + beyond).bit_length()
    codes = [[b << 3 * depth | code(o, c, depth) for b, c in zip(cloud, grid, strict=True)] for o in a["order"]]
    return Level(grid, cloud, coord, depth, codes)


def submanifold(s: r.State, at: str, x: Tensor, level: Level) -> Tensor:
    """Convolution over the voxels that are there."""
    weight, rows = s[f"{at}.weight"], {(b, *c): i for i, (b, c) in enumerate(zip(level.cloud, level.grid, strict=True))}
    n, outs = weight.shape[1], []
    for b, c in zip(level.cloud, level.grid, strict=True):
        y = torch.zeros(len(weight), dtype=torch.float64)
        for i, j, k in itertools.product(range(n), repeat=3):
            there = rows.get(moved((b, *c), (i - n // 2, j - n // 2, k - n // 2)))
            y = y + weight[:, i, j, k] @ x[there] if there is not None else y
        outs.append(y)
    y = torch.stack(outs)
    return y + s[f"{at}.bias"] if f"{at}.bias" in s else y


def patch_attention(s: r.State, at: str, x: Tensor, level: Level, curve: int, heads: int, size: int) -> Tensor:
    """Attention within patches; copies that fill a patch are seen and not read."""
    out = torch.zeros_like(x)
    q, k, v = r.linear(s, f"{at}.qkv", x).chunk(3, -1)
    grid, reach = torch.tensor(level.grid), int((4 * size) ** (1 / 3) * 2)
    for rows, real in level.sequences(curve, size):  # type: ignore[misc]
        for h, part in enumerate(torch.arange(x.shape[1]).chunk(heads)):
            score = q[rows][:, part] @ k[rows][:, part].T / len(part) ** 0.5
            if f"{at}.rpe.rpe_table" in s:
                apart = (grid[rows][:, None] - grid[rows][None]).clamp(-reach, reach) + reach
                for axis in range(3):
                    score = score + s[f"{at}.rpe.rpe_table"][apart[..., axis] + axis * (2 * reach + 1), h]
            y = score.softmax(-1) @ v[rows][:, part]
            out = out.index_put((torch.tensor(rows[:real], dtype=torch.long)[:, None], part[None]), y[:real])
    return r.linear(s, f"{at}.proj", out)


def point_block(s: r.State, a: dict, at: str, x: Tensor, level: Level, curve: int, sizes: Any, seen: Any) -> Tensor:
    """Convolution, attention, MLP."""
    y = r.linear(s, f"{at}.cpe.1", submanifold(s, f"{at}.cpe.0", x if seen is None else seen, level))
    x = x + r.norm(s, f"{at}.cpe.2", y)
    scale = lambda n, y: y * s[f"{at}.ls{n}.0.gamma"] if f"{at}.ls{n}.0.gamma" in s else y  # noqa: E731
    attend = lambda y: scale(1, patch_attention(s, f"{at}.attn", y, level, curve, *sizes))  # noqa: E731
    mlp = lambda y: scale(2, r.linear(s, f"{at}.mlp.0.fc2", r.gelu(r.linear(s, f"{at}.mlp.0.fc1", y))))  # noqa: E731
    if a.get("pre_norm", True):
        x = x + attend(r.norm(s, f"{at}.norm1.0", x))
        return x + mlp(r.norm(s, f"{at}.norm2.0", x))
    x = r.norm(s, f"{at}.norm1.0", x + attend(x))
    return r.norm(s, f"{at}.norm2.0", x + mlp(x))


def any_norm(s: r.State, at: str, x: Tensor) -> Tensor:
    """A batch norm where there are statistics, else a layer norm."""
    return r.batch_norm(s, at, x, eps=1e-3) if f"{at}.running_mean" in s else r.norm(s, at, x)


def pooled(s: r.State, a: dict, at: str, x: Tensor, level: Level, stride: int, first: bool) -> Any:
    """Largest projected feature and mean place of the voxels of a coarser grid."""
    if first:
        bits = (stride - 1).bit_length()
        bits = bits if bits <= level.depth else 0
        keys: list[Any] = [c >> 3 * bits for c in level.codes[0]]
    else:
        keys = [(b, *(v // stride for v in c)) for b, c in zip(level.cloud, level.grid, strict=True)]
    cells = sorted(set(keys))
    members = [[i for i, key in enumerate(keys) if key == cell] for cell in cells]
    y = r.linear(s, f"{at}.proj", x)
    y = r.gelu(any_norm(s, f"{at}.norm.0", torch.stack([y[m].amax(0) for m in members])))
    coord = torch.stack([level.coord[m].mean(0) for m in members])
    cloud = [level.cloud[m[0]] for m in members]
    divide = (lambda v: v >> bits) if first else (lambda v: v // stride)
    grid = [tuple(divide(v) for v in level.grid[m[0]]) for m in members]
    if first:
        codes = [[order[m[0]] >> 3 * bits for m in members] for order in level.codes]
        coarse = Level(grid, cloud, coord, level.depth - bits, codes)
    else:
        coarse = level_of(a, grid, cloud, coord, 1)
    return y, coarse, [cells.index(key) for key in keys]


def ptv3_variant(case: Case) -> Any:
    """Encoder and decoder of one variant."""
    a, s, first = case.arch["args"], r.doubled(case.state()), case.arch["mode"] == "v1"
    grid, cloud, coord = cloud_of(case)
    level = level_of(a, grid, cloud, coord, 0 if first else 1)
    x = case.cotangent((len(cloud), a["in_channels"]), "feat").double()
    at = "embedding.stem"
    x = submanifold(s, f"{at}.conv", x, level) if first else r.linear(s, f"{at}.linear", x)
    x = r.gelu(any_norm(s, f"{at}.norm", x))
    if case.arch["mask"]:
        mask = case.cotangent((len(cloud),), "mask") > 0.5
        x = torch.where(mask[:, None], s["embedding.mask_token"], x)
    found = {"cpe_conv": submanifold(s, "enc.enc0.block0.cpe.0", x, level)}
    kept, parents = [], []
    for n, depth in enumerate(a["enc_depths"]):
        if n:
            x, level, parent = pooled(s, a, f"enc.enc{n}.down", x, level, a["stride"][n - 1], first)
            parents.append(parent)
        for i in range(depth):
            sizes = a["enc_num_head"][n], a["enc_patch_size"][n]
            x = point_block(s, a, f"enc.enc{n}.block{i}", x, level, i, sizes, None)
        kept.append((x, level))
    if "dec_depths" not in a:
        every = x
        for (fine, _), parent in zip(kept[-2::-1], parents[::-1], strict=True):
            every = torch.cat([fine, every[parent]], 1)
        found["upcast_all"] = every
    for n in reversed(range(len(a.get("dec_depths", ())))):
        fine, level = kept[n]
        up = f"dec.dec{n}.up"
        skip = r.gelu(any_norm(s, f"{up}.proj_skip.1", r.linear(s, f"{up}.proj_skip.0", fine)))
        x = skip + r.gelu(any_norm(s, f"{up}.proj.1", r.linear(s, f"{up}.proj.0", x)))[parents[n]]
        for i in range(a["dec_depths"][n]):
            sizes = a["dec_num_head"][n], a["dec_patch_size"][n]
            seen = skip if first and i == 0 else None
            x = point_block(s, a, f"dec.dec{n}.block{i}", x, level, i, sizes, seen)
    found |= {"feat": x, "out_grid": torch.tensor(level.grid), "out_coord": level.coord}
    found["out_batch"] = torch.tensor(level.cloud)
    return found, (r.cotangent(case, x), {k: v for k, v in s.items() if r.frozen(s, [k])})


def cloud_of(case: Case) -> Any:
    """Voxels of the clouds of a case."""
    rng = np.random.default_rng(case.seed)
    grid, cloud = [], []
    for b, count in enumerate(case.arch["clouds"]):
        cells = dict.fromkeys(map(tuple, rng.integers(0, case.arch["extent"], (60 * count, 3)).tolist()))
        grid += list(cells)[:count]
        cloud += [b] * count
    coord = torch.tensor(grid).double() * 0.02 + 0.003 * torch.arange(len(grid))[:, None] / len(grid)
    return grid, cloud, coord


def ptv3(case: Case) -> Any:
    """All variants, and what they are given."""
    grid, cloud, coord = cloud_of(case)
    found = {"grid_coord": torch.tensor(grid), "batch": torch.tensor(cloud), "coord": coord.float()}
    losses = {}
    for tag, variant in case.variants():
        arrays, loss = ptv3_variant(variant)
        found |= {f"{tag}.{k}": v for k, v in arrays.items()}
        losses[f"{tag}.grad:"] = loss
    return found, losses


def ptv3_shapes(a: dict[str, Any], first: bool) -> r.Shapes:
    """Official keys of a network."""
    normed = r.batch_normed if first else r.normed
    c = a["enc_channels"]
    state: r.Shapes = {"embedding.mask_token": [1, c[0]]} if a.get("mask_token") else {}
    stem = {"embedding.stem.conv.weight": [c[0], 5, 5, 5, a["in_channels"]]}
    state |= stem if first else r.affine("embedding.stem.linear", c[0], a["in_channels"])
    state |= normed("embedding.stem.norm", c[0])
    for n, depth in enumerate(a["enc_depths"]):
        if n:
            state |= r.affine(f"enc.enc{n}.down.proj", c[n], c[n - 1]) | normed(f"enc.enc{n}.down.norm.0", c[n])
        for i in range(depth):
            sizes = c[n], a["enc_num_head"][n], a["enc_patch_size"][n]
            state |= point_block_shapes(a, f"enc.enc{n}.block{i}", *sizes)
    back = [*a.get("dec_channels", ()), c[-1]]
    for n, depth in enumerate(a.get("dec_depths", ())):
        for name, ins in (("proj", back[n + 1]), ("proj_skip", c[n])):
            state |= r.affine(f"dec.dec{n}.up.{name}.0", back[n], ins) | normed(f"dec.dec{n}.up.{name}.1", back[n])
        for i in range(depth):
            sizes = back[n], a["dec_num_head"][n], a["dec_patch_size"][n]
            state |= point_block_shapes(a, f"dec.dec{n}.block{i}", *sizes)
    return state


def point_block_shapes(a: dict[str, Any], at: str, c: int, heads: int, patch: int) -> r.Shapes:
    """Of one block."""
    hidden = int(c * a.get("mlp_ratio", 4))
    state: r.Shapes = {f"{at}.cpe.0.weight": [c, 3, 3, 3, c], f"{at}.cpe.0.bias": [c]}
    state |= r.affine(f"{at}.cpe.1", c, c) | r.normed(f"{at}.cpe.2", c)
    state |= r.normed(f"{at}.norm1.0", c) | r.normed(f"{at}.norm2.0", c)
    qkv = r.affine(f"{at}.attn.qkv", 3 * c, c)
    state |= {k: v for k, v in qkv.items() if a.get("qkv_bias", True) or k.endswith("weight")}
    state |= r.affine(f"{at}.attn.proj", c, c)
    state |= r.affine(f"{at}.mlp.0.fc1", hidden, c) | r.affine(f"{at}.mlp.0.fc2", c, hidden)
    if a.get("enable_rpe"):
        state[f"{at}.attn.rpe.rpe_table"] = [3 * (2 * int((4 * patch) ** (1 / 3) * 2) + 1), heads]
    if a.get("layer_scale") is not None:
        state |= {f"{at}.ls{n}.0.gamma": [c] for n in (1, 2)}
    return state
