"""The sweep as Ray's documentation writes it: a Tuner over a driver that starts a TorchTrainer.

    python sweep_baseline.py IMAGES ARCH WEIGHTS LRS FREEZES EPOCHS

prints one line of JSON: the best validation accuracy of every trial. Each trial builds
torchvision's network, sets `requires_grad = False` on what it freezes, and reads JPEGs with
ImageFolder and DataLoader. As many trials run at once as there are cores. WEIGHTS may be
`seeded`: random ones, the same for all trials.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

import ray
import ray.train
import ray.train.torch
import torch
import torchvision
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from safetensors.torch import load_file
from torchvision import transforms

BATCH = 32
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
FROZEN = {
    "squeezenet1_1": {
        "all": ["features"],
        "-1": [f"features.{n}" for n in range(12)],
        "-3": [f"features.{n}" for n in range(10)],
    },
    "resnet18": {
        "all": ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"],
        "-1": ["conv1", "bn1", "layer1", "layer2", "layer3"],
        "-3": ["conv1", "bn1", "layer1"],
    },
}


def make_model(arch: str, weights: str, freeze: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.get_model(arch, weights=None)
    if weights != "seeded":
        model.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    if arch == "squeezenet1_1":
        model.classifier[1] = torch.nn.Conv2d(512, 2, 1)
    else:
        model.fc = torch.nn.Linear(model.fc.in_features, 2)
    for name in FROZEN[arch].get(freeze, []):
        model.get_submodule(name).requires_grad_(False)
    return model


def train_worker(config: dict[str, Any]) -> None:
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    evaluate = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    folder = Path(config["images"])
    train = torchvision.datasets.ImageFolder(folder / "train", augment)
    val = torchvision.datasets.ImageFolder(folder / "val", evaluate)
    model = make_model(config["arch"], config["weights"], config["freeze"])
    model = ray.train.torch.prepare_model(model)
    loader = torch.utils.data.DataLoader(train, BATCH, shuffle=True)
    loader = ray.train.torch.prepare_data_loader(loader)
    val_loader = torch.utils.data.DataLoader(val, BATCH)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=config["lr"], momentum=0.9, weight_decay=1e-4)
    loss_of = torch.nn.CrossEntropyLoss()
    for _ in range(config["epochs"]):
        model.train()
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss_of(model(inputs), labels).backward()
            optimizer.step()
        model.eval()
        right = 0
        with torch.no_grad():
            for inputs, labels in val_loader:
                right += int((model(inputs).argmax(1) == labels).sum())
        ray.train.report({"accuracy": right / len(val)})


def train_driver(config: dict[str, Any]) -> None:
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=config["storage"],
            callbacks=[TuneReportCallback()],
        ),
    )
    trainer.fit()


def main() -> None:
    images, arch, weights, rates, freezes, epochs = sys.argv[1:]
    cores = os.cpu_count() or 1
    ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory(prefix="sweep-baseline-") as storage:
        tuner = tune.Tuner(
            # Of the cores the drivers take none: those are the workers'.
            tune.with_resources(train_driver, {"node:__internal_head__": 0.001}),
            param_space={
                "images": images,
                "arch": arch,
                "weights": weights,
                "epochs": int(epochs),
                "storage": storage,
                "lr": tune.grid_search([float(rate) for rate in rates.split(",")]),
                "freeze": tune.grid_search(freezes.split(",")),
            },
            tune_config=tune.TuneConfig(max_concurrent_trials=cores),
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        )
        results = tuner.fit()
    found = [
        {
            "lr": result.config["lr"],
            "freeze": result.config["freeze"],
            "accuracy": max(result.metrics_dataframe["accuracy"], default=None),
        }
        for result in results
        if not result.error
    ]
    print(json.dumps({"trials": found, "errors": results.num_errors}))


if __name__ == "__main__":
    main()
