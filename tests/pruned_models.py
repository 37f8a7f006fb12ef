"""Models in transformers some of whose units are masked out, by hooks: what a model without these units must give."""

from copy import copy

import torch
from torch.nn import functional

from requant.pruning.units import Axis

#: What a head's output and a neuron's activation go into, by the end of the module's name.
_BEHIND_HEADS = ("self_attn.o_proj", "attn.c_proj", "attention.output.dense")
_BEHIND_NEURONS = ("mlp.down_proj", "mlp.c_proj", "output.dense")
_LAYERS = ("layers", "h", "layer")


def layer_of(name):
    parts = name.split(".")
    return next((int(parts[i + 1]) for i, part in enumerate(parts[:-1]) if part in _LAYERS), -1)


def masked(model, kept, head, left=None):
    """The model with only the units that are `kept`, by (axis, layer, expert); head: columns of one.

    left: layers that stay.
    """
    for name, module in model.named_modules():
        layer = layer_of(name)
        heads, neurons = kept.get((Axis.HEADS, layer, -1)), kept.get((Axis.FFN, layer, -1))
        if name.endswith(_BEHIND_HEADS) and heads is not None:
            module.register_forward_pre_hook(only([h * head + n for h in heads for n in range(head)]))
        elif name.endswith(_BEHIND_NEURONS) and not name.endswith(_BEHIND_HEADS) and neurons is not None:
            module.register_forward_pre_hook(only(neurons))
        elif name.endswith("mlp.experts"):
            mask_experts(module, kept, layer)
        elif name.endswith("mlp.gate") and (Axis.EXPERTS, layer, -1) in kept:
            mask_router(module, kept[Axis.EXPERTS, layer, -1])
        if left is not None and name.rsplit(".", 1)[-1].isdecimal() and layer not in left:
            module.forward = lambda states, *args, **kwargs: states
    if (Axis.HIDDEN, -1, -1) in kept:
        narrow(model, list(kept[Axis.HIDDEN, -1, -1]))
    return model


def only(columns):
    """A hook: inputs of other columns are zero."""

    def hook(module, given):
        mask = torch.zeros(given[0].shape[-1])
        mask[list(columns)] = 1
        return (given[0] * mask, *given[1:])

    return hook


def mask_experts(module, kept, layer):
    with torch.no_grad():
        for expert in range(module.down_proj.shape[0]):
            neurons = kept.get((Axis.EXPERT_FFN, layer, expert))
            if neurons is not None:
                mask = torch.zeros(module.down_proj.shape[-1])
                mask[list(neurons)] = 1
                module.down_proj[expert] *= mask


def mask_router(module, experts):
    def forward(states):
        logits = functional.linear(states.reshape(-1, states.shape[-1]), module.weight)
        away = torch.full_like(logits, -torch.inf)
        away[:, list(experts)] = logits[:, list(experts)]
        values, indices = torch.topk(torch.softmax(away, -1), module.top_k, dim=-1)
        return away, values / values.sum(-1, keepdim=True), indices

    module.forward = forward


def narrow(model, columns):
    """States have these columns only: others are zero, and norms are of these."""
    mask = None
    for name, module in list(model.named_modules()):
        if "norm" in name.rsplit(".", 1)[-1].lower() or name.rsplit(".", 1)[-1].startswith("ln_"):
            if "q_norm" not in name and "k_norm" not in name:
                narrow_norm(module, columns)
        elif isinstance(module, torch.nn.Embedding) or name.endswith((*_BEHIND_HEADS, *_BEHIND_NEURONS, "mlp")):

            def hook(module, given, out):
                nonlocal mask
                if mask is None:
                    mask = torch.zeros(out.shape[-1])
                    mask[columns] = 1
                return out * mask

            module.register_forward_hook(hook)


def narrow_norm(norm, columns):
    small = copy(norm)
    small._parameters = {
        name: None if value is None else torch.nn.Parameter(value.detach()[columns])
        for name, value in norm._parameters.items()
    }
    if isinstance(norm, torch.nn.LayerNorm):
        small.normalized_shape = (len(columns),)
    narrowed = type(norm).forward

    def forward(states):
        out = torch.zeros_like(states)
        out[..., columns] = narrowed(small, states[..., columns])
        return out

    norm.forward = forward
