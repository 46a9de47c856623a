"""Adapters on a model somebody already has: `xmodal.adapt(model, "lora", rank=8)`.

Several named adapters can live on one tower: `use` switches between them, and a batch may name one for each sample.
"""

import copy
import importlib
import inspect
import json
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from xmodal import adapters
from xmodal.encoders.sites import Edits, Stream
from xmodal.frozen_tower import FrozenTower
from xmodal.merge import merge_adapters
from xmodal.registry import ADAPTERS, check_arguments, did_you_mean, resolve
from xmodal.structures import Encoder
from xmodal.torch_files import read_safetensors

WEIGHTS, NOTES = "adapter.safetensors", "adapter.json"


class Adapted(FrozenTower):
    """A frozen tower, named adapters of which one is in use, and a head.

    Args:
        encoder: an `Encoder`; it is frozen.
        head: from features to outputs; it trains.
    """

    def __init__(self, encoder: Encoder, head: nn.Module | None = None):
        super().__init__()
        self.encoder = self.hold(encoder)
        self.head = nn.Identity() if head is None else head
        self.methods: dict[str, dict[str, Any]] = {}
        self.active: str | None = None
        self.parked = nn.ModuleDict()
        self._sites: dict[str, list[Stream | Edits]] = {}

    def add(self, method: str, name: str | None = None, **arguments: Any) -> "Adapted":
        """Place a further adapter and use it.

        Args:
            method: a registered adapter, such as `lora`.
            name: what to call it; default: the method's name.
            **arguments: of the method.

        Raises:
            ValueError: an unknown method or argument, a name that is taken, or a method that changes weights of the
                tower itself (BitFit, trained norms) beside others.
        """
        place, name = method_called(method), name or method
        if name in self.methods:
            raise ValueError(f"an adapter called {name!r} is there already; give this one another name")
        check_arguments(place, arguments)
        self.use(None)
        base = [p for p in self.encoder.parameters() if not p.requires_grad]
        named = {"name": name} if "name" in inspect.signature(place).parameters else {}
        place(self.encoder, **arguments, **named)
        if self.methods and any(p.requires_grad for p in base):
            raise ValueError(f"{method} trains weights of the tower itself: it cannot live beside {list(self.methods)}")
        self.methods[name] = {"method": method, "arguments": arguments}
        self._sites[name] = [m for m in self.encoder.modules() if isinstance(m, Stream | Edits) and name in m]
        self.active = name
        return self

    def use(self, name: str | None) -> "Adapted":
        """Switch to an adapter, or to none.

        Raises:
            ValueError: no adapter of that name.
        """
        if name is not None and name not in self.methods:
            raise ValueError(f"no adapter is called {name!r}; {did_you_mean(name, self.methods)}")
        if name == self.active:
            return self
        if self.active is not None:
            self.parked[self.active] = nn.ModuleList(site.pop(self.active) for site in self._sites[self.active])
        if name is not None:
            parked = self.parked.pop(name)
            assert isinstance(parked, nn.ModuleList)
            for site, module in zip(self._sites[name], parked, strict=True):
                site[name] = module
        self.active = name
        return self

    def forward(self, images: Tensor, adapter: Sequence[str] | None = None) -> Tensor:
        """Run normalized images (B, 3, H, W).

        Args:
            images: as the model wants them.
            adapter: the adapter's name for each sample, to mix them in one batch; None for the one in use.

        Raises:
            ValueError: not one name a sample.
        """
        if adapter is None:
            return self.head(self.encoder(images))
        if len(adapter) != len(images):
            raise ValueError(f"{len(adapter)} adapter names for {len(images)} images: give one for each")
        before, out = self.active, None
        for name in dict.fromkeys(adapter):
            rows = torch.tensor([i for i, n in enumerate(adapter) if n == name], device=images.device)
            part = self.use(name).head(self.encoder(images[rows]))
            out = part.new_empty(len(images), *part.shape[1:]) if out is None else out
            out = out.index_copy(0, rows, part)
        self.use(before)
        assert out is not None
        return out

    def saved_keys(self) -> set[str]:
        """Return the keys of the adapter in use, of what else trains in the tower with its buffers, and of the head."""
        return {key for key in super().saved_keys() if not key.startswith("parked.")}

    def trained(self) -> dict[str, Tensor]:
        """Return the trained weights of the adapter in use and of the head."""
        keys = self.saved_keys()
        return {k: p for k, p in self.named_parameters(remove_duplicate=False) if p.requires_grad and k in keys}

    def saved(self) -> dict[str, Tensor]:
        """Return the tensors of a file: the trained weights and the buffers that move with them."""
        keys = self.saved_keys()
        return {key: value for key, value in self.state_dict().items() if key in keys}

    def save(self, folder: str | Path) -> Path:
        """Write the adapter in use and the head: `adapter.safetensors` and `adapter.json`.

        Raises:
            ValueError: none is in use.
        """
        if self.active is None:
            raise ValueError("no adapter is in use: call use(name) first")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: p.detach().cpu().contiguous() for k, p in self.saved().items()}
        safetensors.torch.save_file(tensors, folder / WEIGHTS)
        notes = {"name": self.active, **self.methods[self.active], **self.frozen_fingerprint()}
        (folder / NOTES).write_text(json.dumps(notes, indent=1) + "\n")
        return folder

    def load(self, folder: str | Path, name: str | None = None) -> "Adapted":
        """Add an adapter that `save` wrote, and use it; the head becomes that file's.

        Raises:
            FileNotFoundError: nothing there.
            ValueError: it was trained on another tower, or its tensors do not fit.
        """
        folder = Path(folder)
        notes = json.loads((folder / NOTES).read_text())
        if notes["sha256"] != self.frozen_fingerprint()["sha256"]:
            raise ValueError(f"{folder} was trained on {notes['encoder']} ({notes['sha256'][:12]}), not on this tower")
        name = name or notes["name"]
        self.add(notes["method"], name, **notes["arguments"])
        tensors = read_safetensors(folder / WEIGHTS)
        tensors = {k.replace(f".{notes['name']}.", f".{name}."): v for k, v in tensors.items()}
        live = self.saved()
        wrong = sorted(set(live) ^ set(tensors)) or [k for k in live if live[k].shape != tensors[k].shape]
        if wrong:
            raise ValueError(f"{folder} does not fit: {', '.join(wrong[:4])}")
        for key, value in tensors.items():
            live[key].data.copy_(value)
        return self

    def merged(self) -> nn.Module:
        """A plain tower with the adapter in use folded into its weights.

        Raises:
            ValueError: it cannot be folded.
        """
        return merge_adapters(self.encoder)


def method_called(name: str) -> Any:
    """Return a registered adapter; only `xmodal/adapters` is imported to find it."""
    if name not in ADAPTERS.module_dict:
        for info in pkgutil.iter_modules(adapters.__path__, f"{adapters.__name__}."):
            importlib.import_module(info.name)
    return resolve(name, ADAPTERS)


def adapt(model: nn.Module, method: str = "lora", num_classes: int | None = None, **arguments: Any) -> Adapted:
    """Freeze a model and place an adapter in it.

    Args:
        model: a timm vision transformer, ConvNet or Swin, an open_clip model or its image tower, or an
            `Encoder`. It is not changed: its weights are copied.
        method: a registered adapter.
        num_classes: a new linear head of so many classes; None keeps the model's own (features where it has none).
        **arguments: of the method, `name` included.

    Returns:
        A module that maps normalized images to outputs, of which the adapter and the head train.

    Raises:
        ValueError: a model that is not supported, an unknown method or argument.
    """
    encoder, head = tower_and_head(model)
    if num_classes is not None:
        head = nn.Linear(encoder.out_dim, num_classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
    return Adapted(encoder, head).add(method, **arguments)


LIBRARIES = {"timm": "xmodal.encoders.timm_weights", "open_clip": "xmodal.encoders.openclip_weights"}


def tower_and_head(model: Any) -> tuple[Encoder, nn.Module | None]:
    """Return a copy of a model's tower as an `Encoder`, and of its classifier where it has one.

    Raises:
        ValueError: a model of no library that is known, or one that its library's module does not support.
    """
    if isinstance(model, Encoder):
        return copy.deepcopy(model), None
    library = type(model).__module__.split(".")[0]
    if library not in LIBRARIES:
        raise ValueError(f"{type(model).__name__} is no timm or open_clip model: build an xmodal encoder first")
    return importlib.import_module(LIBRARIES[library]).tower_and_head(model)
