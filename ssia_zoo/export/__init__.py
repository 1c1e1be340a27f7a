"""Export models to other runtimes and check their answers against PyTorch."""
