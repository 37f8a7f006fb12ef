"""Mixtures of experts: what transformers stores as a matrix of each expert, and what else their stacks are called.

Facts: transformers 5.23 holds experts as two stacks, `experts.gate_up_proj` and `experts.down_proj`, and loads files
that have them so; mlx-lm 0.32.2 stores three (`switch_mlp`); ModelOpt 0.43 puts the number behind the projection.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.rules import Apart, Rule

_PROJECTIONS: Final = ("gate", "down", "up")


def expert_rules(
    module: str, ffn: str, names: tuple[str, str, str] = ("gate_proj", "down_proj", "up_proj"), memory: str = ""
) -> tuple[Rule, ...]:
    """The router of a layer and the three projections of its experts.

    module: up to the dot before `experts`. ffn: the size that is the width of an expert. names: of gate, down and up in
    files. memory: the module as transformers 5 holds it, where that is not the module of files.
    """
    router = (Apart(f"{memory}gate.weight", loaded=True),) if memory else ()
    rules = [Rule(f"{module}gate.weight", "blk.{n}.ffn_gate_inp.weight", ("experts", "hidden"), apart=router)]
    for projection, name in zip(_PROJECTIONS, names, strict=True):
        shape = ("hidden", ffn) if projection == "down" else (ffn, "hidden")
        ggml = f"blk.{{n}}.ffn_{projection}_exps.weight"
        rules.append(
            Rule(f"{module}experts.{{e}}.{name}.weight", ggml, shape, apart=_apart(module, projection, name, memory))
        )
    return tuple(rules)


def _apart(module: str, projection: str, name: str, memory: str) -> tuple[Apart, ...]:
    """What the matrices of a projection are called elsewhere."""
    usual, found = f"{projection}_proj", list[Apart]()
    for place in dict.fromkeys((memory or module, module)):
        loaded = place == (memory or module)
        if projection == "down":
            found.append(Apart(f"{place}experts.down_proj", loaded=loaded))
        else:
            half = ("gate", "up").index(projection)
            found.append(Apart(f"{place}experts.gate_up_proj", half, 2, loaded))
            found.append(Apart(f"{place}experts.gate_up_proj.weight", half, 2))
            found.append(Apart(f"{place}experts.{usual}"))
        found.append(Apart(f"{place}experts.{usual}.weight"))
        found.append(Apart(f"{place}switch_mlp.{usual}.weight"))
        found += [Apart(f"{place}experts.{one}.{{e}}.weight") for one in dict.fromkeys((usual, name))]
        found.append(Apart(f"{place}experts.{{e}}.{usual}.weight"))
    own = f"{module}experts.{{e}}.{name}.weight"
    return tuple(one for one in found if one.name != own)
