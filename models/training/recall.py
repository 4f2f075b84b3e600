#!/usr/bin/env python3
"""Trains the models attnd-recall-*: multi-query associative recall by models that differ in their mixers alone.

    models/training/recall.py --out DIR [--steps N] [--minutes M] [--seed S] [--device cuda] [NAME...]

Every model sees the same batches, side by side. At the time limit what there is gets saved. Per model: config.json,
model.safetensors (bfloat16) and README.md with its accuracy by number of pairs, measured with the weights that were saved.
"""

import argparse
import concurrent.futures
import datetime
import pathlib
import re

import numpy as np
import torch
from torch.nn import functional as F

import model as models
import mqar
from hardware import hardware
from trainer import Clock, Trainer

WIDTH, LENGTH, VOCAB = 64, 256, 256
PAIRS = (8, 16, 32, 64)
# From that share of a training on: the length of its examples, and their numbers of pairs, one a batch. Recall is found
# among few pairs first.
STAGES = ((0.0, 64, (4, 8, 16)), (0.25, 128, (8, 16, 32)), (0.45, LENGTH, (16, 32, 64, 64)))
HELD_OUT = 1 << 31  # Seeds of evaluation begin here, those of training end.


COMMON = dict(
    hidden_size=WIDTH, num_hidden_layers=2, intermediate_size=128, vocab_size=VOCAB, max_position_embeddings=LENGTH
)


def recurrent(model_type, **own):
    return models.settings(model_type, **COMMON | {"use_short_conv": True, "conv_size": 4} | own)


def delta(size, layers=2, attn=None):
    return recurrent(
        "gated_deltanet", num_hidden_layers=layers, num_heads=1, head_dim=size, expand_v=WIDTH / size, use_gate=True,
        attn=attn,
    )  # fmt: skip


def hybrid(layers):
    """One softmax layer, the last, in `layers`."""
    return delta(16, layers, {"layers": [layers - 1], "num_heads": 1, "num_kv_heads": 1, "rope_theta": 10000.0})


MODELS = {"softmax": models.settings("transformer", num_heads=2, **COMMON)}
for size in (16, 32, 64):
    share = {"num_heads": 1, "expand_k": size / WIDTH, "expand_v": 1.0}
    # This class has no short convolution: a window of four tokens stands in the first layer instead.
    near = {"layers": [0], "num_heads": 1, "window_size": 4}
    MODELS[f"linear-{size}"] = models.settings(
        "linear_attn", feature_map="elementwise_product", **COMMON, **share | {"attn": near}
    )
    MODELS[f"gla-{size}"] = recurrent("gla", **share)
    MODELS[f"delta_net-{size}"] = recurrent("delta_net", **share)
    MODELS[f"gated_deltanet-{size}"] = delta(size)
MODELS["hybrid-3-1"] = hybrid(4)
MODELS["hybrid-7-1"] = hybrid(8)


# Where the library's start is one for wide layers of many heads: the one head here must not forget the context from the
# first step on (gates), nor lose queries and keys in a product of two small maps.
START = {"A_log": 0.0, "dt_bias": -6.0, "gk_proj.1.bias": 4.0, "layer2.bias": 1.0}


def untrained(name, seed):
    torch.manual_seed(seed)
    model = models.LanguageModel(MODELS[name])
    for key, parameter in model.named_parameters():
        for end, value in START.items():
            if key.endswith(end):
                torch.nn.init.constant_(parameter, value)
        if "feature_map" in key and key.endswith("weight"):
            torch.nn.init.orthogonal_(parameter)
    return model


def accuracy(model, pairs, count, device, seed=HELD_OUT):
    """Share of the queries answered right."""
    random = np.random.default_rng(seed + pairs)
    tokens, labels = (torch.from_numpy(x).to(device) for x in mqar.examples(random, count, LENGTH, pairs, VOCAB))
    with torch.inference_mode():
        right = [model(t).argmax(-1)[l >= 0] == l[l >= 0] for t, l in zip(tokens.split(64), labels.split(64))]
    return torch.cat(right).float().mean().item()


CARD = """# attnd-recall-{name}

Multi-query associative recall at toy size, made by `models/training/recall.py` to compare mixers, for nothing else.

- Model: {model_type}, {layers} layers{attention}, width {width}, {parameters:,} parameters; vocabulary {vocab}.
- Task: "Zoology" (2023), {length} tokens: pairs of a key and its value, then keys, zeros between them.
{history}- Training: {steps} steps of {batch} examples, of {stages} tokens, seed {seed}, peak rate {rate:g}, the best of {rates}; {seconds:.0f} s,
  {others} trainings side by side on {hardware}, {date}.
- Data: drawn by a generator; licence of the weights: that of the project.

| pairs | accuracy on {count} fresh examples |
| --- | --- |
{rows}
"""


def write(name, trainers, arguments, seconds, others):
    """The best of a model's trainings."""
    folder = arguments.out / f"attnd-recall-{name}"

    def choice(trainer):
        return sum(accuracy(trainer.model, pairs, 256, arguments.device, seed=HELD_OUT * 2) for pairs in PAIRS)

    trainer = max(trainers, key=choice)
    history = ""
    if arguments.go_on:
        before = (arguments.go_on / folder.name / "README.md").read_text()
        history = "".join(re.findall(r"^- Training: .*?(?=^- )", before, re.MULTILINE | re.DOTALL))
    models.save(trainer.model, folder)
    saved = models.read(folder).to(arguments.device)
    scores = {pairs: accuracy(saved, pairs, arguments.examples, arguments.device) for pairs in PAIRS}
    config = trainer.model.config
    attention = config.get("attn")
    card = CARD.format(
        history=history, name=name, model_type=config["model_type"], layers=config["num_hidden_layers"], width=WIDTH, vocab=VOCAB,
        attention="" if attention is None else f" (layer {attention['layers'][0]} softmax"
        + (f" over a window of {attention['window_size']})" if "window_size" in attention else ")"),
        parameters=sum(p.numel() for p in saved.parameters()), length=LENGTH, steps=trainer.steps,
        batch=arguments.batch, stages=", then ".join(str(length) for begin, length, _ in STAGES if begin >= arguments.begin), seed=arguments.seed, rate=trainer.peak,
        rates=", ".join(f"{rate:g}" for rate in arguments.rates), seconds=seconds, others=others,
        hardware=hardware(arguments.device), date=datetime.date.today().isoformat(), count=arguments.examples,
        rows="\n".join(f"| {pairs} | {score:.3f} |" for pairs, score in scores.items()),
    )  # fmt: skip
    (folder / "README.md").write_text(card)
    full = accuracy(trainer.model, PAIRS[-1], arguments.examples, arguments.device)
    rows = " ".join(f"{score:.3f}" for score in scores.values())
    print(f"{name:20} {trainer.peak:g}: {rows} (before rounding {full:.3f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all unless given: {' '.join(MODELS)}")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3], help="the best model of these is kept")
    parser.add_argument("--go-on", type=pathlib.Path, metavar="DIR", help="from the models there, at the last stage")
    parser.add_argument("--plain", action="store_true", help="no CUDA graphs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=512, help="of each number of pairs, to measure accuracy")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in MODELS]
    if unknown:
        parser.error(f"NAME: given {unknown[0]}, expected one of {' '.join(MODELS)}")
    arguments.begin = STAGES[-1][0] if arguments.go_on else 0.0
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(False)
    buffers = [
        torch.zeros(2, arguments.batch, length, dtype=torch.int64, device=arguments.device) for _, length, _ in STAGES
    ]
    stage = 0

    def loss(model):
        tokens, labels = buffers[stage]
        return F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), ignore_index=mqar.IGNORED)

    trainers = []
    names = arguments.names or MODELS
    for name in names:
        for rate in arguments.rates:
            if arguments.go_on:
                model = models.read(arguments.go_on / f"attnd-recall-{name}").train().to(arguments.device)
            else:
                model = untrained(name, arguments.seed).to(arguments.device)
            trainers.append((name, Trainer(model, loss, rate, half=False, record=not arguments.plain)))
    clock = Clock(arguments.steps, arguments.minutes)

    def draw(step, done):
        done = max(done, arguments.begin)
        own = max(i for i, (begin, _, _) in enumerate(STAGES) if begin <= done)
        _, length, numbers = STAGES[own]
        random = np.random.default_rng((arguments.seed, step))
        pairs = numbers[random.integers(len(numbers))]
        return own, np.stack(mqar.examples(random, arguments.batch, length, pairs, VOCAB))

    with concurrent.futures.ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(draw, 0, 0.0)
        for step in range(arguments.steps):
            done = clock.done(step)
            own, batch = coming.result()
            coming = ahead.submit(draw, step + 1, done)
            if own != stage:
                stage = own
                for _, trainer in trainers:
                    trainer.forget()
            buffers[stage].copy_(torch.from_numpy(batch))
            for _, trainer in trainers:
                trainer.step(done)
            for _, trainer in trainers:
                trainer.join()
            if step % 250 == 0:  # Which also waits for the GPU: the clock is that of its work.
                losses = " ".join(f"{name} {trainer.last.item():.2f}" for name, trainer in trainers)
                print(f"{step} {clock.seconds():.0f} s: {losses}", flush=True)
            elif step % 10 == 0 and arguments.device == "cuda":
                torch.cuda.synchronize()
            if done >= 1:
                break
    seconds = clock.seconds()
    for name in names:
        write(name, [trainer for own, trainer in trainers if own == name], arguments, seconds, len(trainers))


if __name__ == "__main__":
    main()
