"""DeepFM of FuxiCTR's own layers, put together as its model zoo does; the package leaves it out."""

from typing import Any

from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel

__all__ = ["DeepFM", "feature_map"]


class DeepFM(BaseModel):  # type: ignore[misc]
    """A factorisation machine and a tower over the same embeddings."""

    def __init__(
        self,
        features: FeatureMap,
        *,
        learning_rate: float,
        embedding_dim: int,
        tower: dict[str, Any],
        **settings: Any,
    ) -> None:
        super().__init__(features, model_id="DeepFM", **settings)
        self.embedding_layer = FeatureEmbedding(features, embedding_dim)
        self.fm = FactorizationMachine(features)
        width = features.sum_emb_out_dim()
        self.mlp = MLP_Block(input_dim=width, output_dim=1, hidden_activations="ReLU", **tower)
        self.compile("adam", "binary_crossentropy", learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The chance of a click, ``[B, 1]``."""
        given = self.get_inputs(inputs)
        embedded = self.embedding_layer(given)
        logits = self.fm(given, embedded) + self.mlp(embedded.flatten(start_dim=1))
        return {"y_pred": self.output_activation(logits)}


def feature_map(
    folder: str, sizes: dict[str, int], numbers: tuple[str, ...], label: str, dim: int
) -> FeatureMap:
    """FuxiCTR's description of the columns."""
    features = FeatureMap("data", folder)
    for name, size in sizes.items():
        features.features[name] = {"source": "", "type": "categorical", "vocab_size": size}
    for name in numbers:
        features.features[name] = {"source": "", "type": "numeric"}
    features.labels = [label]
    features.num_fields = features.get_num_fields()
    features.default_emb_dim = dim
    features.set_column_index()
    return features
