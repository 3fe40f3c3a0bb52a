"""`scalerec plan`: what a run on machines that are not here would need."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalerec.cli.options import AsJson, examples, merge, read_config, read_settings
from scalerec.cli.output import note, print_json, print_pairs, print_table

if TYPE_CHECKING:
    from scalerec.distributed.planning import Advice, Cluster, Job, Machine, Prediction, TableReads
    from scalerec.models.recommender import ModelSpec
    from scalerec.train import TrainConfig

HELP = examples(
    "scalerec plan --rows 1e9 --dim 64 --nodes 16 --cores 8 --memory 64GiB --link 25Gbit "
    "--set tables.optimiser=rowwise_adagrad --set patience=-1",
    "scalerec plan --table user=5e8 --table item=2e7:3 --nodes 8 --examples 4e9 --price 0.9",
    "scalerec plan --data work/ml --nodes 2 --link 1Gbit --set distributed.aggregate=local",
    "scalerec plan --calibrate here.json",
    "scalerec plan --rows 1e8 --machine here.json --json",
)
ONE_BATCH = 4096


Rows = Annotated[str | None, typer.Option("--rows", help="Rows of all tables, such as 1e9.")]
Tables = Annotated[
    list[str] | None,
    typer.Option("--table", help="A table, NAME=ROWS or NAME=ROWS:IDS of an example."),
]
Data = Annotated[
    Path | None, typer.Option("--data", help="A data set: its tables, what a batch reads.")
]
Fields = Annotated[int, typer.Option("--fields", min=1, help="Tables of --rows.")]
Numbers = Annotated[int, typer.Option("--numbers", min=0, help="Numbers of an example.")]
Exponent = Annotated[
    float, typer.Option("--exponent", help="Of the law of ids; 0: all are alike, 1: Zipf's.")
]
Model = Annotated[str, typer.Option("--model", help="A model of the zoo.")]
Dim = Annotated[int | None, typer.Option("--dim", help="Size of an embedding.")]
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Machines.")]
Nproc = Annotated[int, typer.Option("--nproc", min=1, help="Processes of each.")]
Cores = Annotated[int | None, typer.Option("--cores", min=1, help="Of each machine.")]
Threads = Annotated[
    int, typer.Option("--threads", min=0, help="Of each process; 0: its share of the cores.")
]
Memory = Annotated[str | None, typer.Option("--memory", help="Of each machine, such as 64GiB.")]
Link = Annotated[str, typer.Option("--link", help="Of each machine, such as 25Gbit.")]
Latency = Annotated[str, typer.Option("--latency", help="From one machine to another.")]
Switches = Annotated[
    float, typer.Option("--oversubscription", help="Of the switches; 1: full bisection.")
]
BatchSize = Annotated[
    str | None, typer.Option("--batch-size", help="Of all processes together; else 4096 of each.")
]
Examples = Annotated[str | None, typer.Option("--examples", help="Of an epoch, such as 4e9.")]
Price = Annotated[float, typer.Option("--price", min=0, help="Of a machine's hour.")]
Overlap = Annotated[
    float, typer.Option("--overlap", help="Part of the exchange that is hidden, 0 to 1.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="As for train: tables.weights=fp16, distributed.lookups=bf16, model.*"
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings, a TOML file.")]
MachineFile = Annotated[
    Path | None, typer.Option("--machine", help="Measured constants; else the benchmarks'.")
]
Calibrate = Annotated[
    Path | None,
    typer.Option("--calibrate", help="Measure this machine, write its constants there."),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "plan",
        short_help="Predict memory, bytes, time and price of a run on several machines.",
        epilog=HELP,
    )(run)


def run(
    rows: Rows = None,
    table: Tables = None,
    data: Data = None,
    fields: Fields = 26,
    numbers: Numbers = 13,
    exponent: Exponent = 1.05,
    model: Model = "deepfm",
    dim: Dim = None,
    nodes: Nodes = 1,
    nproc: Nproc = 1,
    cores: Cores = None,
    threads: Threads = 0,
    memory: Memory = None,
    link: Link = "10Gbit",
    latency: Latency = "50us",
    oversubscription: Switches = 1.0,
    batch_size: BatchSize = None,
    num_examples: Examples = None,
    price: Price = 0.0,
    overlap: Overlap = 0.0,
    settings: Settings = None,
    config: ConfigFile = None,
    machine: MachineFile = None,
    calibrate: Calibrate = None,
    as_json: AsJson = False,
) -> None:
    """Predict what training on several machines takes, from constants that were measured."""
    from scalerec.distributed.planning import Cluster, predict
    from scalerec.distributed.planning.units import parse_count, parse_rate, parse_size, parse_time

    wanted = rows is not None or table or data is not None
    kind = _machine(machine, calibrate)
    if calibrate is not None and not wanted:
        _show_machine(kind, as_json=as_json)
        return
    cluster = Cluster(
        nodes=nodes,
        processes=nproc,
        cores=kind.cores if cores is None else cores,
        threads=threads,
        memory_bytes=kind.memory_bytes if memory is None else parse_size(memory, "--memory"),
        link=parse_rate(link, "--link"),
        latency_s=parse_time(latency, "--latency"),
        oversubscription=oversubscription,
        price_per_hour=price,
    )
    given: dict[str, Any] = {} if dim is None else {"model": {"dim": dim}}
    if batch_size is not None:
        given["batch_size"] = parse_count(batch_size, "--batch-size")
    values = merge(read_config(config), given, read_settings(settings or []))
    values.setdefault("batch_size", ONE_BATCH * cluster.world)
    number = 0 if num_examples is None else parse_count(num_examples, "--examples")
    source = rows, table or [], data, fields, exponent
    job = make_job(cluster, kind, source, numbers, (model, values), number, overlap)
    found = predict(job)
    if as_json:
        print_json(_plain(job, found))
    else:
        _show(job, found)


def make_job(
    cluster: "Cluster",
    machine: "Machine",
    source: tuple[str | None, list[str], Path | None, int, float],
    num_numbers: int,
    wanted: tuple[str, dict[str, Any]],
    examples: int,
    overlap: float,
) -> "Job":
    """Put together what is to be planned.

    Args:
        cluster: The machines.
        machine: The constants of each.
        source: `--rows`, `--table`, `--data`, `--fields`, `--exponent`.
        num_numbers: Numbers of an example, unless a data set tells.
        wanted: The model's name, and all settings.
        examples: Of an epoch, unless a data set tells; 0 if unknown.
        overlap: Part of the exchange that is hidden.

    Raises:
        ConfigError: If a setting is wrong.
    """
    from scalerec.data.dataset import Dataset
    from scalerec.distributed import DistributedConfig
    from scalerec.distributed.planning import Job, measured_reads, model_shape, plain_layout

    rows, tables, data, fields, exponent = source
    spec, train, distributed = _settings(*wanted)
    if data is not None:
        dataset = Dataset(data)
        layout, reads = dataset.layout, measured_reads(dataset)
        examples = examples or dataset.num_rows("train")
    else:
        reads = read_tables(rows, tables, fields, exponent)
        layout = plain_layout(reads, num_numbers)
    return Job(
        cluster=cluster,
        machine=machine,
        shape=model_shape(layout, spec),
        reads=reads,
        train=train,
        distributed=DistributedConfig.from_dict(distributed, "distributed"),
        examples=examples,
        overlap=overlap,
    )


def _settings(
    model: str, values: dict[str, Any]
) -> tuple["ModelSpec", "TrainConfig", dict[str, Any]]:
    """The model, the settings of training, and those of several processes."""
    from scalerec.errors import ConfigError
    from scalerec.train.lineage import read_run

    rest = dict(values)
    net, distributed = rest.pop("model", {}), rest.pop("distributed", {})
    for name, own in (("model", net), ("distributed", distributed)):
        if not isinstance(own, dict):
            raise ConfigError(f"settings: [{name}] must be a table of settings; got {own!r}")
    return *read_run(model, net, rest), distributed


def read_tables(
    rows: str | None, tables: list[str], fields: int, exponent: float
) -> "dict[str, TableReads]":
    """The tables that options name.

    Args:
        rows: Of all tables together, as many as `fields`, of one size.
        tables: `NAME=ROWS` or `NAME=ROWS:IDS` each.
        fields: See `rows`.
        exponent: Of the law of ids.

    Raises:
        ConfigError: If none is named, one twice, or one is not of this form.
    """
    from scalerec.distributed.planning import TableReads
    from scalerec.distributed.planning.units import parse_count
    from scalerec.errors import ConfigError

    if (rows is None) == (not tables):
        raise ConfigError("a plan needs tables: give one of --rows, --table or --data")
    found = {}
    if rows is not None:
        total = parse_count(rows, "--rows")
        sizes = [max(1, (total + i) // fields) for i in range(fields)]
        return {
            f"c{i + 1}": TableReads(rows=size, exponent=exponent) for i, size in enumerate(sizes)
        }
    for word in tables:
        name, equals, text = word.partition("=")
        size, colon, ids = text.partition(":")
        if not (name and equals) or name in found:
            raise ConfigError(
                f"--table needs NAME=ROWS or NAME=ROWS:IDS, each name once; got {word!r}"
            )
        lookups = parse_count(ids, f"--table {name}") if colon else 1
        number = parse_count(size, f"--table {name}")
        found[name] = TableReads(rows=number, lookups=float(lookups), exponent=exponent)
    return found


def _machine(path: Path | None, calibrate: Path | None) -> "Machine":
    """The constants to plan with."""
    from scalerec.distributed.planning import read_machine, stored_machine, write_machine
    from scalerec.errors import ConfigError

    if calibrate is None:
        return stored_machine() if path is None else read_machine(path)
    if path is not None:
        raise ConfigError("--calibrate measures what --machine would read; give one of them")
    from scalerec.distributed.planning.calibrate import calibrate as measure

    found = measure(tell=lambda text: note(f"measuring {text} ..."))
    write_machine(calibrate, found)
    note(f"wrote {calibrate}")
    return found


def _show_machine(machine: "Machine", *, as_json: bool) -> None:
    if as_json:
        print_json(machine.to_dict())
        return
    plain: dict[str, Any] = {}
    for name, value in machine.to_dict().items():
        if isinstance(value, dict):
            plain |= {f"{name}.{part}": own for part, own in value.items()}
        else:
            plain[name] = value
    print_pairs(plain)


def _plain(job: "Job", found: "Prediction") -> dict[str, Any]:
    """The plan as JSON has it."""
    from scalerec.distributed.planning import advise, smallest_nodes

    return {
        "processes": job.world,
        "batch_size": job.train.batch_size,
        "rows": job.num_rows,
        "distinct_rows_per_step": job.distinct(job.batch),
        "parameters": job.shape.num_parameters,
        "placements": job.placements(),
        "machine": {"name": job.machine.name, "date": job.machine.date},
        **found.to_dict(),
        "smallest_nodes": smallest_nodes(job),
        "advice": [
            {"change": own.change, "gain": own.gain, "fits": own.fits, "note": own.note}
            for own in advise(job, found)
        ],
    }


def _show(job: "Job", found: "Prediction") -> None:
    """The plan as a person reads it."""
    from scalerec.distributed.planning import advise
    from scalerec.distributed.planning.advice import fewest_nodes_text
    from scalerec.distributed.planning.units import show_bytes, show_count, show_time

    cluster = job.cluster
    print_pairs(
        {
            "machines": f"{cluster.nodes:,}; each: {cluster.cores} cores, "
            f"{show_bytes(cluster.memory_bytes)}; processes: {cluster.processes}, threads of a "
            f"process: {cluster.threads_each}",
            "constants": f"{job.machine.name}, measured {job.machine.date}",
            "tables": f"{len(job.reads)} with {show_count(job.num_rows)} rows of "
            f"{job.shape.width} numbers; {_kinds(job)}",
            "batch": f"{job.train.batch_size:,} of all, {job.batch:,.0f} of a process, which "
            f"reads {job.distinct(job.batch):,.0f} distinct rows",
            "dense part": f"{job.shape.num_parameters:,} numbers, "
            f"{job.shape.flops / 1e6:,.1f} MFLOP an example",
        }
    )
    total = sum(found.memory.values())
    parts = [[name, show_bytes(size)] for name, size in found.memory.items()]
    print_table(["memory of a process", "size"], [*parts, ["total", show_bytes(total)]])
    if found.sent.bytes_by:
        sent = [[name, show_bytes(size)] for name, size in found.sent.bytes_by.items()]
        rest = ["total", show_bytes(found.sent.total)]
        print_table(["sent by a process in a step", "size"], [*sent, rest])
    times = [[f"compute: {name}, of a core", show_time(t)] for name, t in found.work.items()]
    times += [[name, show_time(t)] for name, t in found.step.items() if t]
    print_table(["time of a step", "time"], [*times, ["total", show_time(found.step_s)]])
    pairs = {
        "examples/s": f"{found.examples_per_s:,.0f}",
        "efficiency": f"{found.efficiency:.0%} of {job.world} times one process with all rows",
        "checkpoint": f"{show_bytes(found.checkpoint_bytes)}, written in "
        f"{show_time(found.checkpoint_s)}, read in {show_time(found.restart_s)}",
    }
    if found.epoch_s is not None:
        pairs["epoch"] = f"{show_time(found.epoch_s)} for {show_count(job.examples)} examples"
    if found.price is not None:
        pairs["price of an epoch"] = f"{found.price:,.2f}"
    pairs["what binds"] = found.binds
    if not found.fits:
        pairs["does not fit"] = (
            f"a machine needs {show_bytes(found.node_memory)} of its "
            f"{show_bytes(cluster.memory_bytes)}; {fewest_nodes_text(job)}"
        )
    print_pairs(pairs)
    _show_advice(advise(job, found))


def _show_advice(found: "list[Advice]") -> None:
    from scalerec.distributed.planning.units import show_bytes

    rows = [
        [
            own.change,
            f"{own.gain:.2f}",
            show_bytes(own.memory),
            "yes" if own.fits else "no",
            own.note,
        ]
        for own in found
    ]
    if rows:
        print_table(["what would help", "times as fast", "a machine's memory", "fits", ""], rows)


def _kinds(job: "Job") -> str:
    """How many tables are kept in which way."""
    if job.is_dense:
        return "so small that every process trains all of them"
    kinds = [placement.partition(":")[0] for placement in job.placements().values()]
    return ", ".join(f"{kinds.count(kind)} kept by {kind}" for kind in dict.fromkeys(kinds))
