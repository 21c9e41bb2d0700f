"""What one GPU does with this project, part by part: benchmarks/gpu.sh."""
