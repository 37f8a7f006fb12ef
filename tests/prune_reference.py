"""What the papers compute, in torch, from their formulas: magnitude and Wanda.

Han et al. (2015), https://arxiv.org/abs/1506.02626; Sun et al., "A simple and effective pruning approach for large
language models" (2023), https://arxiv.org/abs/2306.11695.
"""

import torch


def lowest(scores, count):
    """True at the `count` lowest of each row; of equal ones the first."""
    order = torch.sort(scores, dim=-1, stable=True).indices[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


def in_rows(scores, share):
    return lowest(scores, int(scores.shape[1] * share))


def in_groups(scores, kept, of):
    groups = scores.reshape(len(scores), -1, of)
    return lowest(groups, of - kept).reshape(scores.shape)


def in_tensors(all_scores, share):
    """One bound for all tensors: a mask for each."""
    flat = torch.cat([scores.reshape(-1) for scores in all_scores])
    mask = lowest(flat[None], int(flat.numel() * share))[0]
    sizes = [scores.numel() for scores in all_scores]
    return [part.reshape(scores.shape) for part, scores in zip(mask.split(sizes), all_scores, strict=True)]


def wanda_scores(weight, norms):
    """|w| ||x||, where `norms` are of what each column is given."""
    return weight.abs() * norms[None]


class Norms:
    """The norm of what each input of the linear layers of a model is given, gathered while it runs: the running mean
    over samples of the square of their norms, as the paper's code has it."""

    def __init__(self, model):
        self.squares, self.samples, self._hooks = {}, {}, []
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":
                self._hooks.append(module.register_forward_hook(self._hook(f"{name}.weight")))

    def _hook(self, name):
        def add(module, given, out):
            x = given[0].detach().float().reshape(-1, given[0].shape[-1]).t()
            before, count = self.squares.get(name, torch.zeros(x.shape[0])), self.samples.get(name, 0)
            self.squares[name] = before * (count / (count + 1)) + torch.norm(x, p=2, dim=1) ** 2 / (count + 1)
            self.samples[name] = count + 1

        return add

    def of(self, name):
        return torch.sqrt(self.squares[name])


def sparsegpt(weight, hessian, share=0.0, kept=0, of=0, block=128, damping=0.01):
    """What becomes of a matrix [out, in], step by step, in the dtype of `hessian`: E[x xᵀ] or a multiple of it.

    Frantar and Alistarh, "SparseGPT: massive language models can be accurately pruned in one-shot" (2023),
    https://arxiv.org/abs/2301.00774, algorithm 1, with the damping, the dead inputs and the bounds of its code.
    """
    w, h = weight.to(hessian.dtype).clone(), hessian.clone()
    columns = w.shape[1]
    dead = torch.diagonal(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h += torch.eye(columns, dtype=h.dtype) * damping * torch.diagonal(h).mean()
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        part, own = w[:, start:stop].clone(), inverse[start:stop, start:stop]
        errors, mask = torch.zeros_like(part), torch.zeros(part.shape, dtype=torch.bool)
        if not of:
            scores = part**2 / torch.diagonal(own) ** 2
            mask = scores <= torch.sort(scores.flatten()).values[int(scores.numel() * share)]
        for i in range(stop - start):
            if of and i % of == 0:
                scores = part[:, i : i + of] ** 2 / torch.diagonal(own)[i : i + of] ** 2
                mask[:, i : i + of] = lowest(scores, of - kept)
            left = part[:, i].masked_fill(mask[:, i], 0)
            errors[:, i] = (part[:, i] - left) / own[i, i]
            part[:, i + 1 :] -= errors[:, i : i + 1] * own[i, i + 1 :]
            part[:, i] = left
        w[:, start:stop] = part
        w[:, stop:] -= errors @ inverse[start:stop, stop:]
    return w
