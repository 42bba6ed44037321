"""Runs of a class on gradients of its own."""

import torch
from classes import give_gradients, take_step


def run(info, optimizer, params, steps, seed=0):
    torch.manual_seed(seed)
    for _ in range(steps):
        give_gradients(info, params)
        take_step(info, optimizer, params)
