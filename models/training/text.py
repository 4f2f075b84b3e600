#!/usr/bin/env python3
"""Trains attnd-text-small: English by bytes, a Gated DeltaNet with two layers of sliding-window attention.

    models/training/text.py --data FILE... [--evaluate FILE...] --out DIR [--steps N] [--minutes M] [--seed S]

The last twentieth of every file of --data is held out. At the time limit what there is gets saved: config.json,
model.safetensors (bfloat16), and README.md with perplexities and samples of the weights that were saved.
"""

import argparse
import datetime
import math
import pathlib

import numpy as np
import torch
from torch.nn import functional as F

import model as models
from hardware import hardware
from trainer import Clock, Trainer

LENGTH = 1024
CONFIG = models.settings(
    "gated_deltanet", hidden_size=256, num_hidden_layers=8, intermediate_size=768, vocab_size=256,
    num_heads=4, head_dim=64, expand_v=1.0, use_gate=True, use_short_conv=True, conv_size=4,
    max_position_embeddings=LENGTH,
    attn={"layers": [3, 7], "num_heads": 4, "num_kv_heads": 4, "window_size": 256, "rope_theta": 10000.0},
)  # fmt: skip
PROMPTS = ("It was a dark and stormy night, and ", "\"My dear sir,\" said the captain, ", "In the beginning ")


def held_out(text):
    return text[len(text) - len(text) // 20 :]


def nats_per_byte(model, text, device):
    """Every byte but the first behind at least LENGTH / 2 bytes, or all there are."""
    half = LENGTH // 2
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device).long()
    total, count = 0.0, 0
    with torch.inference_mode():
        first = data[: LENGTH + 1]
        logits = model(first[None, :-1])[0].float()
        total += F.cross_entropy(logits, first[1:], reduction="sum").item()
        count += len(first) - 1
        # Windows that overlap by half; what is left of the last is left out.
        for windows in data[half:].unfold(0, LENGTH + 1, half).split(32):
            logits = model(windows[:, :-1])[:, half:].float()
            total += F.cross_entropy(logits.flatten(0, 1), windows[:, half + 1 :].flatten(), reduction="sum").item()
            count += windows.shape[0] * half
    return total / count


def sample(model, prompts, count, device, temperature=0.7):
    """Continuations by `count` bytes, all side by side."""
    generator = torch.Generator(device).manual_seed(0)
    longest = max(map(len, prompts))
    # Prompts end together: what stands before the shorter ones is newlines.
    rows = [prompt.encode().rjust(longest, b"\n") for prompt in prompts]
    tokens = torch.tensor([list(row) for row in rows], device=device)
    with torch.inference_mode():
        for _ in range(count):
            logits = model(tokens)[:, -1].float()
            drawn = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            tokens = torch.cat((tokens, drawn), 1)
    return [bytes(row.tolist()).decode(errors="replace").strip() for row in tokens]


CARD = """# attnd-text-small

A small language model of English by bytes, to try sessions with: it writes words and clauses, and knows nothing.
Made by `models/training/text.py`.

- Model: Gated DeltaNet, {layers} layers of width {width}, of which {attention} are softmax attention over a window of {window}
  bytes; {parameters:,} parameters. A token is a byte.
- Data, {megabytes:.1f} MB, without the last twentieth of every file, which is held out: {data}.
{terms}- Training: {steps} steps of {batch} x {length} bytes ({passes:.1f} passes), seed {seed}, peak rate {rate:g},
  dropout {dropout:g}; {seconds:.0f} s on {hardware}, {date}.

| text | nats a byte | bits a byte | perplexity a byte | perplexity a word |
| --- | --- | --- | --- | --- |
{rows}

A word is what stands between white space. Perplexities are of the weights in bfloat16, with {half} to {length} bytes of context.

Samples at temperature 0.7, the first that came:

{samples}
"""


def card(trainer, folder, arguments, texts, seconds):
    saved = models.read(folder).to(arguments.device)
    rows = []
    pieces = [(f"end of {name}", held_out(text)) for name, text in texts.items()]
    pieces += [(path.name, path.read_bytes()) for path in arguments.evaluate]
    for name, text in pieces:
        nats = nats_per_byte(saved, text, arguments.device)
        word = math.exp(nats * len(text) / len(text.split()))
        rows.append(f"| {name} | {nats:.3f} | {nats / math.log(2):.3f} | {math.exp(nats):.2f} | {word:.0f} |")
    samples = sample(saved, PROMPTS, arguments.sample, arguments.device)
    attention = CONFIG["attn"]
    size = sum(len(text) - len(held_out(text)) for text in texts.values())
    (folder / "README.md").write_text(
        CARD.format(
            layers=CONFIG["num_hidden_layers"], width=CONFIG["hidden_size"], attention=len(attention["layers"]),
            window=attention["window_size"], parameters=sum(p.numel() for p in saved.parameters()),
            megabytes=size / 1e6, data=", ".join(texts), steps=trainer.steps,
            terms=f"- Terms of the texts: {arguments.terms}\n" if arguments.terms else "",
            batch=arguments.batch, length=LENGTH, passes=trainer.steps * arguments.batch * LENGTH / size,
            seed=arguments.seed, rate=trainer.peak, dropout=arguments.dropout, seconds=seconds,
            hardware=hardware(arguments.device), date=datetime.date.today().isoformat(), half=LENGTH // 2,
            rows="\n".join(rows), samples="\n\n".join("```\n" + text + "\n```" for text in samples),
        )
    )  # fmt: skip
    print("\n".join(rows), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--evaluate", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--terms", default="", help="what the card says of the texts' licences")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--plain", action="store_true", help="no CUDA graphs")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample", type=int, default=400, help="bytes of each sample in the card")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.manual_seed(arguments.seed)
    clock = Clock(arguments.steps, arguments.minutes)
    folder = arguments.out / "attnd-text-small"
    texts = {path.name: path.read_bytes() for path in arguments.data}
    train = b"\n".join(text[: len(text) - len(held_out(text))] for text in texts.values())
    data = torch.frombuffer(bytearray(train), dtype=torch.uint8).to(arguments.device)
    starts = torch.zeros(arguments.batch, dtype=torch.int64, device=arguments.device)
    span = torch.arange(LENGTH + 1, device=arguments.device)

    def loss(model):
        tokens = data[starts[:, None] + span].long()
        return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    model = models.LanguageModel(CONFIG, arguments.dropout).to(arguments.device)
    trainer = Trainer(model, loss, arguments.rate, half=True, record=not arguments.plain)
    probe = b"".join(held_out(text)[: 16 * LENGTH] for text in texts.values())
    saved_at = 0
    for step in range(arguments.steps):
        random = np.random.default_rng((arguments.seed, step))
        starts.copy_(torch.from_numpy(random.integers(len(train) - LENGTH, size=arguments.batch)))
        done = clock.done(step)
        trainer.step(done)
        trainer.join()
        if step % 500 == 0 or step == 50:
            model.eval()
            nats = nats_per_byte(model, probe, arguments.device)
            model.train()
            print(f"{step} {clock.seconds():.0f} s: {trainer.last.item():.3f} held out {nats:.3f}", flush=True)
        # The clock of a GPU's work, not of its queue.
        if step % 20 == 0 and trainer.cuda:
            torch.cuda.synchronize()
        if clock.seconds() - saved_at > 60:
            models.save(model, folder)
            saved_at = clock.seconds()
        if done >= 1:
            break
    models.save(model, folder)
    card(trainer, folder, arguments, texts, clock.seconds())


if __name__ == "__main__":
    main()
