"""A recommender: embedding tables, the embedder that assembles fields, and a net of the zoo."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scalerec.config import Config, require
from scalerec.data.batches import Batch
from scalerec.data.frames import empty_batch
from scalerec.data.layout import Layout
from scalerec.data.narrowing import Narrowing, Widening
from scalerec.errors import ConfigError
from scalerec.models.dropout import Dropout
from scalerec.models.embedding import can_embed, embed
from scalerec.models.forms import NO_FORMS, Forms
from scalerec.models.inputs import FieldEmbedder, Folded, Inputs
from scalerec.models.net import NetConfig, TwoTowers
from scalerec.models.packed import PackedTables
from scalerec.models.placing import Calibration, place_layers, sparse_names
from scalerec.models.shaping import MakeTables, settle_forms, shape_tables
from scalerec.models.sparse import join_sparse, split_sparse
from scalerec.models.tables import Tables
from scalerec.models.warming import WarmUp, build_warmer
from scalerec.models.zoo import ZOO

__all__ = ["MakeTables", "ModelSpec", "Recommender", "build_recommender"]

# See `_is_small`.
FEW_IDS = 4_096


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec(Config):
    """Which net of the zoo, and its settings.

    Args:
        model: The net's name in the zoo.
        settings: Those of its config; what is left out takes the config's default.
        init_std: Standard deviation of the initial embeddings, of ids and of numbers.
        forms: Its parts that are stored or computed otherwise than the zoo has them.
        warm_ups: Modules beside the net that give new ids rows, at most one a key.

    Raises:
        ConfigError: If there is no such net, or a setting is unknown or out of range.
    """

    model: str
    settings: dict[str, Any]
    init_std: float = 0.01
    forms: Forms = NO_FORMS
    warm_ups: tuple[WarmUp, ...] = ()

    def __post_init__(self) -> None:
        require(self.model in ZOO, f"model must be one of {', '.join(ZOO)}; got {self.model!r}")
        require(self.init_std > 0, f"init_std must be positive; got {self.init_std}")
        keys = [warm_up.key for warm_up in self.warm_ups]
        require(len(set(keys)) == len(keys), f"warm_ups: one a key; got keys {', '.join(keys)}")
        self.net_config()

    def net_config(self) -> NetConfig:
        """The net's settings, checked."""
        return ZOO[self.model].config.from_dict(self.settings, f"model {self.model}")

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-ready values; forms and warm-ups are left out where there are none."""
        whole = Config.to_dict(self)
        for name in ("forms", "warm_ups"):
            if not getattr(self, name):
                del whole[name]
        return whole


class Recommender(nn.Module):
    """Scores batches of one layout.

    Args:
        layout: What a batch holds.
        spec: The net and its settings.
        generator: Draws all initial weights.
        draw_tables: Whether tables are drawn too; a model whose weights are loaded next needs none.
        make_tables: Makes the tables: whole ones, or those rows that a process of several keeps.
    """

    def __init__(
        self,
        layout: Layout,
        spec: ModelSpec,
        generator: torch.Generator,
        *,
        draw_tables: bool = True,
        make_tables: MakeTables = Tables,
    ) -> None:
        super().__init__()
        config = spec.net_config()
        self.layout = layout
        self.narrow: Narrowing | Widening = Narrowing(layout, spec.forms.fields)
        forms = settle_forms(spec.forms, self.narrow.layout)
        self.spec = spec = spec if forms is spec.forms else replace(spec, forms=forms)
        source = generator if draw_tables else None
        self.tables, self.shaped = shape_tables(
            self.narrow.layout, spec.forms.tables, config.dim, source, spec.init_std, make_tables
        )
        self.tables.narrow = self.narrow
        entry = ZOO[spec.model]
        self.embedder = FieldEmbedder(
            self.narrow.layout,
            config.dim,
            generator,
            histories=entry.reads_histories,
            init_std=spec.init_std,
        )
        ends = [self.narrow.layout.tables[field.table] for field in self.narrow.layout.ids]
        self._ends = torch.tensor(ends, dtype=torch.int64).unsqueeze(1)
        self.dropout = Dropout(config.embedding_dropout)
        self.net = entry.build(self.narrow.layout, config, generator)
        self._reads_flat = entry.reads_flat
        self.calibration = Calibration(layout.num_outputs) if spec.forms.recalibrated else None
        place_layers(self, spec.forms.layers, generator)
        own = self.narrow.layout
        self.warmers = nn.ModuleList(
            build_warmer(warm_up, own, config.dim, generator) for warm_up in spec.warm_ups
        )
        if any(form.inputs or form.outputs for form in spec.forms.layers.values()):
            self._check_sizes()

    @torch.no_grad()
    def _check_sizes(self) -> None:
        """Refuse layers that do not take what those before them give."""
        batch = empty_batch(self.narrow.layout, 2)
        rows = torch.zeros(len(self.tables.rows_of(batch)), self.tables.width)
        self.eval()
        try:
            self.score(rows, batch)
        except RuntimeError as error:
            sizes = {n: (f.inputs, f.outputs) for n, f in self.spec.forms.layers.items()}
            raise ConfigError(
                f"forms.layers: inputs and outputs do not fit each other: {sizes}: {error}"
            ) from error
        self.train()

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``[B, C]``, one column a task (`num_classes` for a multiclass one)."""
        return self._logits(self.read(batch, flat=self._reads_flat))

    def _logits(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self.net(inputs)
        return logits if self.calibration is None else self.calibration(logits)

    def score(self, rows_kw: Tensor, batch: Batch) -> Tensor:
        """Logits from rows that were looked up, or given, for `Tables.rows_of(batch)`.

        Args:
            rows_kw: ``[F * B + V, W]``; under `vmap` or second-order gradients, a plain tensor.
            batch: The batch that they belong to.
        """
        return self._logits(self._drop(self._embed(rows_kw, self.narrow(batch))))

    def _embed(self, rows_kp: Tensor, batch: Batch) -> Inputs:
        inputs: Inputs = self.embedder(self._rows(rows_kp, batch), batch)
        return inputs

    def _rows(self, rows_kp: Tensor, batch: Batch) -> Tensor:
        """Looked-up rows as the net has them, ``[K, W]``."""
        return rows_kp if self.shaped is None else self.shaped(rows_kp, batch)

    def read(self, batch: Batch, *, flat: bool = False) -> Inputs:
        """The embedded fields, with dropout while training, the quickest way there is.

        Args:
            batch: The batch.
            flat: Whether they will be read through `Inputs.flat` alone.
        """
        batch = self.narrow(batch)
        # Compiled look-ups know one row an id, in float.
        looked_up = self.shaped is not None or isinstance(self.tables, PackedTables)
        plain = self.embedder.reads_items or not can_embed(self.tables, looked_up=looked_up)
        if plain or (_is_small(batch) and self._has_rows(batch)):
            return self._drop(self._embed(self.tables(batch), batch))
        images = self.embedder.images(batch)
        width = self.embedder.numbers.shape[1]
        others = torch.stack(images, 1).float() if images else torch.empty(len(batch), 0, width)
        numbers = self.embedder.numbers
        folded = flat and len(numbers) > 0 and not self._drops
        rows = self._rows(self.tables(batch), batch) if looked_up else None
        fields, linear, pairs = embed(
            self.tables, numbers, others, batch, folded=folded, rows_kw=rows
        )
        if not folded:
            return self._drop(Inputs(fields, linear, batch.dense, (), pairs))
        own = Folded(fields, numbers[:, :-1], len(self.embedder.layout.ids))
        return Inputs(fields.new_empty(0), linear, batch.dense, (), pairs, own)

    def _has_rows(self, batch: Batch) -> bool:
        """Whether every id of a batch on the CPU is within its table; kernels say which is not."""
        layout, ids = self.embedder.layout, batch.ids
        bags = zip(layout.bags, batch.bags, strict=True)
        values = [(bag.values, layout.tables[field.table]) for field, bag in bags]
        return bool(((ids >= 0) & (ids < self._ends)).all()) and all(
            bool(((own >= 0) & (own < end)).all()) for own, end in values
        )

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout.rate > 0

    def _drop(self, inputs: Inputs) -> Inputs:
        if not self._drops:
            return inputs
        fields = self.dropout(inputs.fields)
        return Inputs(fields, inputs.linear, inputs.dense, inputs.histories)

    def towers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The users' and the items' vectors, ``[B, E]`` each.

        Raises:
            ConfigError: If the net has no towers.
        """
        if not isinstance(self.net, TwoTowers):
            raise ConfigError(f"a retrieval task needs a two-tower model; got {self.spec.model!r}")
        return self.net.towers(self.read(batch))

    def dense_parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter outside the tables by name, but for those that warm new ids up."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not _is_table(name) and not name.startswith("warmers.")
        }

    def to_tensors(self) -> dict[str, Tensor]:
        """Every tensor of the model by name: tables, parameters, buffers such as running means.

        They are live where engine and form allow: a step changes them.
        """
        names = sparse_names(self.spec.forms.layers)
        return {**self.tables.to_tensors(), **split_sparse(self._dense_tensors(), names)}

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy every tensor, as `to_tensors` gave them, back in.

        Raises:
            ConfigError: If one is missing, has another shape, or is of no part of the model.
        """
        tensors = self._whole(tensors)
        self._check_dense(tensors)
        self.tables.load_tensors(tensors)
        self.load_dense(tensors)

    @torch.no_grad()
    def load_dense(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy every tensor outside the tables back in; those of tables are passed over.

        Raises:
            ConfigError: As `load_tensors`.
        """
        tensors = self._whole(tensors)
        self._check_dense(tensors)
        for name, tensor in self._dense_tensors().items():
            tensor.copy_(tensors[name])

    def _whole(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors with sparse ones joined."""
        names = sparse_names(self.spec.forms.layers)
        if not names:
            return tensors
        own = self._dense_tensors()
        return join_sparse(tensors, {name: own[name].shape for name in names})

    def _check_dense(self, tensors: Mapping[str, Tensor]) -> None:
        own = self._dense_tensors()
        given = {name: tensor for name, tensor in tensors.items() if not _is_table(name)}
        if own.keys() != given.keys():
            odd = sorted(own.keys() ^ given.keys())
            raise ConfigError(f"model {self.spec.model}: tensors missing or unknown: {odd}")
        for name, tensor in given.items():
            if tensor.shape != own[name].shape:
                raise ConfigError(
                    f"model {self.spec.model}: tensor {name!r} must be {list(own[name].shape)}; "
                    f"got {list(tensor.shape)}"
                )

    def _dense_tensors(self) -> dict[str, Tensor]:
        state = self.state_dict()
        return {name: tensor.detach() for name, tensor in state.items() if not _is_table(name)}


def _is_small(batch: Batch) -> bool:
    """Whether a few calls of torch look a batch up sooner than the kernels start."""
    trained = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    return batch.ids.numel() <= FEW_IDS and not trained


def _is_table(name: str) -> bool:
    return name.startswith("tables.")


def build_recommender(
    layout: Layout, spec: ModelSpec, seed: int, make_tables: MakeTables = Tables
) -> Recommender:
    """Build a recommender; the same seed gives the same initial weights.

    Args:
        layout: Of its batches.
        spec: The model.
        seed: Of the weights.
        make_tables: As in `Recommender`.
    """
    generator = torch.Generator().manual_seed(seed)
    return Recommender(layout, spec, generator, make_tables=make_tables)
