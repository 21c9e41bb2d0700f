"""What a GPU would refuse, the stand-in for one does, too."""

import subprocess

import pytest

REFUSED = {
    "a sum over two devices": "on_gpu + torch.ones(3)",
    "a GPU's numbers into the CPU's": "torch.ones(3).add_(on_gpu)",
    "a CPU's tensor by a GPU's index": "torch.ones(3)[on_gpu.long()]",
    "NumPy": "on_gpu.numpy()",
    "an array": "__import__('numpy').asarray(on_gpu)",
    "a GPU's pinned memory": "on_gpu.pin_memory()",
    "the CPU's generator": "on_gpu.normal_(generator=torch.Generator())",
}
TAKEN = {
    "a copy to the GPU": "torch.ones(3).to('cuda').device.type == 'cuda'",
    "a copy to the CPU": "type(on_gpu.cpu()) is torch.Tensor",
    "a CPU's number": "(on_gpu + torch.tensor(2.0)).tolist() == [3, 3, 3]",
    "a CPU's index": "on_gpu[torch.tensor([0, 2])].shape == (2,)",
    "a list of indices": "on_gpu[[0, 2]].shape == (2,)",
    "the CPU's pinned memory": "torch.ones(3, pin_memory=True).pin_memory().to('cuda').tolist() == [1, 1, 1]",
    "the GPU's product": "(on_gpu @ torch.ones(3, 2, device='cuda')).tolist() == [3, 3]",
}
SENTENCES = ("RuntimeError: Expected", "RuntimeError: cannot pin", "TypeError: can't convert cuda")


@pytest.mark.parametrize("what", [*REFUSED, *TAKEN])
def test_what_is_refused_and_what_is_taken(what, quick_python, tmp_path, monkeypatch):
    script = tmp_path / "scripts" / "one.py"
    script.parent.mkdir()
    code = REFUSED.get(what) or f"assert {TAKEN[what]}"
    script.write_text(f"import torch\non_gpu = torch.ones(3, device='cuda')\n{code}\n")
    monkeypatch.setenv("STAND_IN_GPU", "1")
    done = subprocess.run([quick_python, script], capture_output=True, text=True)
    assert bool(done.returncode) == (what in REFUSED), done.stderr
    assert what in TAKEN or any(sentence in done.stderr for sentence in SENTENCES)
