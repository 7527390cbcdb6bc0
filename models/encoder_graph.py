"""How does a small BERT run on ONNX Runtime? A graph of its lower layers, its weights rounded to seven bits.

Rounding makes a decision twice as fast. Seven bits, because sums of eight-bit products saturate on processors without
VNNI, and a profile must say the same on every machine (ONNX Runtime's documentation of quantization calls this
`reduce_range`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Weights = Mapping[str, NDArray[np.float32]]
LARGEST = 63
_OPSET, _IR_VERSION = 20, 10


@dataclass
class _Graph:
    nodes: list[NodeProto] = field(default_factory=list[NodeProto])
    constants: list[TensorProto] = field(default_factory=list[TensorProto])

    def constant(self, value: NDArray[Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """One node; the name of its output, or a list of several."""
        names = [f"{kind}_{len(self.nodes)}_{output}" for output in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def dense(self, x: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """X @ weight.T + bias, with x and the weights as whole numbers; weight is (out, in)."""
        scale = np.maximum(np.abs(weight).max(1), 1e-12) / LARGEST
        rounded = self.constant(np.rint(weight / scale[:, None], dtype=np.float32).astype(np.int8).T)
        whole, x_scale, zero = self.add("DynamicQuantizeLinear", x, outputs=3)
        product = self.add("Cast", self.add("MatMulInteger", whole, rounded, zero), to=TensorProto.FLOAT)
        scales = self.add("Mul", x_scale, self.constant(scale.astype(np.float32)))
        return self.add("Add", self.add("Mul", product, scales), self.constant(bias))

    def norm(self, x: str, weights: Weights, name: str, epsilon: float) -> str:
        scale, bias = self.constant(weights[f"{name}.weight"]), self.constant(weights[f"{name}.bias"])
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)


def names(layers: int) -> list[str]:
    """The weights that `build` needs."""
    pair = ("weight", "bias")
    dense = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    rest = ("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm")
    return [
        *(f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")),
        *(f"embeddings.LayerNorm.{one}" for one in pair),
        *(f"encoder.layer.{i}.{part}.{one}" for i in range(layers) for part in (*dense, *rest) for one in pair),
    ]


def build(weights: Weights, layers: int, heads: int, epsilon: float) -> ModelProto:
    """From token ids, `ids` (n,), to the mean of the last of these layers over the tokens, `mean` (width,).

    Args:
        weights: by the names that transformers' BertModel gives them.
        layers: how many of the lower layers.
        heads: attention heads of each.
        epsilon: of the layer norms.
    """
    graph = _Graph()
    width = weights["embeddings.word_embeddings.weight"].shape[1]
    words = graph.add("Gather", graph.constant(weights["embeddings.word_embeddings.weight"]), "ids")
    places = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    first = graph.constant(np.array([0], dtype=np.int64))
    place = graph.add("Slice", graph.constant(places), first, graph.add("Shape", "ids"), first)
    x = graph.norm(graph.add("Add", words, place), weights, "embeddings.LayerNorm", epsilon)
    for layer in range(layers):
        x = _layer(graph, x, weights, f"encoder.layer.{layer}", shape=(heads, width // heads), epsilon=epsilon)
    mean = graph.add("ReduceMean", x, first, keepdims=0)
    graph.nodes.append(helper.make_node("Identity", [mean], ["mean"]))
    made = helper.make_graph(
        graph.nodes,
        "encoder",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, [width])],
        graph.constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def _layer(graph: _Graph, x: str, weights: Weights, name: str, *, shape: tuple[int, int], epsilon: float) -> str:
    """One transformer layer of BERT: attention and a feed-forward network, each with its residual and norm."""
    heads, size = shape

    def of(parts: Sequence[str], kind: str) -> NDArray[np.float32]:
        return np.concatenate([weights[f"{name}.{part}.{kind}"] for part in parts])

    asked = ("attention.self.query", "attention.self.key", "attention.self.value")
    together = graph.dense(x, of(asked, "weight"), of(asked, "bias"))
    split = graph.add("Reshape", together, graph.constant(np.array([-1, 3, heads, size], dtype=np.int64)))
    by_head = graph.add("Transpose", split, perm=[1, 2, 0, 3])
    query, key, value = (
        graph.add("Gather", by_head, graph.constant(np.array(which, dtype=np.int64)), axis=0) for which in range(3)
    )
    scores = graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 2, 1]))
    scaled = graph.add("Mul", scores, graph.constant(np.array(size**-0.5, dtype=np.float32)))
    attended = graph.add("MatMul", graph.add("Softmax", scaled, axis=-1), value)
    joined = graph.add(
        "Reshape",
        graph.add("Transpose", attended, perm=[1, 0, 2]),
        graph.constant(np.array([-1, heads * size], dtype=np.int64)),
    )
    attention = graph.dense(joined, of(["attention.output.dense"], "weight"), of(["attention.output.dense"], "bias"))
    x = graph.norm(graph.add("Add", attention, x), weights, f"{name}.attention.output.LayerNorm", epsilon)
    inner = graph.add("Gelu", graph.dense(x, of(["intermediate.dense"], "weight"), of(["intermediate.dense"], "bias")))
    outer = graph.dense(inner, of(["output.dense"], "weight"), of(["output.dense"], "bias"))
    return graph.norm(graph.add("Add", outer, x), weights, f"{name}.output.LayerNorm", epsilon)
