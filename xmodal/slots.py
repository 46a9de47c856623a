"""Keep several adapters on one tower: each has its own modules, tower weights, statistics and head, one is in place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.encoders.sites import Edits, Stream


class AdapterSlot(nn.Module):
    """Hold the modules, tower weights, statistics and head of one adapter while another is in use, and exchange them.

    Args:
        modules: (site, key, module) of everything placed.
        tensors: (owner, name, own tensor) of weights and buffers of the tower that move with the adapter.
        head: its head.
    """

    def __init__(
        self,
        modules: list[tuple[Stream | Edits, str, nn.Module]],
        tensors: list[tuple[nn.Module, str, Tensor]],
        head: nn.Module,
    ):
        super().__init__()
        self.placed = nn.ModuleList(module for _, _, module in modules)
        self.kept = nn.Module()
        self.head = head
        # plain lists: sites and owners are the tower's, and are not registered here
        self.sites = [(site, key) for site, key, _ in modules]
        self.owners = [(owner, name) for owner, name, _ in tensors]
        for i, (_, _, tensor) in enumerate(tensors):
            keep(self.kept, str(i), tensor)
        self.flags = [p.requires_grad for p in self.parameters()]
        self.rest()

    def rest(self) -> None:
        """Let none of the weights train while parked, nor keep a gradient."""
        for p in self.parameters():
            p.requires_grad_(False)
            p.grad = None

    def enter(self, holder: nn.Module) -> None:
        """Put everything in place; `holder.head` becomes this adapter's."""
        for p, flag in zip(self.parameters(), self.flags, strict=True):
            p.requires_grad_(flag)
        for (site, key), module in zip(self.sites, self.placed, strict=True):
            site[key] = module
        self.placed = nn.ModuleList()
        self.exchange(holder)
        self.lent = [p.requires_grad for p in self.head.parameters()]
        self.head.requires_grad_(False)  # the head that is not in use

    def leave(self, holder: nn.Module) -> None:
        """Take everything away again."""
        self.placed = nn.ModuleList(site.pop(key) for site, key in self.sites)
        for p, flag in zip(self.head.parameters(), self.lent, strict=True):
            p.requires_grad_(flag)
        self.exchange(holder)

    def exchange(self, holder: nn.Module) -> None:
        """Exchange the tower's tensors and the head with those kept here."""
        for i, (owner, name) in enumerate(self.owners):
            mine, theirs = getattr(self.kept, str(i)), getattr(owner, name)
            keep(owner, name, mine)
            keep(self.kept, str(i), theirs)
        self.head, holder.head = holder.head, self.head  # type: ignore[assignment]


def keep(owner: nn.Module, name: str, tensor: Tensor) -> None:
    """Set a weight or buffer of a module, whatever stood there."""
    where = owner._parameters if isinstance(tensor, nn.Parameter) else owner._buffers
    where[name] = tensor  # type: ignore[assignment]


def containers(encoder: nn.Module) -> Iterator[Stream | Edits]:
    """Yield all sites of a tower."""
    return (m for m in encoder.modules() if isinstance(m, Stream | Edits))


@contextmanager
def unchanged_on_error(encoder: nn.Module) -> Iterator[None]:
    """Within it, what was placed and set to train is undone when an error comes."""
    before = {site: set(site) for site in containers(encoder)}
    flags = {p: p.requires_grad for p in encoder.parameters()}
    try:
        yield
    except BaseException:
        for site in list(containers(encoder)):
            for key in set(site) - before.get(site, set()):
                site.pop(key)
        for p, flag in flags.items():
            p.requires_grad_(flag)
        raise


def place(encoder: nn.Module, put: Callable[[], Any], head: nn.Module) -> AdapterSlot:
    """Let a method place an adapter in a bare tower, and take out all that it owns.

    Args:
        encoder: without other adapters in place.
        put: places it.
        head: the adapter's head.

    Returns:
        The slot, parked.
    """
    with unchanged_on_error(encoder):
        dtype = next((p.dtype for p in encoder.parameters()), torch.float32)
        known = {id(p): p.requires_grad for p in encoder.parameters()}
        before = {site: set(site) for site in containers(encoder)}
        put()
        modules = [(s, k, s[k]) for s in list(containers(encoder)) for k in s if k not in before.get(s, set())]
        for site, key, module in modules:
            module.to(dtype)
            site.pop(key)
        tensors = list(own_tensors(encoder, known))
    return AdapterSlot(modules, tensors, head)


def own_tensors(encoder: nn.Module, known: dict[int, bool]) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield copies of the tower's weights that an adapter trains and of the buffers beside them; freeze the tower's."""
    for owner in encoder.modules():
        trained = {n: p for n, p in owner._parameters.items() if p is not None and p.requires_grad and not known[id(p)]}
        for name, p in trained.items():
            p.requires_grad_(False)
            yield owner, name, nn.Parameter(p.detach().clone())
        for name, buffer in owner._buffers.items() if trained else ():
            if buffer is not None:
                yield owner, name, buffer.detach().clone()
