"""What the plan says of the runs that were measured: memory, and seconds of a step."""

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.training import ACCUMULATION, BATCH, LAYER_ID, LORA_RANK, TRAINED_LAYERS
from spunge.planning import cost_model

MEMORY_WITHIN, TIME_WITHIN = 1.1, 1.5


def plan(machine: Machine) -> None:
    """Report for each measured run what the arithmetic gives, and whether the two are as near as they should be."""
    sizes = machine.sizes
    tokens = BATCH * sizes.tokens
    for part, shape in (("rmu_7b", sizes.seven), ("rmu_70b", sizes.seventy)):
        memory = cost_model.rmu_memory(shape, LAYER_ID, TRAINED_LAYERS, 2 * tokens)
        for kind in ("first", "cached"):
            operations = cost_model.rmu_operations(
                shape, LAYER_ID, TRAINED_LAYERS, tokens, sizes.tokens, at_hand=kind == "cached"
            )
            _compare(machine, part, kind, operations, sum(memory.values()))
    for method, batches in (("tvn", 1), ("npo", 2)):
        for checkpointed in (True, False):
            kind = f"{method}{', checkpointed' if checkpointed else ''}"
            operations = batches * cost_model.training_operations(
                sizes.seven, tokens, sizes.tokens, lora=True, checkpointed=checkpointed
            )
            trained, frozen = sizes.seven.lora(LORA_RANK), sizes.seven.parameters
            micro_batch = tokens // ACCUMULATION
            memory = cost_model.training_memory(sizes.seven, micro_batch, trained, frozen, checkpointed)
            _compare(machine, "gradient_7b", kind, operations, sum(memory.values()))


def _compare(machine: Machine, part: str, kind: str, operations: float, memory: float) -> None:
    measured = machine.measured.get(part, {})
    for what, quantity, expected, within in (
        ("step", "seconds", operations / (cost_model.UTILISATION * cost_model.H100_PEAK), TIME_WITHIN),
        ("peak", "bytes", memory, MEMORY_WITHIN),
    ):
        if (actual := measured.get(f"{kind} {what}")) is None:
            continue
        near = max(actual / expected, expected / actual) <= within
        row = {"planned": expected, "measured": actual, "unit": quantity, "within": within, "near": near}
        machine.report(f"{part}: {kind} {what}", row)
