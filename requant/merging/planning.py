"""A recipe and its models made into one model, of which nothing is computed yet: expressions by tensor's name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from requant.encodings import Dense, Encoding
from requant.expressions import Node
from requant.losses import Loss, LossKind
from requant.merging.finite import Finite
from requant.merging.merged import Merged
from requant.merging.methods.method import Base, Parameter, Scope, Setting, Value
from requant.merging.model import Model, is_embedding, is_head, layer_of
from requant.merging.modules import members_of, stacks_of
from requant.merging.narrowed import Narrowed
from requant.merging.precision import Precision
from requant.merging.problems import Problems
from requant.merging.recipe import Input, Module, Recipe, Slice
from requant.merging.reference import Reference
from requant.merging.settings import Settings, choice_of, filtered, unused, value_of
from requant.merging.vocabulary import Alignment
from requant.printable import printable

#: Of tensors, in their order.
Names = Mapping[str, None]
#: The place of tensors of no layer.
_OUTSIDE: Final = ("", -1)
#: Numbers of config.json that change what a model computes, and that no tensor's shape shows.
_BEHAVIOUR: Final = (
    "num_attention_heads",
    "num_key_value_heads",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "hidden_act",
    "rms_norm_eps",
    "sliding_window",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "num_experts_per_tok",
)


@dataclass(frozen=True, slots=True)
class Result:
    """tensors: by Hugging Face name. layers: by stack (`model.layers`), for each layer of the result the model and the
    layer of it that it has its kind from. tied: whether the output head is the embedding."""

    tensors: Mapping[str, Node]
    layers: Mapping[str, Sequence[tuple[Model, int]]]
    tied: bool
    losses: tuple[Loss, ...]


@dataclass(slots=True)
class Merge:
    """One recipe on its way: problems are gathered, so that all are told at once.

    alignment: how rows of tokens become those of the result's vocabulary, with the models in its order; None where
    embeddings are taken as they are. met: choices of the settings that counted for a tensor, by identity. index: the
    models' names by stack and layer.
    """

    recipe: Recipe
    models: Mapping[Reference, Model]
    seed: int
    alignment: Alignment | None = None
    aligned: tuple[Model, ...] = ()
    problems: Problems = field(default_factory=Problems)
    met: set[int] = field(default_factory=set)
    index: dict[Reference, dict[tuple[str, int], list[str]]] = field(default_factory=dict)

    def result(self) -> Result:
        """Raises `PlanError` with everything that contradicts."""
        parts = self._parts()
        for module, own in parts:
            for one in module.slices:
                self._check_slice(one, stacks_of(own))
        self.problems.stop(self.recipe.entry.file)
        tensors: dict[str, Node] = {}
        layers: dict[str, list[tuple[Model, int]]] = {}
        for module, own in parts:
            tensors |= self._module(module, own, layers)
        tensors |= self._left(own for _, own in parts)
        self.problems.stop(self.recipe.entry.file)
        tied = not any(is_head(name) for name in tensors)
        return Result(tensors, layers, tied, tuple(self._losses()))

    def _parts(self) -> list[tuple[Module, Names]]:
        """The recipe's modules, each with the names of its tensors in any of the models."""
        names = dict.fromkeys(name for model in self.models.values() for name in model.tensors)
        modules = self.recipe.modules
        if modules[0].name is None:
            return [(modules[0], names)]
        members, known = members_of(names, [str(module.name) for module in modules])
        for module in modules:
            if known and module.name not in known:
                raise module.entry.unknown(str(module.name), known, "no module of these models is called")
        return [(module, dict.fromkeys(members[str(module.name)])) for module in modules]

    def _left(self, parts: Iterable[Names]) -> dict[str, Node]:
        """What is in none of the recipe's modules stays as the base has it, or the first model; mergekit leaves it out,
        and nothing loads the rest."""
        named = {name for own in parts for name in own}
        reference = self.recipe.references()[0]
        left = {name: self._found(reference, name) for name in self.models[reference].tensors if name not in named}
        return {name: node for name, node in left.items() if node is not None}

    # What stands against it

    def _check_slice(self, one: Slice, stacks: Iterable[str]) -> None:
        """The models that the method needs are there, and have the layers."""
        stacks = tuple(stacks)
        method, models = self.recipe.method, [source.model for source in one.inputs]
        base, where = one.base or self.recipe.base, one.entry.where
        seen: dict[object, Reference] = {}
        for model in models:
            same = seen.setdefault(model.place, model)
            if same is not model:
                told = "" if same == model else f", which is {same} as well"
                self.problems.add(f"{where}: {model} is merged with itself{told}", "")
        if method.base is Base.REQUIRED and base not in models:
            told = f"base_model {base} is none of its models" if base else "needs a base_model"
            self.problems.add(f"{where}: {method.name} {told}", "")
        others = [model for model in models if method.base is Base.IGNORED or model != base]
        self._count(f"{where}: {method.name} takes", len(models), method.inputs, "models")
        self._count(f"{where}: {method.name} takes", len(others), method.others, "models besides the base")
        chosen = any(source.layers for source in one.inputs)
        if chosen and len(stacks) != 1:
            told = f"in several stacks of layers, {' and '.join(stacks)}" if stacks else "in no layers"
            self.problems.add(f"{where}: layers are chosen of what lies {told}", "")
            return
        for stack in stacks:
            for source in one.inputs:
                has = self._layers(source.model, stack)
                if source.layers and source.layers[1] > has:
                    told = f"layers {source.layers[0]} to {source.layers[1] - 1} of a model with {has}"
                    self.problems.add(f"{source.entry.where}: {told}", "")
            counts = {self._layers(source.model, stack) for source in one.inputs}
            if not chosen and len(counts) > 1:
                of = f" in {stack}" if len(stacks) > 1 else ""
                self.problems.add(f"{where}: the models have {' and '.join(map(str, sorted(counts)))} layers{of}", "")

    def _count(self, what: str, count: int, limits: tuple[int, int | None], of: str) -> None:
        least, most = limits
        if count < least or (most is not None and count > most):
            wanted = str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"
            self.problems.add(f"{what} {wanted} {of}, not {count}", "")

    # Tensors

    def _first(self, one: Slice) -> Input:
        """The input of a slice that gives its layers their kind: the base, if it is one of them."""
        base = one.base or self.recipe.base
        return next((source for source in one.inputs if source.model == base), one.inputs[0])

    def _layers(self, reference: Reference, stack: str) -> int:
        """How many layers of a stack a model has."""
        return max((n for name, n in self._named(reference) if name == stack), default=-1) + 1

    def _named(self, reference: Reference) -> dict[tuple[str, int], list[str]]:
        """A model's names by stack and layer; ("", -1) for those of no layer."""
        if reference not in self.index:
            found = self.index[reference] = {}
            for name in self.models[reference].tensors:
                place = layer_of(name)
                found.setdefault(place[:2] if place else _OUTSIDE, []).append(name)
        return self.index[reference]

    def _module(self, module: Module, own: Names, layers: dict[str, list[tuple[Model, int]]]) -> dict[str, Node]:
        """The tensors of a module, every stack of layers with its own way from the first to the last."""
        found = self._outside(module.slices[0], own, first=True)
        for stack in stacks_of(own):
            made = layers.setdefault(stack, [])
            for one in module.slices:
                source = self._first(one)
                begin, end = source.layers or (0, self._layers(source.model, stack))
                for n in range(end - begin):
                    t = n / (end - begin - 1) if end - begin > 1 else 1.0
                    found |= self._layer(one, stack, n, len(made), t)
                    made.append((self.models[source.model], begin + n))
        return found | self._outside(module.slices[-1], own, first=False)

    def _outside(self, one: Slice, own: Names, *, first: bool) -> dict[str, Node]:
        """Tensors of no layer: embeddings from the first slice, norms and heads from the last."""
        found: dict[str, Node] = {}
        for name in self._names(one, [_OUTSIDE] * len(one.inputs)):
            if name in own and _comes_first(name) is first:
                node = self._tensor(one, name, [name] * len(one.inputs), 0.0)
                found |= {} if node is None else {name: node}
        return found

    def _layer(self, one: Slice, stack: str, offset: int, layer: int, t: float) -> dict[str, Node]:
        """One layer of the result."""
        found: dict[str, Node] = {}
        starts = [source.layers[0] + offset if source.layers else offset for source in one.inputs]
        for name in self._names(one, [(stack, start) for start in starts]):
            place = layer_of(name)
            assert place is not None
            names = [f"{stack}.{start}.{place[2]}" for start in starts]
            node = self._tensor(one, f"{stack}.{layer}.{place[2]}", names, t)
            if node is not None:
                found[f"{stack}.{layer}.{place[2]}"] = node
        return found

    def _names(self, one: Slice, places: Sequence[tuple[str, int]]) -> Iterator[str]:
        """Names that any input has in its place, a stack and a layer; as the layer of the first input is numbered."""
        seen: set[str] = set()
        order = sorted(range(len(one.inputs)), key=lambda n: one.inputs[n] is not self._first(one))
        for n in order:
            for name in self._named(one.inputs[n].model).get(places[n], ()):
                place = layer_of(name)
                key = name if place is None else place[2]
                if key not in seen:
                    seen.add(key)
                    yield name

    def _tensor(self, one: Slice, name: str, names: Sequence[str], t: float) -> Node | None:
        """One tensor of the result; None if it has none, or if something contradicts."""
        nodes: list[Node | None] = []
        for source, own in zip(one.inputs, names, strict=True):
            nodes.append(self._found(source.model, own))
        if is_head(name):
            if all(self.models[source.model].head is None for source in one.inputs):
                return None
            nodes = [  # a tied head is the embedding
                node if node is not None else self._found(source.model, self.models[source.model].embedding or "")
                for node, source in zip(nodes, one.inputs, strict=True)
            ]
        present = [(source, node) for source, node in zip(one.inputs, nodes, strict=True) if node is not None]
        for source, node, own in zip(one.inputs, nodes, names, strict=True):
            if node is None:
                self.problems.add(f"{self.models[source.model].label} lacks tensors that others have", own)
        if len(present) < len(nodes):
            return None
        return self._merged(one, name, present, names, t)

    def _found(self, reference: Reference, name: str) -> Node | None:
        model = self.models[reference]
        node = model.tensors.get(name)
        if node is None or self.alignment is None or not (is_embedding(name) or is_head(name)):
            return node
        order = [one.reference for one in self.aligned]
        every = [one.tensors.get(name) or one.tensors[one.embedding or ""] for one in self.aligned]
        if len({one.columns for one in every}) > 1:
            return node  # told with the shapes
        return self.alignment.aligned(tuple(every), order.index(reference), self._promoted(every))

    def _merged(
        self, one: Slice, name: str, present: Sequence[tuple[Input, Node]], names: Sequence[str], t: float
    ) -> Node | None:
        nodes = [node for _, node in present]
        if not all(_is_float(node) for node in nodes):
            return self._copied(name, nodes)
        shapes = list(dict.fromkeys(node.shape for node in nodes))
        if len(shapes) > 1:
            of = " of tokens" if is_embedding(name) or is_head(name) else ""
            what = f"rows{of} differ" if of else "shapes differ"
            self.problems.add(what, f"{name} {' and '.join(str(list(shape)) for shape in shapes)}")
            return None
        setting = self._setting(one, name, present, names, t)
        if setting is None:
            return None
        method = self.recipe.method
        if told := method.check(setting):
            self.problems.add(f"{method.name}: {told}", name)
            return None
        if method.name == "passthrough" and setting.each[0]["scale"] is None:
            return nodes[0]
        precision = setting.precision
        exact = precision is Precision.F32
        looked = [Finite(node) for node in nodes]
        children = tuple(
            x if exact or node.holds(precision.encoding) else Narrowed(x, precision)
            for x, node in zip(looked, nodes, strict=True)
        )
        return Merged(children, method.formula(setting), self._wording(one, setting, names, name))

    def _copied(self, name: str, nodes: Sequence[Node]) -> Node | None:
        """Integers, which are the same in all models, or cannot be merged."""
        encodings = {encoding for node in nodes for encoding in node.encodings()}
        if len(encodings) > 1 or len({node.shape for node in nodes}) > 1:
            self.problems.add("tensors of integers differ", name)
            return None
        return nodes[0]

    def _setting(
        self, one: Slice, name: str, present: Sequence[tuple[Input, Node]], names: Sequence[str], t: float
    ) -> Setting | None:
        method, base = self.recipe.method, one.base or self.recipe.base
        outer = [one.settings, one.module, self.recipe.settings]
        inputs = [source.model for source, _ in present]
        at = inputs.index(base) if base in inputs and method.base is not Base.IGNORED else None
        shared: dict[str, Value] = {}
        each: list[dict[str, Value]] = [{} for _ in present]
        missing = False
        for parameter in method.parameters:
            if parameter.scope is Scope.TENSOR:
                value = shared[parameter.name] = self._value(parameter, outer, name, t)
                missing |= self._lacks(parameter, value, "", name)
                continue
            for n, (source, _) in enumerate(present):
                if parameter.scope is Scope.INPUT or n != at:
                    inner = [source.settings, *outer]
                    value = each[n][parameter.name] = self._value(parameter, inner, names[n], t)
                    missing |= self._lacks(parameter, value, f" of {source.model}", name)
        if missing:
            return None
        precision = self._promoted([node for _, node in present])
        return Setting(name, present[0][1].shape, at, shared, tuple(each), precision, self.seed)

    def _value(self, parameter: Parameter, sources: Sequence[Settings], tensor: str, t: float) -> Value:
        """What it is for a tensor; which choice says so is remembered."""
        choice = choice_of(parameter, sources, tensor)
        self.met.add(id(choice))
        return value_of(parameter, choice, t)

    def _lacks(self, parameter: Parameter, value: Value, of: str, name: str) -> bool:
        """Whether a value is missing that a recipe must give, which is remembered."""
        if value is None and parameter.required:
            self.problems.add(f"{self.recipe.method.name} needs {parameter.name}{of}", name)
            return True
        return False

    def _promoted(self, nodes: Sequence[Node]) -> Precision:
        """The dtype that holds what all of them are stored as: of quantized tensors float32."""
        if self.recipe.dtype is not None:
            return self.recipe.dtype
        labels = {encoding.label for node in nodes for encoding in node.encodings()}
        return Precision(labels.pop()) if len(labels) == 1 and labels <= {"BF16", "F16", "F32"} else Precision.F32

    def _wording(self, one: Slice, setting: Setting, names: Sequence[str], name: str) -> str:
        """`ties(base, a weight=0.5, b weight=0.3 density=0.5; lambda=1)`."""
        parts = []
        for source, own, values in zip(one.inputs, names, setting.each, strict=True):
            label = self.models[source.model].label + (f":{own}" if own != name else "")
            parts.append(" ".join([label, *(f"{key}={_number(value)}" for key, value in values.items())]))
        shared = " ".join(f"{key}={_number(value)}" for key, value in setting.shared.items() if key != "int8_mask")
        return f"{self.recipe.method.name}({', '.join(parts)}{'; ' + shared if shared else ''})"

    # What is told

    def _losses(self) -> Iterator[Loss]:
        recipe = self.recipe
        every: list[Settings] = [recipe.settings, *(module.settings for module in recipe.modules)]
        every += [one.settings for one in recipe.slices]
        every += [source.settings for one in recipe.slices for source in one.inputs]
        for name in dict.fromkeys(name for settings in every for name in unused(recipe.method, settings)):
            yield Loss(LossKind.SUSPECT, name, f"{recipe.method.name} has no such parameter; it is passed over")
        for choice in (choice for settings in every for choice in filtered(recipe.method, settings)):
            if id(choice) not in self.met:
                told = f"the filter {printable(str(choice.filter), 60)!r} fits no tensor whose value is still open"
                yield Loss(LossKind.SUSPECT, choice.points[0].where, told)
        first, *others = [self.models[reference] for reference in recipe.references()]
        for key in _BEHAVIOUR:
            found = {model.label: model.value(key) for model in others if model.value(key) != first.value(key)}
            if found and first.value(key) is not None:
                label, value = next(iter(found.items()))
                told = f"{value} in {label}, {first.value(key)} in {first.label}, which stays"
                yield Loss(LossKind.SUSPECT, key, told)


def _comes_first(name: str) -> bool:
    """Whether a tensor of no layer is used before the layers."""
    return "embed" in name or name.endswith(("wte.weight", "wpe.weight"))


def _is_float(node: Node) -> bool:
    return all(_floating(encoding) for encoding in node.encodings())


def _floating(encoding: Encoding) -> bool:
    return not isinstance(encoding, Dense) or encoding.dtype.is_float


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
