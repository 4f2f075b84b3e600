"""One model's training step: on a GPU recorded once as a CUDA graph and replayed, since small models are all launches."""

import contextlib
import math
import time

import torch

WARM = 3  # Steps before the recording: libraries set themselves up in them.


class Clock:
    """How much of a training is done, in [0, 1]: by steps; by time, from the moment when the limit is seen to come first.

    With time to spare a training is a function of its seed alone, up to the order of a GPU's sums.
    """

    SETTLED = 20  # Steps until the pace is the usual one.

    def __init__(self, steps, minutes):
        self.steps, self.limit, self.began = steps, 60 * minutes, time.monotonic()
        self.settled, self.late = 0.0, None

    def seconds(self):
        return time.monotonic() - self.began

    def done(self, step):
        now = self.seconds()
        if step == self.SETTLED:
            self.settled = now
        if step > 2 * self.SETTLED and self.late is None:
            pace = (now - self.settled) / (step - self.SETTLED)
            if pace * (self.steps - step) > self.limit - now:
                self.late = (step / self.steps, now)
        if now >= self.limit:
            return 1.0
        if self.late is None:
            return step / self.steps
        done, then = self.late
        return 1 - (1 - done) * (self.limit - now) / (self.limit - then)


def schedule(done, peak):
    """Linear warm-up over the first twentieth, then a cosine down to a twentieth of the peak."""
    if done < 0.05:
        return peak * (done + 0.001) / 0.051
    return peak * (0.05 + 0.475 * (1 + math.cos(math.pi * (done - 0.05) / 0.95)))


class Trainer:
    """`loss(model)` reads its batch from tensors that the caller fills in place before each `step`."""

    def __init__(self, model, loss, peak, half, record=True, decay=0.1):
        self.model, self.loss, self.peak, self.half, self.record = model, loss, peak, half, record
        self.steps = 0
        self.device = next(model.parameters()).device
        self.cuda = self.device.type == "cuda"
        self.rate = torch.tensor(peak, device=self.device)
        groups = [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": decay},
            {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.95), fused=True, capturable=self.cuda)
        self.stream = torch.cuda.Stream() if self.cuda else None
        self.graph = None
        self.last = None

    def _run(self):
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False)
        with half:
            loss = self.loss(self.model)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.last = loss.detach()

    def step(self, done):
        """At `done` of the training. On the trainer's own stream, behind what the current one was given; `join` waits for it."""
        if self.cuda:
            self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream) if self.cuda else contextlib.nullcontext():
            self.rate.fill_(schedule(done, self.peak))
            if self.graph is not None:
                self.graph.replay()
            elif self.cuda and self.record and self.steps >= WARM:
                self._record()
            else:
                self.optimizer.zero_grad(set_to_none=True)
                self._run()
        self.steps += 1

    def forget(self):
        """The recording, since `loss` reads from other tensors from now on."""
        if self.cuda:
            torch.cuda.synchronize()
        self.optimizer.zero_grad(set_to_none=True)
        self.graph = self.last = None

    def _record(self):
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._run()
        self.graph.replay()

    def join(self):
        if self.cuda:
            torch.cuda.current_stream().wait_stream(self.stream)
