"""Check on a GPU that half precision does what fp32 on the CPU does: RMU, and TVN with LoRA, on a small random Llama.

python benchmarks/gpu_check.py          (--device cpu tries the check itself without a GPU)
"""

import argparse
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))

from spunge import errors  # noqa: E402

STEPS = 8
LOSSES = 0.05  # relative; bf16 has 8 bits, so 0.4 % a number
DIRECTION = 0.9  # least cosine between what the two precisions changed


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and check; return the exit code, 1 where a result is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    device = parser.parse_args(argv).device

    def work() -> None:
        import torch

        from benchmarks import rmu
        from spunge import account, methods
        from spunge.errors import InputError

        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("no GPU is visible")
        shape = account.ModelShape("small", 256, 10, 688, 4, 4, 320)
        tokens = {"max_tokens_forget": 64, "max_tokens_retain": 64}
        settings = {
            "rmu": {**rmu.OPTIONS, **tokens, "steps": STEPS, "learning_rate": 1e-3},
            "tvn": {**tokens, "steps": STEPS, "learning_rate": 1e-3, "batch_size": 4, "trained": "lora"},
        }
        # Drawn on the CPU and in fp32, so that both precisions start from one and the same model.
        with rmu.random_model(rmu.Big(shape, 64, "cpu"), torch.float32) as base:
            for name, options in settings.items():
                if name not in methods.known():
                    print(f"{name}: not there")
                    continue
                found = {}
                for where, dtype in ((device, "bfloat16"), ("cpu", "float32")):
                    module = methods.load(name)
                    run = methods.Run(base, rmu.texts(32, 64, 0), rmu.texts(32, 64, 1), 0, where, label=name)
                    found[dtype] = module.unlearn(run, methods.options(module, {**options, "dtype": dtype}))
                print(f"{name}: {_compare(name, found['bfloat16'], found['float32'])}")

    return errors.run(work)


def _compare(name: str, half, full) -> str:
    """Return what was compared, in words; raise InputError where the two differ by more than rounding."""
    import torch

    from spunge.errors import InputError

    widest = 0.0
    for one, other in zip(half.losses, full.losses, strict=True):
        off = abs(one["forget_loss"] - other["forget_loss"]) / abs(other["forget_loss"])
        widest = max(widest, off)
        if not off <= LOSSES:
            raise InputError(
                f"{name}: the forget loss of step {one['step']:.0f} is {one['forget_loss']:.6g} in bf16, "
                f"{other['forget_loss']:.6g} in fp32"
            )
    cosines = []
    for key, reference in full.delta.items():
        delta = half.delta[key]
        if delta.dtype != torch.float32 or not torch.isfinite(delta).all():
            raise InputError(f"{name}: what changed in {key} is {delta.dtype}, or not finite")
        cosines.append(torch.nn.functional.cosine_similarity(delta.flatten(), reference.flatten(), dim=0).item())
    if min(cosines) < DIRECTION:
        raise InputError(f"{name}: the changes in bf16 and fp32 have a cosine of only {min(cosines):.3f}")
    return (
        f"{len(half.losses)} losses within {widest:.2%} of fp32 on the CPU, {len(cosines)} fp32 tensors changed, "
        f"all finite, cosine {min(cosines):.4f} or more"
    )


if __name__ == "__main__":
    sys.exit(main())
