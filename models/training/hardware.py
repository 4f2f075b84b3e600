"""What a model card says of the machine."""

import torch


def hardware(device):
    return f"one {torch.cuda.get_device_name()}" if device == "cuda" else "a CPU"
