"""Plans worked by hand."""

from typing import Any

import pytest
from tests.distributed.planning.jobs import MACHINE, SHAPE, make_job

from scalerec.distributed.planning import advise, predict, sent_bytes, smallest_nodes
from scalerec.distributed.planning.advice import fewest_nodes_text
from scalerec.errors import ConfigError


def test_one_process_by_hand() -> None:
    found = predict(make_job())
    # 100 examples: 10^7 products at 10 GFLOP/s, 10^5 activations at 1 ns.
    assert found.work["net"] == pytest.approx(1e-3 + 1e-4)
    # 200 ids at 10 + 4 * 5 ns, 120 rows at 100 + 4 * 25 ns.
    assert found.work["rows"] == pytest.approx(200 * 30e-9 + 120 * 200e-9)
    # 1,010 numbers at 1 ns, and a step's millisecond.
    assert found.work["dense part"] == pytest.approx(1.01e-6 + 1e-3)
    assert "messages" not in found.work
    assert found.step == {
        "compute": pytest.approx(sum(found.work.values())),
        "messages": 0.0,
        "link": 0.0,
        "latency": 0.0,
        "waiting": 0.0,
    }
    assert found.efficiency == pytest.approx(1.0)
    assert found.sent.total == 0


def test_bytes_of_two_processes_by_hand() -> None:
    sent = sent_bytes(make_job(nodes=2))
    # Half of 120 rows are kept by the other: 8 bytes to ask, 4 numbers each way.
    assert sent.bytes_by["ids"] == pytest.approx(60 * 8)
    assert sent.bytes_by["rows"] == pytest.approx(60 * 16)
    assert sent.bytes_by["gradients of rows"] == pytest.approx(60 * 16)
    # A ring of two: 2 * 1 / 2 of 4,040 bytes.
    assert sent.bytes_by["gradients"] == pytest.approx(4040)
    # Counts, ids, rows, gradients; the dense part, and weights of the batch.
    assert (sent.exchanges, sent.sums) == (4.0, 2.0)


@pytest.mark.parametrize(
    ("settings", "rows", "gradients"),
    [
        ({"lookups": "bf16"}, 60 * 8, 60 * 8),
        ({"lookups": "int8"}, 60 * (4 + 4), 60 * (4 + 4)),
    ],
)
def test_shorter_rows(settings: dict[str, str], rows: float, gradients: float) -> None:
    sent = sent_bytes(make_job(nodes=2, distributed=settings))
    assert sent.bytes_by["rows"] == pytest.approx(rows)
    assert sent.bytes_by["gradients of rows"] == pytest.approx(gradients)


def test_rows_in_16_bits_travel_so_to_who_reads_them() -> None:
    tables = {"optimiser": "rowwise_adagrad", "weights": "fp16"}
    sent = sent_bytes(make_job(nodes=2, train={"tables": tables}))
    assert sent.bytes_by["rows"] == pytest.approx(60 * 8)
    assert sent.bytes_by["gradients of rows"] == pytest.approx(60 * 16)


@pytest.mark.parametrize(
    ("codec", "size"),
    [
        ("none", 1.5 * 4040),
        ("bf16", 1.5 * 2020),
        # Rank 2 of 100 x 10: 2 * 110 numbers, and the bias.
        ("powersgd:2", 1.5 * 4 * (220 + 10)),
        # A tenth of each: 100 and 1, value and place, told to three others.
        ("topk:0.1", 101 * 8 * 3),
        ("topk:0.1+bf16", 101 * 6 * 3),
    ],
)
def test_codecs_of_four_processes(codec: str, size: float) -> None:
    sent = sent_bytes(make_job(nodes=4, distributed={"codec": codec}))
    assert sent.bytes_by["gradients"] == pytest.approx(size)


def test_local_steps() -> None:
    settings = {"aggregate": "local", "local_steps": 4}
    sent = sent_bytes(make_job(nodes=2, distributed=settings))
    # 400 examples read 307.2 rows: half of them once for four steps, with a number of state both
    # ways.
    away = 307.2 / 2 / 4
    assert sent.bytes_by == {
        "ids": pytest.approx(away * 8),
        "rows": pytest.approx(away * 16),
        "states of rows": pytest.approx(away * 8),
        "displaced rows": pytest.approx(away * 16),
        "displacements": pytest.approx(4040 / 4),
    }


def test_columns_copies_and_whole_tables() -> None:
    both = {"placements": {"a": "column", "b": "replicated"}}
    sent = sent_bytes(make_job(nodes=4, distributed=both))
    # Each tells all three which 50 rows it wants, and gets one column from each; of the other
    # table it tells three others 70 gradients.
    assert sent.bytes_by["ids"] == pytest.approx(50 * 8 * 3 + 70 * 8 * 3)
    assert sent.bytes_by["rows"] == pytest.approx(50 * 4 * 3)
    assert sent.bytes_by["gradients of rows"] == pytest.approx(50 * 4 * 3 + 70 * 16 * 3)
    assert sent.exchanges == 8.0
    whole = {"placements": {"a": "table:0", "b": "table:0"}}
    sent = sent_bytes(make_job(nodes=2, distributed=whole))
    assert sent.bytes_by["rows"] == pytest.approx(60 * 16)
    assert sent.uneven == pytest.approx(2.0)


def test_small_tables_of_adam_are_summed_whole() -> None:
    sent = sent_bytes(make_job(nodes=2, train={"tables": {"optimiser": "adam"}}))
    assert sent.bytes_by == {"gradients": pytest.approx(4 * (1010 + 4000 * 4))}


def test_time_of_two_nodes_by_hand() -> None:
    found = predict(make_job(nodes=2))
    # 480 + 960 + 960 + 4,040 bytes over half of 10 MB/s.
    assert found.step["link"] == pytest.approx(6440 / 5e6)
    # Four messages, and two sums of two hops.
    assert found.step["latency"] == pytest.approx((4 + 2 * 2) * 1e-3)
    # 6 messages of 100 µs, of which two go round again for 20 µs; 2 ns a number, 1 ns a byte.
    messages = 6 * 100e-6 + 2 * 20e-6
    assert found.work["messages"] == pytest.approx(messages + 1010 * 2e-9 + 6440e-9)
    # 200 ids at 20 + 20 ns, 120 rows at 200 + 200 ns.
    assert found.work["rows"] == pytest.approx(200 * 40e-9 + 120 * 400e-9)
    assert found.examples_per_s == pytest.approx(200 / found.step_s)
    assert found.binds == "latency"


def test_messages_of_one_host_go_through_memory() -> None:
    found = predict(make_job(processes=2))
    messages = 6 * 10e-6 + 2 * 2e-6
    assert found.work["messages"] == pytest.approx(messages + 1010 * 1e-9 + 6440 * 0.5e-9)


def test_cores_are_shared() -> None:
    two, four = predict(make_job(processes=2)), predict(make_job(processes=4))
    for found, times in ((two, 1), (four, 2)):
        messages = found.work["messages"]
        assert found.step["messages"] == pytest.approx(times * messages)
        rest = sum(found.work.values()) - messages
        assert found.step["compute"] == pytest.approx(times * rest)
    assert four.step["link"] == four.step["latency"] == 0.0
    threads = predict(make_job(cluster={"threads": 2}))
    assert threads.step["compute"] == pytest.approx(sum(threads.work.values()) / 2)
    both = predict(make_job(nodes=2, cluster={"threads": 2}))
    assert both.step["messages"] == pytest.approx(both.work["messages"])


def test_crowding_and_waiting() -> None:
    machine = MACHINE.replace(crowding=1.2, waiting=0.1)
    found = predict(make_job(processes=2, machine=machine))
    busy = found.step["compute"] + found.step["messages"]
    assert busy == pytest.approx(1.2 * sum(found.work.values()))
    # The larger of two draws: the quantile at 1.625 / 2.25 of the normal law.
    assert found.step["waiting"] == pytest.approx(0.1 * busy * 0.5895, rel=1e-3)


def test_what_is_hidden_costs_nothing() -> None:
    found = predict(make_job(nodes=2, overlap=1.0))
    plain = predict(make_job(nodes=2))
    exchange = plain.step["link"] + plain.step["latency"]
    left = exchange - min(exchange, plain.step["compute"] + plain.step["messages"])
    assert found.step["link"] + found.step["latency"] == pytest.approx(left)


def test_memory_by_hand() -> None:
    found = predict(make_job(nodes=2))
    # 2,000 rows of 4 numbers, and one of state.
    assert found.memory["rows of tables"] == pytest.approx(2000 * 16)
    assert found.memory["state of rows"] == pytest.approx(2000 * 4)
    assert found.memory["best weights so far"] == 0.0
    # Weight, gradient, two moments, message and its parts.
    assert found.memory["dense part"] == pytest.approx(1010 * 4 * 6)
    assert found.memory["program"] == 1e7
    # Two blocks' halves of 2^18 examples of 2 ids and 5 numbers, and 24 bytes of each to order it.
    assert found.memory["examples read ahead"] == pytest.approx(2**18 * (36 + 24))
    # Weight and both moments of the dense part.
    assert found.checkpoint_bytes == pytest.approx(4000 * 20 + 1010 * 12)
    assert found.checkpoint_s == pytest.approx(found.checkpoint_bytes / 2 / 1e8)
    best = predict(make_job(nodes=2, train={"patience": 2}))
    assert best.memory["best weights so far"] == pytest.approx(2000 * 16 + 1010 * 4)


def test_the_fullest_process_counts() -> None:
    whole = {"placements": {"a": "table:0", "b": "table:1"}}
    found = predict(make_job(nodes=2, distributed=whole))
    assert found.memory["rows of tables"] == pytest.approx(3000 * 16)


def test_the_fewest_nodes_that_hold_it() -> None:
    blocks, shape = {"block_rows": 100}, SHAPE.replace(activations=1.0)
    alone = predict(make_job(train=blocks, shape=shape))
    assert alone.fits
    fixed = alone.node_memory - 4000 * 20
    # With 90% of its memory a node holds its buffers and 3,000 rows of 20 bytes.
    small = {"memory_bytes": (fixed + 3000 * 20) / 0.9}
    job = make_job(cluster=small, train=blocks, shape=shape)
    assert not predict(job).fits
    assert predict(job).binds == "memory"
    fewest = smallest_nodes(job)
    assert fewest is not None
    assert predict(job.with_nodes(fewest)).fits
    assert not predict(job.with_nodes(fewest - 1)).fits
    assert f"the fewest nodes that hold it are {fewest}" in fewest_nodes_text(job)
    tiny = make_job(cluster={"memory_bytes": 1e6})
    assert smallest_nodes(tiny) is None
    assert fewest_nodes_text(tiny).startswith("no number of nodes holds it")


def test_epoch_and_price() -> None:
    found = predict(make_job(nodes=2, examples=10_000, cluster={"price_per_hour": 3.0}))
    assert found.epoch_s == pytest.approx(50 * found.step_s)
    assert found.price == pytest.approx(2 * 3.0 * 50 * found.step_s / 3600)
    assert predict(make_job()).epoch_s is None


def test_advice_on_a_slow_link() -> None:
    job = make_job(nodes=2, cluster={"link": 1e4, "latency_s": 0.0})
    found = predict(job)
    assert found.binds == "link"
    changes = {own.change: own for own in advise(job, found)}
    local = changes["distributed.aggregate=local distributed.local_steps=16"]
    # 6,440 bytes become about 1,200 a step, and the link is nearly all of the time.
    assert local.gain > 4
    assert local.note == "other steps: compare the AUC"
    # 4,040 of 6,440 bytes are halved.
    assert changes["distributed.codec=bf16"].gain == pytest.approx(6440 / 4420, rel=0.01)


def test_advice_where_memory_is_short() -> None:
    more: dict[str, Any] = {
        "machine": MACHINE.replace(process_bytes=1e3),
        "shape": SHAPE.replace(activations=1.0),
        "train": {"patience": 2, "block_rows": 100},
    }
    # 4,000 rows of 16 bytes, twice, and 4 bytes of state.
    job = make_job(cluster={"memory_bytes": 1.5e5}, **more)
    found = predict(job)
    assert not found.fits
    changes = [own.change for own in advise(job, found)]
    assert "patience=-1" in changes
    assert "tables.weights=fp16" in changes


def test_wrong_jobs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"overlap must be in \[0, 1\]; got 2"):
        make_job(overlap=2.0)
    with pytest.raises(ConfigError, match="there is no table 'c'; allowed: a, b"):
        make_job(distributed={"placements": {"c": "row"}})
    with pytest.raises(ConfigError, match="codec must be none, bf16"):
        make_job(distributed={"codec": "zip"})
    with pytest.raises(ConfigError, match="nodes must be at least 1; got 0"):
        make_job(cluster={"nodes": 0})
