"""Rows that hold a device to the CPU's numbers."""

import copy
import functools
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load
from torch import Tensor

from gpu.compare import apart, losses_apart, weights_apart
from gpu.golden import register_model
from gpu.lab import CPU, Lab, Trained, plan_of
from gpu.table import Figure, Row, Skipped
from graft.activations.cache import ActivationCache, Activations
from graft.activations.compute import TrunkSetup
from graft.activations.fill_cache import fill, run_here
from graft.activations.key import CacheEntry, KeyScheme, backend_name
from graft.activations.lease import DEFAULT_TERMS
from graft.activations.lookup import OpenActivations
from graft.backbones.trunk import trunk_chain
from graft.data.loader import to_tensor
from graft.serving.engines.golden import GOLDEN_TOLERANCE
from graft.serving.predictor import Predictor
from graft.training.lanes import train_lanes
from graft.training.loop import autocast

LOSS = 1e-3
"""Largest difference of a float32 loss, as a part of it."""
WAY = 5e-3
"""Largest distance of weights, as a part of the way that training moved them. Of GPU's sizes, two
ways of a CPU to convolve are 2e-5 apart in both; with the learning rate 2 % too high losses are
2e-2 and weights 1e-2 apart."""
BF16 = 0.1
"""Largest difference of a bf16 training loss from float32's, as a part of it."""
FORWARD = 3e-4
"""Largest difference of what a float32 forward gives, as a part of the largest number; TF32,
which `set_up_process` turns off, would be above it."""
PIXELS = 1e-6
"""The same of normalised pixels."""
LOOPS = f"losses within {LOSS:g}, weights {WAY:g} of their way"


def rows(lab: Callable[[], Lab]) -> list[Row]:
    """Return the rows."""

    def row(name: str, what: str, measure: Callable[[Lab], Figure], seconds: float = 10.0) -> Row:
        return Row(name, what, lambda: measure(lab()), seconds)

    return [
        row("loop, full", f"as the CPU's: {LOOPS}", partial(_loop, 0), 30),
        row("loop, frozen", f"as the CPU's: {LOOPS}", partial(_loop, "all")),
        row("loop, twice", "a second run gives the same bits", _twice),
        row("loop, lanes", f"two heads at once, as the CPU's: {LOOPS}", _lanes),
        row("trunk digest", "the CPU's, before and after training", _digest),
        row("golden images", f"logits within {GOLDEN_TOLERANCE:g} of the CPU's", _golden),
        row("activations", f"filled: within {FORWARD:g} of the CPU's", _activations),
        row("loop, activations", f"trained on them, as the CPU's: {LOOPS}", _trained_on),
        row("bf16", f"autocast: training losses within {BF16:g} of the CPU's fp32", _bf16),
        row("channels_last", f"kept; logits within {FORWARD:g} of NCHW's", _layout),
        row("pinned memory", f"pixels within {PIXELS:g} of the CPU's", _pinned),
    ]


def compiled_rows(lab: Callable[[], Lab]) -> list[Row]:
    """Return the rows that wait for a compiler, which come last."""
    what = f"train.compile, as without it: {LOOPS}"
    return [Row("loop, compiled", what, lambda: _compiled(lab()), 120)]


def _judged(of: Trained, against: Trained, start: Mapping[str, Tensor]) -> Figure:
    losses = losses_apart(of.losses, against.losses)
    weights = weights_apart(of.tail, against.tail, start)
    return Figure(f"losses {losses:.1e}\nweights {weights:.1e}", losses <= LOSS and weights <= WAY)


def _loop(freeze: int | str, lab: Lab) -> Figure:
    of, against = lab.trained(freeze, lab.device), lab.trained(freeze, CPU)
    return _judged(of, against, lab.model(freeze).tail_state())


def _twice(lab: Lab) -> Figure:
    """Train the network as it is built, with all its kinks, whose gradients a GPU may scatter."""
    first, second = (
        lab.train(
            lab.model(0, smoothed=False).to(lab.device),
            0,
            lab.device,
            lab.recipe(0),
            lab.data(),
        )
        for _ in range(2)
    )
    way = weights_apart(second.tail, first.tail, lab.model(0, smoothed=False).tail_state())
    same = first.losses == second.losses and way == 0
    return Figure("the same" if same else f"weights {way:.1e}", same)


def _lanes(lab: Lab) -> Figure:
    recipe = lab.recipe("all")
    faster = recipe.optimizer.model_copy(update={"lr": 10 * recipe.optimizer.lr})
    model = lab.model("all").to(lab.device)
    trains = (recipe, recipe.model_copy(update={"optimizer": faster}))
    recipes = [(plan_of(model, "all", train), train) for train in trains]
    losses: list[float] = []
    tail: dict[str, Tensor] = {}
    for done in train_lanes(model, lab.data(), recipes, lab.device):
        losses += [epoch[0]["loss"] for epoch in (done.train, done.val) if epoch]
        tail = {name: tensor.cpu() for name, tensor in done.tails[0].items()}
    of = Trained(tuple(losses), tail, (), ())
    return _judged(of, lab.trained("all", CPU), lab.model("all").tail_state())


def _digest(lab: Lab) -> Figure:
    here = lab.trained("all", lab.device)
    digests = trunk_chain(lab.model("all"), lab.contract).digests
    return Figure(here.after[-1][:16], digests == here.before == here.after)


def _golden(lab: Lab) -> Figure:
    store = lab.new_store("golden")
    version = register_model(lab, store)
    predictor = Predictor.load(store, version, lab.device)  # refuses what differs
    golden = load(store.get(version.folder, version.golden))
    files = [golden[f"image.{i}"].tobytes() for i in range(len(golden["logits"]))]
    logits = predictor.logits([predictor.prepare(data) for data in files])
    value = apart(torch.from_numpy(logits), torch.from_numpy(golden["logits"]))
    return Figure(f"{len(files)} images: {value:.1e}", value <= GOLDEN_TOLERANCE)


@functools.cache
def _filled(lab: Lab, device: torch.device, store: str) -> Mapping[CacheEntry, Activations]:
    """Fill what the frozen loop reads, and the maps one stage before, into a store of its own."""
    model = lab.model("all").to(device)
    chain = trunk_chain(model, lab.contract)
    keys = KeyScheme(chain, lab.augment, "float32", backend_name(device, model.stages.arch))
    cache = ActivationCache(lab.new_store(store), lab.dataset, keys)
    setup = TrunkSetup(model, lab.loader(lab.contract), lab.contract)
    places = [("train", 1, model.depth - 1), ("train", 1, model.depth), ("val", 0, model.depth)]
    entries = [CacheEntry(*place) for place in places]
    return fill(cache, entries, run_here(cache.store, setup), DEFAULT_TERMS).activations


def _activations(lab: Lab) -> Figure:
    here, there = _filled(lab, lab.device, "filled"), _filled(lab, CPU, "filled-by-cpu")
    values = [
        apart(here[entry].take(by_cpu.digests), by_cpu.take(by_cpu.digests))
        for entry, by_cpu in there.items()
    ]
    return Figure(f"apart {max(values):.1e}", max(values) <= FORWARD)


def _trained_on(lab: Lab) -> Figure:
    data = lab.data(OpenActivations(_filled(lab, lab.device, "filled")))
    model = lab.model("all").to(lab.device)
    of = lab.train(model, "all", lab.device, lab.recipe("all"), data)
    if data.loader.rendered:
        raise AssertionError(f"{data.loader.rendered} images were decoded all the same")
    return _judged(of, lab.trained("all", CPU), lab.model("all").tail_state())


def _bf16(lab: Lab) -> Figure:
    recipe = lab.recipe(0, precision="bf16")
    model = lab.model(1).to(lab.device)
    with autocast(recipe, lab.device):
        dtype = model.trunk(to_tensor(_pixels(lab), lab.contract, lab.device)).dtype
    # Training losses: after a few steps BatchNorm's running statistics, on which validation
    # hangs, are of weights that are gone, and the smallest difference grows in them.
    here, there = lab.trained(0, lab.device, "bf16"), lab.trained(0, CPU)
    value = losses_apart(here.losses[1::2], there.losses[1::2])
    text = f"losses {value:.1e}\nin {str(dtype).removeprefix('torch.')}"
    return Figure(text, value <= BF16 and dtype == torch.bfloat16)


def _layout(lab: Lab) -> Figure:
    model = lab.model(-2).to(lab.device).eval()
    planar = copy.deepcopy(model)
    planar.network.to(memory_format=torch.contiguous_format)
    x = to_tensor(_pixels(lab), lab.contract, lab.device)
    with torch.no_grad():
        maps = model.trunk(x)
        value = apart(model.tail(maps), planar(x.contiguous()))
    kept = maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
    text = f"apart {value:.1e}" + ("" if kept else f"\nstrides {maps.stride()}")
    return Figure(text, kept and value <= FORWARD)


def _pinned(lab: Lab) -> Figure:
    pixels = _pixels(lab)
    here, there = (to_tensor(pixels, lab.contract, device) for device in (lab.device, CPU))
    value = apart(here, there)
    return Figure(f"apart {value:.1e}", value <= PIXELS)


def _compiled(lab: Lab) -> Figure:
    if lab.device.type == "cpu":
        raise Skipped("train.compile is for GPUs")
    of, against = lab.trained(0, lab.device, compiled=True), lab.trained(0, lab.device)
    return _judged(of, against, lab.model(0).tail_state())


def _pixels(lab: Lab) -> NDArray[np.uint8]:
    """Return noise as decoded images: (8, crop, crop, 3) uint8."""
    side = lab.sizes.crop
    return np.random.default_rng(1).integers(0, 256, (8, side, side, 3), np.uint8)
