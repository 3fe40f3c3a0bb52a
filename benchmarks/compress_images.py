"""The steps of compression on a net that is no recommender: images of BreastMNIST.

A small convolutional net in the manner of VGG, with batch normalisation, is trained on the training
part. Whole channels are then taken out little by little (`prune_units`), by the L1 norm of their
weights, and what is left learns on from the labels and from the uncompressed net. Both are compared
seed by seed. Beside that stand: the same without the teacher, and single weights pruned and
rescaled, which makes nothing faster.

Each training keeps the epoch with the least log loss on the validation part, and settings were
chosen there too (`--choose` prints the figures of others). The test part is read once a net, at the
end. Times are those of one thread, both nets in turns, in eager PyTorch and in ONNX Runtime; batch
normalisation is folded into the convolutions of both nets first, as any server would.

SCALEREC_DATA names the folder that holds breastmnist/breastmnist.npz. Five seeds take about twenty
minutes of one core; with `--work DIR` each seed's figures are kept, and a later run goes on there.

Usage: python benchmarks/compress_images.py [--seeds 5] [--work DIR] [--quick | --choose]
"""

import argparse
import copy
import json
import logging
import math
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common import Claim, summarise, write_result
from scalerec.compress.neurons import NeuronConfig, prune_units
from scalerec.compress.pruning import PruneConfig, count_weights, prune_weights
from scalerec.compress.soft import soft_binary
from scalerec.metrics import auc, log_loss
from scalerec.scoring.onnx_run import OnnxScorer
from scalerec.scoring.timing import percentiles_ms, time_in_turns

PARTS = {"train": "train", "valid": "val", "test": "test"}
WIDTHS = (32, 64, 128)
BATCHES = (1, 100)
GONE, FASTER, WORSE = 0.5, 3.0, 0.01
WHOLE, SMALL = "uncompressed", "channels pruned, taught"


@dataclass(frozen=True, slots=True)
class Part:
    """Images ``[N, 1, 28, 28]`` from -1 to 1, and labels ``[N]``: 1 is normal or benign."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How a net is trained: AdamW, half a cosine down to 0.

    Args:
        epochs: The most; the best one on the validation part is kept.
        lr: At the beginning.
        share: The teacher's in the loss.
        temperature: Of the teacher's and the net's logits.
    """

    epochs: int
    lr: float = 1e-3
    share: float = 0.0
    temperature: float = 2.0
    batch_size: int = 32
    weight_decay: float = 0.1
    average: float = 0.98


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is done with each seed.

    Args:
        whole: Training of the uncompressed net.
        between: Training after each round of pruning but the last, and of single weights' pruning.
        after: Training after the last.
        ratio: Share of each layer's channels that go.
        rounds: In so many rounds, each of which takes the same share of what is there.
        weights: Share of single weights that go.
    """

    whole: Training = Training(epochs=70)
    between: Training = Training(epochs=6, lr=2e-3, share=0.5)
    after: Training = Training(epochs=30, lr=2e-3, share=0.5)
    ratio: float = 0.625
    rounds: int = 3
    weights: float = 0.8

    def quick(self) -> "Plan":
        """Two epochs of everything."""
        names = ("whole", "between", "after")
        return replace(self, **{n: replace(getattr(self, n), epochs=2) for n in names})


def read_images() -> dict[str, Part]:
    """The parts of BreastMNIST, or the reason why they cannot be had."""
    root = os.environ.get("SCALEREC_DATA")
    path = Path(root or "") / "breastmnist" / "breastmnist.npz"
    if not root or not path.is_file():
        raise SystemExit(
            f"BreastMNIST is not there: SCALEREC_DATA={root or ''} must name a folder that holds "
            "breastmnist/breastmnist.npz; get it from https://medmnist.com"
        )
    parts = {}
    with np.load(path) as arrays:
        for name, stem in PARTS.items():
            images = torch.from_numpy(arrays[f"{stem}_images"]).float().unsqueeze(1)
            labels = torch.from_numpy(arrays[f"{stem}_labels"]).flatten().float()
            parts[name] = Part(images / 127.5 - 1.0, labels)
    return parts


def conv_net(seed: int, widths: tuple[int, ...] = WIDTHS) -> nn.Sequential:
    """Two convolutions a width, each with batch normalisation; pooling between widths."""
    layers: list[nn.Module] = []
    before = 1
    for width in widths:
        for size in (before, width):
            conv = nn.Conv2d(size, width, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        before = width
    layers[-1] = nn.AdaptiveAvgPool2d(1)
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before, 1))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01, generator=generator)
                nn.init.zeros_(layer.bias)
    return net


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrored left to right or not, turned, shifted and scaled a little."""

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(len(images)).uniform_(low, high, generator=generator)

    angle, size, mirror = draw(-0.2, 0.2), draw(0.9, 1.1), draw(-1, 1).sign()
    cos, sin = angle.cos() * size, angle.sin() * size
    rows = [
        torch.stack([mirror * cos, -mirror * sin, draw(-0.15, 0.15)], 1),
        torch.stack([sin, cos, draw(-0.15, 0.15)], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.inference_mode()
def logits_of(net: nn.Module, images: Tensor) -> Tensor:
    """Logits ``[N]`` in evaluation mode."""
    net.eval()
    return torch.cat([net(some).flatten() for some in images.split(128)])


def quality(net: nn.Module, part: Part) -> tuple[float, float]:
    """AUC and log loss."""
    scores, labels = logits_of(net, part.images), part.labels.numpy()
    area, loss = auc(labels, scores.numpy()), log_loss(labels, scores.double().sigmoid().numpy())
    assert area is not None, "both classes are there"
    assert loss is not None, "there are images"
    return area, loss


def fit(
    net: nn.Module,
    parts: Mapping[str, Part],
    training: Training,
    seed: int,
    teacher: nn.Module | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Train a net, and give its running average at the epoch that was best."""
    part, generator = parts["train"], torch.Generator().manual_seed(seed)
    decay = training.weight_decay
    optimiser = torch.optim.AdamW(net.parameters(), lr=training.lr, weight_decay=decay)
    steps = training.epochs * math.ceil(len(part.labels) / training.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    mean = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(training.average), use_buffers=True)
    best, least = mean.module, math.inf
    for _ in range(training.epochs):
        net.train()
        order = torch.randperm(len(part.labels), generator=generator)
        for rows in order.split(training.batch_size):
            images = augment(part.images[rows], generator)
            loss = loss_of(net, images, part.labels[rows], training, teacher)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            after_step()
            mean.update_parameters(net)
        found = quality(mean.module, parts["valid"])[1]
        if found < least:
            best, least = copy.deepcopy(mean.module), found
    return best


def loss_of(
    net: nn.Module, images: Tensor, labels: Tensor, training: Training, teacher: nn.Module | None
) -> Tensor:
    """The labels' loss and the teacher's, by their shares."""
    logits = net(images).flatten()
    loss = functional.binary_cross_entropy_with_logits(logits, labels)
    if teacher is None or not training.share:
        return loss
    taught = soft_binary(logits, logits_of(teacher, images), training.temperature).mean()
    return (1 - training.share) * loss + training.share * taught


def shrink(
    whole: nn.Module, parts: Mapping[str, Part], plan: Plan, seed: int, teacher: nn.Module | None
) -> nn.Module:
    """Take channels out in rounds, with training after each."""
    net = copy.deepcopy(whole)
    kept = (1 - plan.ratio) ** (1 / plan.rounds)
    for number in range(1, plan.rounds + 1):
        last = number == plan.rounds
        prune_units(net, NeuronConfig(ratio=1 - kept, weights="incoming"))
        net = fit(net, parts, plan.after if last else plan.between, seed + number, teacher)
    return net


def thin(whole: nn.Module, parts: Mapping[str, Part], plan: Plan, seed: int) -> nn.Module:
    """Zero the smallest weights, scale the others up, and train on."""
    net = copy.deepcopy(whole)
    masks = prune_weights(net, PruneConfig(ratio=plan.weights, scope="tensor", rescale=True))
    return fit(net, parts, plan.between, seed, whole, masks.apply)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one seed gave: by net's name its AUC, and by what was timed the median's quotient."""

    areas: dict[str, float]
    faster: dict[str, float]
    times_ms: dict[str, float]
    sizes: dict[str, tuple[int, int]]


def folded(net: nn.Module) -> nn.Sequential:
    """A copy whose normalisations are part of the convolutions before them."""
    layers: list[nn.Module] = []
    for layer in copy.deepcopy(net).eval().children():
        if isinstance(layer, nn.BatchNorm2d):
            before = layers[-1]
            assert isinstance(before, nn.Conv2d), "a normalisation stands behind a convolution"
            layers[-1] = fuse_conv_bn_eval(before, layer)
        else:
            layers.append(layer)
    return nn.Sequential(*layers).eval()


def eager(net: nn.Module) -> Callable[[Tensor], object]:
    """Answers images in PyTorch."""
    ready = folded(net)

    def answer(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return ready(images)

    return answer


def onnx(net: nn.Module, path: Path) -> Callable[[Tensor], object]:
    """Answers images in ONNX Runtime, in float32 and on one thread."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    ready, example, shapes = folded(net), torch.zeros(2, 1, 28, 28), ({0: torch.export.Dim("n")},)
    torch.onnx.export(
        ready, (example,), path, dynamo=True, dynamic_shapes=shapes, input_names=["images"],
        external_data=False, verbose=False,
    )  # fmt: skip
    scorer = OnnxScorer(path)
    return lambda images: scorer({"images": images.numpy()})


def time_both(
    whole: nn.Module, small: nn.Module, images: Tensor, repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """By runtime and batch how many times faster the small net is, and each net's milliseconds."""
    nets, faster, times = {"uncompressed": whole, "compressed": small}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, dict[str, Callable[[Any], object]]] = {
            "PyTorch": {name: eager(net) for name, net in nets.items()},
            "ONNX Runtime": {
                name: onnx(net, Path(folder) / f"{name}.onnx") for name, net in nets.items()
            },
        }
    for batch in BATCHES:
        requests: list[Any] = [images[:batch].contiguous()]
        for way, scorers in ways.items():
            seconds = time_in_turns(scorers, requests, repeats if batch == 1 else repeats // 5)
            pairs = zip(seconds["uncompressed"], seconds["compressed"], strict=True)
            faster[f"{way}, batch of {batch}"] = statistics.median(a / b for a, b in pairs)
            for net, taken in seconds.items():
                times[f"{way}, batch of {batch}, {net}"] = percentiles_ms(taken)[0]
    return faster, times


def measure(parts: Mapping[str, Part], plan: Plan, seed: int, repeats: int) -> Finding:
    """Train, compress, time, and last of all read the test part."""
    nets = nets_of(parts, plan, seed)
    faster, times = time_both(nets[WHOLE], nets[SMALL], parts["test"].images, repeats)
    areas = {name: quality(net, parts["test"])[0] for name, net in nets.items()}
    sizes = {}
    for name, net in nets.items():
        counts = count_weights(net)
        sizes[name] = counts.total, counts.nonzero
    print(seed, {name: round(area, 4) for name, area in areas.items()}, flush=True)
    print(seed, {name: round(times, 2) for name, times in faster.items()}, flush=True)
    return Finding(areas, faster, times, sizes)


def remember(folder: Path | None, seed: int, find: Callable[[], Finding]) -> Finding:
    """What a seed gave, from the folder if it is there, and kept there if there is one."""
    if folder is None:
        return find()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{seed}.json"
    if not path.exists():
        path.write_text(json.dumps(asdict(find())), "utf-8")
    return Finding(**json.loads(path.read_text("utf-8")))


def figures_of(findings: list[Finding]) -> dict[str, Any]:
    """Every figure over all seeds; drops are within a seed."""
    figures: dict[str, Any] = {}
    for name in findings[0].areas:
        figures[f"test AUC, {name}"] = summarise([found.areas[name] for found in findings])
    for name in list(findings[0].areas)[1:]:
        drops = [found.areas[WHOLE] - found.areas[name] for found in findings]
        figures[f"drop in AUC, {name}"] = summarise(drops)
        if len(drops) > 1:
            spread = statistics.stdev(drops)
            figures[f"drop in AUC, {name}, standard deviation"] = spread
            figures[f"drop in AUC, {name}, standard error"] = spread / math.sqrt(len(drops))
    for name, (total, nonzero) in findings[0].sizes.items():
        figures[f"parameters, {name}"] = total
        if nonzero < total:
            figures[f"parameters that are not 0, {name}"] = nonzero
    for name in findings[0].times_ms:
        figures[f"milliseconds, {name}"] = summarise([f.times_ms[name] for f in findings])
    for name in findings[0].faster:
        figures[f"times faster, {name}"] = summarise([found.faster[name] for found in findings])
    return figures


def claims_of(figures: Mapping[str, Any]) -> list[Claim]:
    """What the figures must show."""
    gone = 1 - figures[f"parameters, {SMALL}"] / figures[f"parameters, {WHOLE}"]
    claims = [Claim("share of the parameters that is gone", gone, GONE, at_least=True)]
    for name, figure in figures.items():
        if name.startswith("times faster"):
            claims.append(Claim(name, figure["median"], FASTER, at_least=True))
    drop = figures[f"drop in AUC, {SMALL}"]["mean"]
    claims.append(Claim("mean drop in test AUC, paired by seed", drop, WORSE, at_least=False))
    return claims


def choose(parts: Mapping[str, Part], plan: Plan, seeds: list[int]) -> None:
    """Print what other settings give on the validation part; the test part is not read."""
    parts = {name: parts[name] for name in ("train", "valid")}
    tried = {
        f"ratio {ratio}, {rounds} rounds, teacher's share {share}": replace(
            plan,
            ratio=ratio,
            rounds=rounds,
            between=replace(plan.between, share=share),
            after=replace(plan.after, share=share),
        )
        for ratio in (0.5, 0.625, 0.75)
        for rounds, share in ((1, 0.9), (3, 0.9), (3, 0.5))
    }
    for seed in seeds:
        whole = fit(conv_net(seed), parts, plan.whole, seed)
        print(seed, WHOLE, *(f"{n:.4f}" for n in quality(whole, parts["valid"])), flush=True)
        for name, own in tried.items():
            found = quality(shrink(whole, parts, own, seed, whole), parts["valid"])
            print(seed, name, *(f"{number:.4f}" for number in found), flush=True)


def nets_of(parts: Mapping[str, Part], plan: Plan, seed: int) -> dict[str, nn.Module]:
    """Every net of a seed, by name."""
    whole = fit(conv_net(seed), parts, plan.whole, seed)
    return {
        WHOLE: whole,
        SMALL: shrink(whole, parts, plan, seed, whole),
        "channels pruned, labels alone": shrink(whole, parts, plan, seed, None),
        "single weights pruned": thin(whole, parts, plan, seed),
    }


def notes_of(seeds: int) -> list[str]:
    """What must be said wherever a figure is quoted."""
    return [
        "BreastMNIST, 28 x 28 pixels, the official parts of 546 / 78 / 156 images; label 1 is "
        "normal or benign",
        f"the test part has 156 images, 42 of them malignant, so that an AUC is uncertain by about "
        f".03 itself; drops are paired: a seed's compressed net against the same seed's teacher, "
        f"{seeds} seeds",
        "MedMNIST v2 (Yang et al., 2023) gives an AUC of .901 for ResNet-18 on the same parts",
        "settings were chosen on the validation part, with seeds 101 to 103; the test part was "
        "read once a net, at the end",
        "the compressed net is trained for 42 epochs more than the uncompressed one, which had 70",
        "every training keeps the epoch that is best on the 78 images of the validation part",
        "one thread, both nets in turns; times faster is the median of the quotients of single "
        "turns; batch normalisation is folded into the convolutions of both nets; other work ran "
        "on the machine, which makes milliseconds longer and touches quotients less",
    ]


def main() -> int:
    """Compress a net for each seed, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="keeps each seed's figures, to go on later")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs; no result")
    parser.add_argument("--choose", action="store_true", help="other settings, validation only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts, plan = read_images(), Plan()
    seeds = list(range(1, options.seeds + 1))
    if options.choose:
        choose(parts, plan, [100 + seed for seed in seeds])
        return 0
    if options.quick:
        parts["test"] = parts["valid"]  # what is quick is for trying out
        figures = figures_of([measure(parts, plan.quick(), 1, 20)])
        print(figures, *claims_of(figures), sep="\n")
        return 0
    figures = figures_of(
        [remember(options.work, s, lambda s=s: measure(parts, plan, s, 200)) for s in seeds]
    )
    notes, packages = notes_of(len(seeds)), ["onnxruntime"]
    write_result(
        "compress_images", figures, claims_of(figures), seeds=seeds, notes=notes, packages=packages
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
