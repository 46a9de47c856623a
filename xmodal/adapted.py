"""Adapters on a model somebody already has: `xmodal.adapt(model, "lora", rank=8)`.

Several named adapters can live on one tower: `use` switches between them, and a batch may name one for each sample.
"""

import copy
import importlib
import inspect
import json
import pkgutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from xmodal import adapters
from xmodal.atomic import replacing, write_text
from xmodal.export import Exported, export
from xmodal.frozen_tower import FrozenTower
from xmodal.handback import filled
from xmodal.hub import CARD, NOTES, WEIGHTS, card, folder_of, push, read_notes
from xmodal.merge import merge_adapters
from xmodal.peft_files import fill, read_peft, write_peft
from xmodal.registry import ADAPTERS, check_arguments, did_you_mean, resolve
from xmodal.slots import AdapterSlot, place
from xmodal.structures import Encoder
from xmodal.torch_files import read_safetensors


class Adapted(FrozenTower):
    """A frozen tower, named adapters of which one is in use, and a head.

    Each adapter has its own head, arguments, trained tower weights (BitFit, norms) and BatchNorm statistics. Those that
    are not in use are parked: they have no gradient and no part in the outputs.

    Args:
        encoder: an `Encoder`; it is frozen.
        head: from features to outputs; each adapter starts from a copy of it.
        given: the model that the tower was made of, for `merged`.
    """

    def __init__(self, encoder: Encoder, head: nn.Module | None = None, given: Any = None):
        super().__init__()
        self.encoder = self.hold(encoder)
        self.head = nn.Identity() if head is None else head
        self.given = Given(given)
        self.methods: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}  # the names of adapters at the sites
        self.active: str | None = None
        self.in_use: AdapterSlot | None = None
        self.parked = nn.ModuleDict()

    def add(self, method: str, name: str | None = None, num_classes: int | None = None, **arguments: Any) -> "Adapted":
        """Place a further adapter and use it.

        Args:
            method: a registered adapter, such as `lora`.
            name: what to call it; default: the method's name.
            num_classes: a new linear head of so many classes; None: a copy of the head that the model was made with.
            **arguments: of the method.

        Raises:
            ValueError: an unknown method or argument, a name that is taken, or a tower that the method cannot work on.
        """
        put, name = method_called(method), name or method
        if name in self.methods:
            raise ValueError(f"an adapter called {name!r} is there already; give this one another name")
        check_arguments(put, arguments)
        before, key = self.active, self.key_for(name)
        named = {"name": key} if "name" in inspect.signature(put).parameters else {}
        self.use(None)
        try:
            head = copy.deepcopy(self.head) if num_classes is None else new_head(self.encoder, num_classes)
            slot = place(self.encoder, lambda: put(self.encoder, **arguments, **named), head)
        except (AttributeError, TypeError, NotImplementedError, RuntimeError) as error:
            tower = f"{self.encoder.name} ({self.encoder.family})"
            raise ValueError(f"{method} does not work on {tower}: {error}") from error
        finally:
            self.use(before)
        self.methods[name] = {"method": method, "arguments": arguments}
        self.keys[name] = key
        self.parked[key] = slot
        return self.use(name)

    def key_for(self, name: str) -> str:
        """Return a name's key at the sites: the name, where that can be a key of a `ModuleDict`."""
        if name and "." not in name and not hasattr(nn.ModuleDict(), name):
            return name
        return f"adapter_{sum(key.startswith('adapter_') for key in self.keys.values())}"

    def use(self, name: str | None) -> "Adapted":
        """Switch to an adapter, or to none: the tower as it was given. The others rest, without gradients.

        Raises:
            ValueError: no adapter of that name.
        """
        self.switch(name)
        for slot in self.parked.values():
            slot.rest()  # type: ignore[operator]
        return self.train(self.training)

    def switch(self, name: str | None) -> None:
        """Put an adapter in place; those that leave keep their gradients."""
        if name is not None and name not in self.methods:
            raise ValueError(f"no adapter is called {name!r}; {did_you_mean(name, self.methods)}")
        if name == self.active:
            return
        if self.in_use is not None and self.active is not None:
            self.in_use.leave(self)
            self.parked[self.keys[self.active]] = self.in_use
        self.in_use, self.active = None, name
        if name is not None:
            slot = self.parked.pop(self.keys[name])
            assert isinstance(slot, AdapterSlot)
            slot.enter(self)
            self.in_use = slot

    def delete(self, name: str) -> "Adapted":
        """Remove an adapter; if it was in use, none is afterwards.

        Raises:
            ValueError: no adapter of that name.
        """
        before = self.active
        self.use(name).use(None)
        self.methods.pop(name)
        self.parked.pop(self.keys.pop(name))
        return self.use(None if before == name else before)

    def forward(self, images: Tensor, adapter: Sequence[str] | None = None) -> Tensor:
        """Run normalized images (B, 3, H, W).

        Args:
            images: as the model wants them.
            adapter: the adapter's name for each sample, to mix them in one batch; None for the one in use. All heads
                must have equally many outputs.

        Raises:
            ValueError: not one name a sample, or heads with other numbers of outputs.
        """
        if adapter is None:
            return self.head(self.encoder(images))
        if len(adapter) != len(images):
            raise ValueError(f"{len(adapter)} adapter names for {len(images)} images: give one for each")
        before, parts, order = self.active, [], []
        try:
            for name in dict.fromkeys(adapter):
                rows = [i for i, n in enumerate(adapter) if n == name]
                self.switch(name)
                self.train(self.training)
                order += rows
                parts.append(self.head(self.encoder(images[torch.tensor(rows, device=images.device)])))
        finally:
            self.switch(before)
            self.train(self.training)
        if len({part.shape[1:] for part in parts}) > 1:
            sizes = {name: tuple(part.shape[1:]) for name, part in zip(dict.fromkeys(adapter), parts, strict=True)}
            raise ValueError(f"heads of one batch must have equally many outputs, got {sizes}")
        return torch.cat(parts)[torch.tensor(order, device=images.device).argsort()]

    def saved_keys(self) -> set[str]:
        """Return the keys of the adapter in use: its modules and head, the tower's weights and statistics it moves."""
        keys = {key for key in super().saved_keys() if not key.startswith(("parked.", "in_use."))}
        if self.in_use is None:
            return keys
        names = {id(module): name for name, module in self.encoder.named_modules()}
        return keys | {f"encoder.{names[id(owner)]}.{name}" for owner, name in self.in_use.owners}

    def trained(self) -> dict[str, Tensor]:
        """Return the trained weights of the adapter in use and of its head."""
        keys = self.saved_keys()
        return {k: p for k, p in self.named_parameters(remove_duplicate=False) if p.requires_grad and k in keys}

    def saved(self, name: str | None = None) -> dict[str, Tensor]:
        """Return the tensors of a file.

        Args:
            name: the adapter's name in the keys; default: its own.

        Raises:
            ValueError: no adapter is in use.
        """
        if self.active is None or self.in_use is None:
            raise ValueError("no adapter is in use: call use(name) first")
        name, key = name or self.active, self.keys[self.active]
        sites = {id(site): f"encoder.{path}" for path, site in self.encoder.named_modules()}
        own = {f"{sites[id(site)]}.": at for site, at in self.in_use.sites if at == key}
        state, saved = self.state_dict(keep_vars=True), {}
        for full in sorted(self.saved_keys()):
            site = next((s for s in own if full.startswith(f"{s}{key}.")), None)
            saved[full if site is None else f"{site}{name}.{full.removeprefix(f'{site}{key}.')}"] = state[full]
        return saved

    def save(self, folder: str | Path) -> Path:
        """Write the adapter in use and its head: `adapter.safetensors` and `adapter.json`.

        Raises:
            ValueError: none is in use.
        """
        tensors = {k: p.detach().cpu().contiguous() for k, p in self.saved().items()}
        assert self.active is not None
        entry = self.methods[self.active]
        notes = {"name": self.active, "method": entry["method"], "arguments": entry["arguments"]}
        with replacing(Path(folder) / WEIGHTS) as file:
            file.write(safetensors.torch.save(tensors))
        write_text(Path(folder) / NOTES, json.dumps(notes | self.frozen_fingerprint(), indent=1) + "\n")
        return Path(folder)

    def push_to_hub(self, repo: str, figures: str = "", command: str = "", **options: Any) -> str:
        """Upload what `save` writes, with a card, to huggingface.co; returns the page's address.

        Args:
            repo: `user/name`.
            figures: what was measured, for the card.
            command: how it was trained, for the card.
            **options: of `huggingface_hub.HfApi.create_repo` (`private`, `token`).

        Raises:
            ValueError: no adapter is in use.
        """
        with tempfile.TemporaryDirectory() as folder:
            write_text(self.save(folder) / CARD, card(read_notes(Path(folder)), repo, figures, command))
            return push(folder, repo, **options)

    def load(self, source: str | Path, name: str | None = None) -> "Adapted":
        """Add an adapter that `save` wrote, with its head, and use it. A load that fails changes nothing.

        Args:
            source: a folder, or `user/name` on huggingface.co.
            name: what to call it; default: its own name.

        Raises:
            FileNotFoundError: nothing there.
            ValueError: it was trained on another tower, or its tensors do not fit.
        """
        folder = folder_of(source)
        notes = read_notes(Path(folder))
        if notes["sha256"] != self.frozen_fingerprint()["sha256"]:
            raise ValueError(f"{folder} was trained on {notes['encoder']} ({notes['sha256'][:12]}), not on this tower")
        tensors = read_safetensors(Path(folder) / WEIGHTS)
        before, name = self.active, name or notes["name"]
        width = len(tensors["head.weight"]) if "head.weight" in tensors else None
        plain = isinstance(self.base_head, nn.Linear | nn.Identity)
        self.add(notes["method"], name, width if plain else None, **notes["arguments"])
        live = self.saved(notes["name"])
        if wrong := sorted(set(live) ^ set(tensors)) or [k for k in live if live[k].shape != tensors[k].shape]:
            self.delete(name).use(before)
            raise ValueError(f"{folder} does not fit: {', '.join(wrong[:4])}")
        for key, value in tensors.items():
            live[key].data.copy_(value)
        return self

    def load_peft(self, folder: str | Path, name: str = "peft") -> "Adapted":
        """Add a LoRA or DoRA adapter that the package peft wrote for a timm vision transformer, and use it.

        Raises:
            FileNotFoundError: a file of the folder is missing.
            ValueError: another kind of adapter, or tensors that do not fit. Nothing has changed then.
        """
        config, tensors = read_peft(folder)
        before, width = self.active, len(tensors["head.weight"]) if "head.weight" in tensors else None
        self.add("peft", name, width, config=config)
        try:
            fill(self, config, tensors, str(folder))
        except ValueError:
            self.delete(name).use(before)
            raise
        return self

    def save_peft(self, folder: str | Path) -> Path:
        """Write the adapter in use, a `lora` or `peft` one, and its head as a folder that the package peft loads.

        Raises:
            ValueError: none is in use, or a method that peft does not have.
        """
        return write_peft(self, folder)

    def answers(self, pixels: Tensor) -> Tensor:
        """Map normalized images (B, 3, H, W) to class probabilities (B, K), or to features where there is no head."""
        outputs = self(pixels)
        return outputs if isinstance(self.head, nn.Identity) else outputs.float().softmax(-1)

    def export(self, path: str | Path, **options: Any) -> Exported:
        """Write the tower with the adapter in use as a graph that runs without xmodal, see `xmodal.export.export`."""
        return export(self, path, **options)

    @property
    def base_head(self) -> nn.Module:
        """The head that the model was made with; it is in use when no adapter is."""
        return self.head if self.in_use is None else self.in_use.head

    def merged(self) -> nn.Module:
        """Fold the adapter in use into the weights: a model of the kind that was given, with the trained head.

        Returns:
            A timm or open_clip model as given to `adapt`; where an `Encoder` was given, a plain tower without a head.

        Raises:
            ValueError: the adapter cannot be folded.
        """
        tower: Any = merge_adapters(self.encoder)
        if self.given.model is None:
            return tower
        return filled(self.given.model, tower, self.head)


class Given:
    """A reference to the model that was given; copies of an adapted model share it."""

    def __init__(self, model: Any):
        self.model = model

    def __deepcopy__(self, memo: dict) -> "Given":
        return self


def new_head(encoder: Encoder, num_classes: int) -> nn.Linear:
    """Build a linear head with small weights around zero, in the tower's precision."""
    like = next(encoder.parameters())
    head = nn.Linear(encoder.out_dim, num_classes, device=like.device, dtype=like.dtype)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


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
        head = new_head(encoder, num_classes)
    return Adapted(encoder, head, None if isinstance(model, Encoder) else model).add(method, **arguments)


def from_pretrained(model: nn.Module, source: str | Path) -> Adapted:
    """Place an adapter that was saved or pushed, with its head, in a model that has none.

    Args:
        model: as for `adapt`; the one that the adapter was trained on.
        source: a folder, or `user/name` on huggingface.co.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: the adapter was trained on another model.
    """
    encoder, head = tower_and_head(model)
    return Adapted(encoder, head, None if isinstance(model, Encoder) else model).load(source)


LIBRARIES = {"timm": "xmodal.encoders.timm_weights", "open_clip": "xmodal.encoders.openclip_weights"}


def tower_and_head(model: Any) -> tuple[Encoder, nn.Module | None]:
    """Return a copy of a model's tower as an `Encoder`, and of its classifier where it has one.

    Raises:
        ValueError: a model of no library that is known, or one that its library's module does not support.
    """
    if isinstance(model, Encoder):
        return copy.deepcopy(model), None
    encoder, head = importlib.import_module(library_of(model)).tower_and_head(model)
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return encoder.to(kind), None if head is None else head.to(kind)


def library_of(model: Any) -> str:
    """Return the module that knows the library of a model.

    Raises:
        ValueError: none does.
    """
    library = type(model).__module__.split(".")[0]
    if library not in LIBRARIES:
        raise ValueError(f"{type(model).__name__} is no timm or open_clip model: build an xmodal encoder first")
    return LIBRARIES[library]
