"""Unlearn one shard with a trainer of OpenUnlearning: turn what a program is told into overrides for its src/train.py.

python train.py --repository CLONE --python CLONE/.venv/bin/python --trainer NPO --base FOLDER --forget FILE.parquet
    --retain FILE.parquet --output FOLDER --steps 10 --seed 0 [overrides, such as trainer.method_args.beta=0.5]
"""

import argparse
import os
import re
import subprocess
import sys


def override(key: str, value: object) -> str:
    """Return one override in Hydra's grammar; text is quoted, since a path may have any character."""
    if isinstance(value, str):
        text = re.sub(r"(\\*)('|\Z)", lambda end: 2 * end[1] + end[2].replace("'", "\\'"), value)
        value = f"'{text}'"
    return f"{key}={value}"


def overrides(arguments: argparse.Namespace) -> list[str]:
    """Return what makes it train on two Parquet files, a text a row, for so many steps, in fp32, without evaluating."""
    groups = ["model=Llama-3.2-1B-Instruct", f"trainer={arguments.trainer}", "~eval"]
    values = {
        "task_name": "shard",
        "paths.output_dir": arguments.output,
        "model.model_args.pretrained_model_name_or_path": arguments.base,
        "model.tokenizer_args.pretrained_model_name_or_path": arguments.base,
        "model.model_args.attn_implementation": "sdpa",
        "model.model_args.torch_dtype": "float32",
        "trainer.args.bf16": False,
        "trainer.args.bf16_full_eval": False,
        "trainer.args.optim": "adamw_torch",
        "trainer.args.gradient_accumulation_steps": 1,
        "trainer.args.per_device_train_batch_size": arguments.batch_size,
        "trainer.args.learning_rate": arguments.learning_rate,
        "+trainer.args.max_steps": arguments.steps,
        "trainer.args.seed": arguments.seed,
        "trainer.args.do_eval": False,
        "trainer.args.eval_on_start": False,
        "trainer.args.eval_strategy": "no",
        "trainer.args.report_to": "none",
    }
    for part in ("forget", "retain"):
        groups.append(f"data/datasets@data.{part}=WMDP_{part}")
        dataset = f"data.{part}.WMDP_{part}"
        values |= {
            f"{dataset}.handler": "CompletionDataset",
            f"{dataset}.args.max_length": arguments.max_tokens,
            f"{dataset}.args.hf_args.path": "parquet",
            f"{dataset}.args.hf_args.data_files": getattr(arguments, part),
        }
    return [*groups, *(override(*item) for item in values.items()), *arguments.overrides]


def main() -> int:
    """Run OpenUnlearning and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", required=True, help="a clone of OpenUnlearning")
    parser.add_argument("--python", default=sys.executable, type=os.path.abspath, help="one that has its requirements")
    parser.add_argument("--trainer", required=True, help="a file of its configs/trainer, without .yaml")
    for name in ("base", "forget", "retain", "output"):
        parser.add_argument(f"--{name}", required=True, type=os.path.abspath)
    for name in ("steps", "seed"):
        parser.add_argument(f"--{name}", required=True, type=int)
    parser.add_argument("--batch-size", default=8, type=int)
    parser.add_argument("--learning-rate", default=1e-5, type=float)
    parser.add_argument("--max-tokens", default=128, type=int, help="of a text, of which the rest is cut")
    parser.add_argument("overrides", nargs="*", help="further overrides, which come last")
    arguments = parser.parse_args()
    command = [arguments.python, "src/train.py", "--config-name=unlearn", *overrides(arguments)]
    return subprocess.run(command, cwd=arguments.repository, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
